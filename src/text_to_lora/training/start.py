"""The hypernetwork that a supervised run begins with: a fresh one, or that of an earlier run."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import ConfigError
from text_to_lora.hypernet.checkpoint import Loaded, load_hypernet
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.training.config import RunConfig
from text_to_lora.training.setup import token_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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
