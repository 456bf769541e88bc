"""The identity of a base model: a hash of what gives its weights their shapes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.files import content_hash
from text_to_lora.lora.outline import is_decoder_half, language_part

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SHAPE_KEY: Final = re.compile(
    r"size|dim|layer|head|expert|rank|embd|inner|d_model|ffn|mlp|moe|k_eq_v|is_decoder"
)
_NOT_SHAPE: Final = "chunk_size_feed_forward"


@dataclass(frozen=True)
class BaseModelRef:
    """Which base model an adapter is for.

    name: hub name or path, "" when unknown; revision: hub commit; config_hash: see `config_hash`
    """

    name: str
    revision: str | None
    config_hash: str
    model_type: str


def base_model_ref(
    config: PreTrainedConfig, *, name: str | None = None, revision: str | None = None
) -> BaseModelRef:
    """Reference to the base model of a configuration; None reads the field from it."""
    return BaseModelRef(
        name=str(getattr(config, "name_or_path", "") or "") if name is None else name,
        revision=getattr(config, "_commit_hash", None) if revision is None else revision,
        config_hash=config_hash(config),
        model_type=language_part(config)[0],
    )


def config_hash(config: PreTrainedConfig) -> str:
    """SHA-256 of the model type and the shape-giving fields of a (text) configuration.

    Counted are the integers, names, true flags and lists of them under keys about sizes, widths,
    heads, layers and experts, the vocabulary included. Left out, since they change no shape: names,
    versions, dtype, token ids, dropout, attention implementation, window and rotary settings. A
    field that a later transformers adds with None or False leaves the hash as it was.

    The configuration of a folder and that of the causal language model made of it have one hash,
    also where that model takes the text part or the decoder alone.
    """
    return _hash_fields(*language_part(config))


def accepted_hashes(config: PreTrainedConfig) -> Iterator[str]:
    """The hash of a base, then those that earlier releases wrote for its folder or its model."""
    model_type, text = language_part(config)
    yield _hash_fields(model_type, text)
    yield _hash_fields(config.model_type, config.get_text_config(decoder=True))
    for suffix in ("", "_text", "_text_model"):  # of the part's model type, after that of the whole
        yield _hash_fields(text.model_type.removesuffix(suffix), text)
    if is_decoder_half(config):
        decoder = copy.deepcopy(config)
        decoder.is_encoder_decoder = False
        yield _hash_fields(config.model_type, decoder)
        decoder.is_decoder = True
        yield _hash_fields(config.model_type, decoder)


def _hash_fields(model_type: str, text: PreTrainedConfig) -> str:
    content: dict[str, Any] = {"model_type": model_type}
    for key, value in text.to_dict().items():
        counted = _SHAPE_KEY.search(key) and key != _NOT_SHAPE and not key.startswith("_")
        if counted and _is_shape_value(value):
            content[key] = value
    return content_hash(content)


def _is_shape_value(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_shape_value(item) for item in value)
    return value is True or (isinstance(value, int | str) and value is not False)
