"""TextToLora, the facade: a sentence in, a working adapter out; the base's weights stay on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

import text_to_lora
from text_to_lora.encoders import TextEncoder, load_encoder
from text_to_lora.encoders.base import read_tokens
from text_to_lora.errors import ConfigError, first_line
from text_to_lora.files import write_folder
from text_to_lora.hypernet.checkpoint import Loaded, load_hypernet, save_hypernet
from text_to_lora.hypernet.descriptions import NearestDescription
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.lora.apply import adapted, merge
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.models.base import load_base
from text_to_lora.models.cache import fetch_base
from text_to_lora.models.find import base_to_load, find_hypernet, is_embedded
from text_to_lora.models.llama_reader import LlamaReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Adapters:
    """Generated adapters with where each came from.

    weights: one adapter a description; provenance: JSON of each, written beside it
    nearest: the training description nearest to each; None where the hypernetwork stores none, and
        for blends
    """

    weights: LoraWeights
    descriptions: tuple[str, ...]
    provenance: tuple[Mapping[str, Any], ...]
    nearest: tuple[NearestDescription | None, ...]

    def __len__(self) -> int:
        return len(self.descriptions)

    def on(
        self, model: PreTrainedModel, rows: Sequence[int] | Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Put the adapters on a live model for a `with` block: row i uses adapter rows[i]."""
        return adapted(model, self.weights, rows)

    def merge_into(self, model: PreTrainedModel) -> None:
        """Add the one adapter to a model's weights for good.

        Raises SpecError for several adapters or another base.
        """
        merge(model, self.weights)

    def scale(self, strength: float) -> Adapters:
        """The same adapters with ΔW times `strength`."""
        provenance = tuple(
            {**entry, "strength": entry["strength"] * strength} for entry in self.provenance
        )
        return replace(self, weights=self.weights.scale(strength), provenance=provenance)

    def unbind(self) -> list[Adapters]:
        """Each adapter on its own."""
        parts = zip(
            self.weights.unbind(), self.descriptions, self.provenance, self.nearest, strict=True
        )
        return [
            Adapters(weights, (text,), (entry,), (near,)) for weights, text, entry, near in parts
        ]

    def blend(self, coefficients: Sequence[float] | None = None) -> Adapters:
        """One adapter whose ΔW is the weighted sum of these; None for their mean.

        Exact in ΔW; its rank is theirs added up.

        Raises ConfigError when there is not one coefficient an adapter.
        """
        shares = [1 / len(self)] * len(self) if coefficients is None else list(coefficients)
        if len(shares) != len(self):
            raise ConfigError(f"{len(shares)} coefficients for {len(self)} adapters; give one each")
        of_one = ("nearest_description", "tokens", "tokens_read", "tokens_unknown")
        first = {k: value for k, value in self.provenance[0].items() if k not in of_one}
        entry = {
            **first,
            "description": " + ".join(self.descriptions),
            "blend": [
                {"coefficient": share, "description": text}
                for share, text in zip(shares, self.descriptions, strict=True)
            ],
        }
        weights = self.weights.blend(torch.tensor([shares]))
        return Adapters(weights, (entry["description"],), (entry,), (None,))

    def save(
        self,
        path: Path | str,
        *,
        scale_safe: bool = True,
        dtype: torch.dtype | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write PEFT folders: one adapter into `path`, several into numbered folders below it.

        Whole or not at all. Returns the adapters' folders.

        Raises ConfigError when `path` exists without `overwrite` or cannot be written.
        """
        target = Path(path)
        options: dict[str, Any] = {"scale_safe": scale_safe, "dtype": dtype}
        if len(self) == 1:
            entry = self.provenance[0]
            save_adapter(self.weights, target, provenance=entry, overwrite=overwrite, **options)
            return [target]
        width = len(str(len(self)))
        names = [
            f"{number:0{width}}-{_slug(text)}" for number, text in enumerate(self.descriptions, 1)
        ]
        with write_folder(target, overwrite=overwrite) as temporary:
            for name, adapter in zip(names, self.unbind(), strict=True):
                adapter.save(temporary / name, **options)
        return [target / name for name in names]

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the adapters to the hub as `save` writes them; gives the address of the commit.

        repo_id: OWNER/NAME; made when it does not exist

        Raises ConfigError when the hub refuses.
        """
        return _upload(self.save, repo_id, "adapter", private=private, token=token)


class TextToLora:
    """A trained hypernetwork with its text encoder.

    >>> t2l = TextToLora.from_pretrained("embedded")
    >>> adapters = t2l.generate(["Decide whether a film review is positive or negative"])
    >>> adapters.save("review-adapter")
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        name: str,
        encoder: TextEncoder | None = None,
        base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self._loaded = loaded
        self._given_base = base
        self._given_encoder = encoder
        self._cache_dir = cache_dir
        self.name = name

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "embedded",
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        encoder: TextEncoder | None = None,
        base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
        cache_dir: Path | None = None,
    ) -> Self:
        """Load a hypernetwork: "embedded", a folder, or a repository of the hub.

        dtype: of the hypernetwork and what it generates
        encoder: the one that the hypernetwork names, loaded already
        base: the base model and its tokenizer, loaded already; `refine` needs them, and `generate`
            where `reads_with_transformers`; loaded on first use otherwise
        cache_dir: folder that keeps embeddings; not with `encoder`, which may keep its own

        Raises ConfigError when there is no such thing, CheckpointError when it is broken.
        """
        folder = find_hypernet(name_or_path, revision=revision)
        loaded = load_hypernet(folder, device=str(device), dtype=dtype)
        known = loaded.encoder.fingerprint  # empty in converted folders: then it is not checked
        if encoder is not None and known and encoder.config.fingerprint != known:
            raise ConfigError(
                f"the encoder {encoder.config.name!r} is not {loaded.encoder.name!r} as the "
                "hypernetwork was trained with it; leave `encoder` out to load that one"
            )
        return cls(loaded, name=str(name_or_path), encoder=encoder, base=base, cache_dir=cache_dir)

    @property
    def spec(self) -> LoraSpec:
        """What the generated adapters are for."""
        return self._loaded.hypernet.spec

    @property
    def training(self) -> Mapping[str, Any]:
        """How the hypernetwork was trained, as written beside it."""
        return self._loaded.training

    @property
    def fingerprint(self) -> str:
        """Content hash of the hypernetwork's folder."""
        return self._loaded.fingerprint

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder, loaded on first use."""
        if self._given_encoder is not None:
            return self._given_encoder
        return load_encoder(self._loaded.encoder, device=self.device, cache_dir=self._cache_dir)

    @property
    def reads_with_base(self) -> bool:
        """Whether the base model is needed to read a description."""
        return self._loaded.hypernet.config.tokens is not None

    @property
    def reads_with_transformers(self) -> bool:
        """Whether the base model is loaded with transformers to read a description.

        The embedded base is read without: importing transformers takes longer than all the rest.
        """
        return self.reads_with_base and not is_embedded(self.spec.base)

    def attach_base(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read descriptions and refine with a base that is loaded already."""
        self._given_base = model, tokenizer

    @property
    def base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base model and its tokenizer: those given, or loaded on first use."""
        if self._given_base is None:
            name = base_to_load(self.spec.base.name, self.spec.base.revision)
            self._given_base = self.load_base(name)
        return self._given_base

    def load_base(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load a copy of the base model."""
        return load_base(name, spec=self.spec, device=self.device)

    @cached_property
    def _reader(self) -> TokenReader | None:
        """What reads a description with the base; None where the hypernetwork needs none."""
        tokens = self._loaded.hypernet.config.tokens
        if tokens is None:
            return None
        if self._given_base is None and not self.reads_with_transformers:
            return TokenReader(LlamaReader(fetch_base(), device=self.device), self.spec, tokens)
        return TokenReader.of_model(*self.base, self.spec, tokens)

    @property
    def device(self) -> torch.device:
        """Where the hypernetwork is, and what it generates."""
        return next(self._loaded.hypernet.parameters()).device

    @torch.no_grad()  # inference_mode would bar the adapters from later training
    def generate(self, descriptions: Sequence[str], *, strength: float = 1.0) -> Adapters:
        """Generate one adapter a description, all in one batch.

        strength: factor of ΔW

        Raises ConfigError when a description is empty; warns when one is longer than the encoder
        reads or has tokens that it does not know. Provenance holds the tokens of each description.
        """
        if not descriptions:
            raise ConfigError("no description; say in a sentence what the task is")
        embeddings = self.encode(descriptions)
        states = None if self._reader is None else self._reader(descriptions)
        weights: LoraWeights = self._loaded.hypernet(embeddings, states)
        weights.check_finite()
        texts = tuple(text.strip() for text in descriptions)
        nearest = self._nearest(embeddings)
        shared = {
            "hypernet": self.name,
            "hypernet_fingerprint": self._loaded.fingerprint,
            "encoder": self._loaded.encoder.name,
            "encoder_fingerprint": self._loaded.encoder.fingerprint,
            "base": self.spec.base.name,
            "strength": 1.0,
            "version": text_to_lora.__version__,
        }
        readings = read_tokens(self.encoder, descriptions)
        provenance = [
            {"description": text, **shared, **reading.to_dict()}
            for text, reading in zip(texts, readings, strict=True)
        ]
        for entry, neighbour in zip(provenance, nearest, strict=True):
            if neighbour is not None:
                cosine = round(neighbour.cosine, 4)
                entry["nearest_description"] = {"text": neighbour.text, "cosine": cosine}
        adapters = Adapters(weights, texts, tuple(provenance), nearest)
        return adapters if strength == 1.0 else adapters.scale(strength)

    def refine(
        self,
        descriptions: Sequence[str],
        examples: Sequence[Sequence[tuple[str, str]]],
        **options: Any,
    ) -> Adapters:
        """Generate one adapter a description and train it on the user's own rows, all at once.

        examples: the rows (input, answer) of each description, two or more; rows that are kept out
            of training choose after how many steps an adapter is best, which may be none
        options: seconds=60.0, steps=None and more, as for `refinement.refine_with`

        What was measured stands in `provenance` under "refinement". The base is loaded, if it is not
        yet, and frozen.

        Raises ConfigError when rows, limits or options cannot work.
        """
        from text_to_lora.refinement import refine_with

        return refine_with(self, descriptions, examples, **options)

    def nearest(self, descriptions: Sequence[str]) -> tuple[NearestDescription | None, ...]:
        """Find the training description nearest to each description.

        None where the hypernetwork stores no training descriptions.
        """
        return self._nearest(self.encode(descriptions))

    def _nearest(self, embeddings: Tensor) -> tuple[NearestDescription | None, ...]:
        if self._loaded.descriptions is None:
            return (None,) * len(embeddings)
        return tuple(self._loaded.descriptions.nearest(embeddings))

    def encode(self, descriptions: Sequence[str]) -> Tensor:
        """Task embeddings of descriptions, on the hypernetwork's device, [tasks, embedding_dim]."""
        parameter = next(self._loaded.hypernet.parameters())
        return self.encoder.encode(descriptions).to(parameter.device, parameter.dtype)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write the hypernetwork's folder, whole or not at all."""
        loaded = self._loaded
        return save_hypernet(
            path,
            loaded.hypernet,
            loaded.encoder,
            training=dict(loaded.training),
            descriptions=loaded.descriptions,
            overwrite=overwrite,
        )

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the hypernetwork to the hub; gives the address of the commit.

        repo_id: OWNER/NAME; made when it does not exist

        Raises ConfigError when the hub refuses.
        """
        return _upload(self.save, repo_id, "hypernetwork", private=private, token=token)


def _slug(text: str) -> str:
    """A folder name from the first words of a description."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").split("-")
    return "-".join(words[:6])[:40] or "adapter"


def _upload(
    write: Callable[[Path], object], repo_id: str, what: str, *, private: bool, token: str | None
) -> str:
    """Write a folder, upload it as one commit of a repository, and give the commit's address.

    write: fills the folder that it is given; what: is uploaded, for the message of the commit

    Raises ConfigError when the hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "folder"
        write(folder)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=f"Upload {what}"
            )
        except Exception as error:  # the hub's own, and those of whichever HTTP client it uses
            raise ConfigError(
                f"cannot upload to {repo_id!r}: {first_line(error)}; check the name, the token and "
                "the network"
            ) from error
    return str(commit)
