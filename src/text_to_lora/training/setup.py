"""What runs set up alike: base model, spec, embeddings, hypernetwork, and settings to store."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.encoders.load import load_encoder
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.hypernet.checkpoint import Loaded, load_hypernet
from text_to_lora.hypernet.config import HypernetConfig, TokenConfig
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.models.base import load_base
from text_to_lora.models.find import EMBEDDED, EMBEDDED_BASE
from text_to_lora.training.config import (
    AdapterSection,
    BaseSection,
    EncoderSection,
    Recipe,
    RunConfig,
    TokensSection,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def resolve_dtype(base: BaseSection, device: torch.device) -> BaseSection:
    """Settle a dtype of "auto", so that a run goes on in the dtype that it began in."""
    if base.dtype != "auto":
        return base
    dtype = "bfloat16" if has_fast_product(torch.bfloat16, device) else "float32"
    return base.model_copy(update={"dtype": dtype})


def load_for_training(
    base: BaseSection, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model as a run asks for it, and its tokenizer.

    Raises ConfigError when it cannot be loaded.
    """
    model, tokenizer = load_base(
        base.name, revision=base.revision, device=device, dtype=getattr(torch, base.dtype)
    )
    if base.attention is not None:
        model.set_attn_implementation(base.attention)
    return model, tokenizer


def base_name(base: BaseSection) -> str:
    """The name under which adapters and hypernetworks know a base."""
    return base.alias or (EMBEDDED_BASE if base.name == EMBEDDED else base.name)


def make_spec(
    base: BaseSection, adapter: AdapterSection, base_config: PreTrainedConfig
) -> LoraSpec:
    """The spec of the adapters of a run.

    base_config: of the base model, as transformers reads it

    Raises SpecError when the base has no such targets or layers.
    """
    return LoraSpec.from_config(
        base_config, name=base_name(base), revision=base.revision, **adapter.model_dump()
    )


def token_config(section: TokensSection, base_config: PreTrainedConfig) -> TokenConfig | None:
    """Sizes of the parts that read token states; None where a run reads none."""
    if not section.read:
        return None
    hidden_size = base_config.get_text_config(decoder=True).hidden_size
    return TokenConfig(hidden_size=hidden_size, **section.model_dump(exclude={"read"}))


def embed_texts(
    section: EncoderSection, texts: Sequence[str], folder: Path, device: torch.device
) -> tuple[Tensor, EncoderConfig]:
    """Embed each text once, [texts, embedding_dim]; the encoder's weights are free afterwards.

    folder: of the run, which holds the embeddings unless the section names another

    Warns once of how many texts the encoder cuts.
    """
    encoder = load_encoder(
        section.name,
        device=device,
        revision=section.revision,
        cache_dir=section.cache_dir or folder / "embeddings",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the encoder read", T2LWarning)  # one for each text
        embeddings = encoder.encode(texts)
    limit = encoder.config.max_tokens
    if cut := sum(count > limit for count in encoder.count_tokens(texts)):
        warnings.warn(
            f"the encoder reads {limit} tokens of a description; {cut} of {len(texts)} are longer",
            T2LWarning,
            stacklevel=2,
        )
    return embeddings, encoder.config


def shared_settings(config: Recipe) -> dict[str, Any]:
    """A run's settings as they are stored beside weights: folders by their last name alone."""

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shorten(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [shorten(item) for item in value]
        return value.name if isinstance(value, Path) else value

    settings: dict[str, Any] = shorten(config.model_dump())
    base = getattr(config, "base", None)
    if isinstance(base, BaseSection):
        settings["base"]["name"] = base_name(base)
    return settings


def make_hypernet(
    config: RunConfig, spec: LoraSpec, base_config: PreTrainedConfig, encoder: EncoderConfig
) -> Hypernetwork:
    """A fresh hypernetwork, or the one of `hypernet.start_from` to train on.

    Parts that read token states are added where the folder's network has none.

    Raises ConfigError when that one is for other adapters or another encoder than this run.
    """
    tokens = token_config(config.tokens, base_config)
    generator = torch.Generator().manual_seed(config.run.seed)
    if config.hypernet.start_from is None:
        sizes = config.hypernet.model_dump(exclude={"kind", "reads", "start_from"})
        settings = HypernetConfig(embedding_dim=encoder.embedding_dim, tokens=tokens, **sizes)
        return Hypernetwork.from_config(settings, spec, generator)
    loaded = load_hypernet(config.hypernet.start_from)
    changes = _differences(loaded, spec, base_config, encoder)
    if changes:
        raise ConfigError(
            f"hypernet.start_from={str(config.hypernet.start_from)!r} is of another kind: "
            f"{'; '.join(changes)}; set base, adapter and encoder as they were for it "
            "(base.alias sets the base's name)"
        )
    settings = replace(loaded.hypernet.config, dropout=config.hypernet.dropout)
    state = loaded.hypernet.state_dict()
    if settings.tokens is None and tokens is not None:
        settings = replace(settings, tokens=tokens)
        state = {**Hypernetwork.from_config(settings, spec, generator).state_dict(), **state}
    hypernet = Hypernetwork.empty(settings, spec)
    hypernet.load_state_dict(state, assign=True)
    return hypernet


def _differences(
    loaded: Loaded, spec: LoraSpec, base_config: PreTrainedConfig, encoder: EncoderConfig
) -> list[str]:
    """What of a hypernetwork's spec and encoder is not this run's, as words for an error."""
    before, now = _summary(loaded.hypernet.spec), _summary(spec)
    if loaded.hypernet.spec.is_for(base_config):  # perhaps under the hash of an earlier release
        before |= {key: now[key] for key in ("base.config_hash", "base.model_type")}
    changes = [f"{key} {before[key]!r}, not {now[key]!r}" for key in now if before[key] != now[key]]
    fingerprint = loaded.encoder.fingerprint or encoder.fingerprint  # "" is not checked
    same_width = loaded.encoder.embedding_dim == encoder.embedding_dim
    if not same_width or fingerprint != encoder.fingerprint:
        changes.append(f"encoder {loaded.encoder.name!r}, not {encoder.name!r} as it is now")
    return changes


def _summary(spec: LoraSpec) -> dict[str, Any]:
    """What tells specs apart, in short values; all else follows from the base's configuration."""
    return {
        **{f"base.{key}": value for key, value in asdict(spec.base).items()},
        "rank": spec.rank,
        "alpha": spec.alpha,
        "rslora": spec.rslora,
        "targets": [group.key for group in spec.groups],
        "layers": sorted({slot.layer for slot in spec.slots}),
    }
