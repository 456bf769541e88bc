"""adapter_config.json of PEFT: every option is read exactly, without effect, or refused by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import AdapterFormatError, T2LWarning, shorten
from text_to_lora.files import read_json
from text_to_lora.lora.peft_selection import PeftSelection

CONFIG_FILE: Final = "adapter_config.json"

_MAX_BYTES: Final = 16 << 20  # PEFT lists a path for every module at most
_MAX_ALPHA: Final = 1e9  # far above any in use, and B times it stays finite

# Options that change what the tensors mean, with the values under which they do not.
_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": (None, {}),
    "arrow_config": (None,),
    "bias": ("none",),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),  # keep the base
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "lora_bias": (None, False),
    "megatron_config": (None, {}),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "rank_pattern": (None, {}),
    "target_parameters": (None, []),
    "task_type": (None, "CAUSAL_LM"),
    "trainable_token_indices": (None,),
    "use_bdlora": (None, False),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}
# Options that change no output of an adapter on linear modules: those of training and of the
# initialisations above, those that only work with a refused one, and notes of PEFT. PEFT sets
# fan_in_fan_out itself by the kind of module.
_WITHOUT_EFFECT_NAMES: Final = (
    "auto_mapping corda_config ensure_weight_tying eva_config fan_in_fan_out inference_mode "
    "loftq_config lora_dropout lora_ga_config megatron_core peft_version qalora_group_size "
    "runtime_config"
)
_READ_NAMES: Final = (
    "base_model_name_or_path exclude_modules layers_pattern layers_to_transform lora_alpha "
    "peft_type r revision target_modules use_rslora"
)
_WITHOUT_EFFECT: Final = frozenset(_WITHOUT_EFFECT_NAMES.split())
_READ: Final = frozenset(_READ_NAMES.split())


def read_adapter_config(path: Path | str) -> dict[str, Any]:
    """Read adapter_config.json of a PEFT folder and check that we can represent it.

    Raises AdapterFormatError when it is missing, broken, no LoRA, has a field of a wrong type or a
    pattern that is no pattern, or uses an option (DoRA, biases, patterns of rank or alpha, saved
    modules, ...) that plain LoRA cannot represent, by name and value. Warns of numbers and texts
    under names that PEFT 0.21 does not know, which PEFT ignores too.
    """
    folder = Path(path)
    if not os.path.isdir(folder):
        raise AdapterFormatError(f"{str(folder)!r} is not a folder; give the adapter's folder")
    config = read_json(folder / CONFIG_FILE, AdapterFormatError, max_bytes=_MAX_BYTES)
    place = repr(str(folder))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterFormatError(f"{place} has peft_type {shorten(kind)}; only 'LORA' is read")
    _check_options(config, place)
    _check_fields(config, place)
    PeftSelection(config, place)
    return config


def _check_options(config: Mapping[str, Any], place: str) -> None:
    """Check that no option changes what the tensors mean."""
    used: list[str] = []
    unknown: list[str] = []
    for option, value in sorted(config.items()):
        if option in _WITHOUT_EFFECT | _READ:
            continue
        if not _is_one_of(value, _REFUSED.get(option, (None, False, "", [], {}))):
            # PEFT switches a variant on by true or by a configuration of its own
            changes = option in _REFUSED or isinstance(value, bool | dict | list)
            (used if changes else unknown).append(option)
    if used:
        raise AdapterFormatError(
            f"{place} uses {_assignments(config, used)}, which plain LoRA cannot represent; "
            "export it as plain LoRA or merge it into its base"
        )
    if unknown:
        warnings.warn(
            f"{place} has {_assignments(config, unknown)}, which this release does not know and "
            "PEFT 0.21 ignores; check that the adapter does not depend on it",
            T2LWarning,
            stacklevel=4,
        )


def _check_fields(config: Mapping[str, Any], place: str) -> None:
    """Check types and ranges of the fields that are read."""

    def refuse(field: str, needed: str) -> AdapterFormatError:
        return AdapterFormatError(
            f"{place} has {field}={shorten(config.get(field))}; {needed} needed"
        )

    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise refuse("r", "an integer above 0 is")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= _MAX_ALPHA:
        raise refuse("lora_alpha", f"a finite number above 0 and at most {_MAX_ALPHA:g} is")
    if not isinstance(config.get("use_rslora"), bool | None):
        raise refuse("use_rslora", "true or false is")
    for field in ("base_model_name_or_path", "revision"):
        if not isinstance(config.get(field), str | None):
            raise refuse(field, "a name is")


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(type(value) is type(other) and value == other for other in allowed)


def _assignments(config: Mapping[str, Any], options: list[str]) -> str:
    return ", ".join(f"{option}={shorten(config[option])}" for option in options)
