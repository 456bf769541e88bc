"""LanguageModelEncoder: a language model's own hidden state at the last token of a description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from text_to_lora.encoders.base import BatchedEncoder, pad_right, pool, tokenize
from text_to_lora.encoders.config import TextSettings
from text_to_lora.encoders.model_files import find_folder, load_strictly, module_hash
from text_to_lora.errors import ConfigError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens of a description that the reference implementation reads at most.
_MAX_TOKENS = 8192
_HEADED = ("ForCausalLM", "LMHeadModel")  # architectures of a decoder with its language head


@final
class LanguageModelEncoder(BatchedEncoder):
    """The last hidden layer of a decoder (after its final norm) at the last token.

    Batches are padded here, on the right, whatever the tokenizer's padding side.

    model: a decoder in eval mode, with or without its head, used in its dtype and on its device
    name, revision: what to load later to get the same encoder; None for the model's own
    Source: Text-to-LoRA (arXiv 2506.06105), ablation of the task encoder (Table 4).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: TextSettings | None = None,
        *,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        self._decoder: Any = model.base_model
        self._tokenizer: Any = tokenizer
        self._unknown_id = getattr(tokenizer, "unk_token_id", None)
        text_config = model.config.get_text_config()
        super().__init__(
            "language-model",
            name or str(model.config.name_or_path),
            revision=revision,
            embedding_dim=text_config.hidden_size,
            model_limit=min(text_config.max_position_embeddings, _MAX_TOKENS),
            pooling="last",
            weights=module_hash(self._decoder),
            settings=settings,
        )

    @classmethod
    def load(
        cls,
        name: str,
        settings: TextSettings | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> LanguageModelEncoder:
        """Load a model of the hub or a local folder in the dtype of its checkpoint.

        Raises ConfigError when there is no such model.
        """
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

        folder, commit = find_folder(name, revision)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # whatever transformers and tokenizers raise for broken files
            raise ConfigError(
                f"the text encoder in {str(folder)!r} cannot be loaded: {first_line(error)}"
            ) from error
        # With its head where it has one: alone, a decoder such as BERT's would want a pooler too.
        headed = str((config.architectures or [""])[0]).endswith(_HEADED)
        model = load_strictly(AutoModelForCausalLM if headed else AutoModel, folder, dtype="auto")
        return cls(model.to(device), tokenizer, settings, name=name, revision=commit)

    def _tokenize(self, prepared: list[str], *, special: bool) -> list[list[int]]:
        return tokenize(self._tokenizer, prepared, special=special)

    def _embed(self, prepared: list[str]) -> Tensor:
        if self._decoder.training:
            raise ConfigError("the language model is in training mode; call model.eval() first")
        encoded = self._tokenizer(prepared, truncation=True, max_length=self.config.max_tokens)
        tokens, mask = pad_right(encoded["input_ids"], self._decoder.device)
        hidden = self._decoder(
            input_ids=tokens, attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
        return pool(hidden, mask, "last")
