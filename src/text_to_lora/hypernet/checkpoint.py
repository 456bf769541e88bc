"""A hypernetwork as a folder: config.json, model.safetensors and its training descriptions.

Read strictly, written whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import CheckpointError, ConfigError, SpecError, list_some, shorten
from text_to_lora.fields import from_json
from text_to_lora.files import (
    check_format,
    content_hash,
    file_hash,
    read_json,
    write_folder,
    write_json,
)
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.descriptions import (
    DESCRIPTIONS_FILE,
    TrainingDescriptions,
    load_descriptions,
    save_descriptions,
)
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.tensors import find_differences, find_not_finite, load_tensors

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
FORMAT: Final = "text-to-lora hypernetwork"
VERSION: Final = 1

# dtypes of a file, by the name that config.json gives them
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class _Config:
    """The fields of config.json."""

    format: str
    version: int
    dtype: str
    hypernet: dict[str, Any]
    spec: dict[str, Any]
    encoder: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """What a hypernetwork folder holds.

    hypernet: in eval mode; encoder: that it was trained with; training: how it was made
    fingerprint: SHA-256 over the contents of config.json and model.safetensors
    descriptions: of its training tasks; None where the folder stores none
    """

    hypernet: Hypernetwork
    encoder: EncoderConfig
    training: dict[str, Any]
    fingerprint: str
    descriptions: TrainingDescriptions | None = None


def save_hypernet(
    path: Path | str,
    hypernet: Hypernetwork,
    encoder: EncoderConfig,
    *,
    training: Mapping[str, Any],
    descriptions: TrainingDescriptions | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a hypernetwork folder, whole or not at all.

    training: how it was made, as JSON values (the resolved RunConfig)
    descriptions: of the training tasks, by which users see how near a new description is
    dtype: of the file, float32 or bfloat16; None keeps that of the network

    Raises ConfigError when `path` exists without `overwrite` or cannot be written, when dtype,
    encoder or `training` cannot work, or when the weights are not finite.
    """
    dtype = dtype or hypernet.dtype
    name = next((name for name, value in _DTYPES.items() if value == dtype), None)
    if name is None:
        raise ConfigError(f"dtype of the file is {dtype}; one of {', '.join(_DTYPES)}")
    if encoder.embedding_dim != hypernet.config.embedding_dim:
        raise ConfigError(
            f"encoder {encoder.name!r} gives {encoder.embedding_dim} numbers, the hypernetwork "
            f"reads {hypernet.config.embedding_dim}; save it with the encoder it was trained with"
        )
    tensors = {
        key: value.detach().to("cpu", dtype).contiguous()
        for key, value in hypernet.state_dict().items()
    }
    if broken := find_not_finite(tensors):
        raise ConfigError(
            f"NaN or infinity in {list_some(broken)}; train again from a good checkpoint"
        )
    config = _Config(
        format=FORMAT,
        version=VERSION,
        dtype=name,
        hypernet=hypernet.config.to_dict(),
        spec=hypernet.spec.to_dict(),
        encoder=encoder.to_dict(),
        training=dict(training),
    )
    with write_folder(path, overwrite=overwrite) as folder:
        try:
            write_json(folder / CONFIG_FILE, vars(config))
        except TypeError as error:
            raise ConfigError(f"training: {error}; give JSON values only") from None
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        if descriptions is not None:
            file = folder / DESCRIPTIONS_FILE
            save_descriptions(file, descriptions, hypernet=fingerprint(folder))
    return Path(path)


def load_hypernet(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> Loaded:
    """Read a hypernetwork folder.

    dtype: of the network, whatever that of the file; None keeps that of the file

    Raises CheckpointError when the folder is not one of ours, incomplete, corrupt or of another
    version; tensors that are missing, left over, of another shape or dtype, or not finite, are
    named; when its training descriptions are broken or of another hypernetwork.
    """
    folder = Path(path)
    config = _read_config(folder)
    place = repr(str(folder / CONFIG_FILE))
    try:
        hypernet_config = HypernetConfig.from_dict(config.hypernet)
        spec = LoraSpec.from_dict(config.spec)
        encoder = EncoderConfig.from_dict(config.encoder)
        hypernet = Hypernetwork.empty(hypernet_config, spec)
    except (ConfigError, SpecError) as error:
        raise CheckpointError(f"{place}: {error}") from error
    except (RuntimeError, TypeError, OverflowError) as error:  # a size that torch cannot count
        raise CheckpointError(
            f"{place} has sizes that no network can have; copy it again"
        ) from error
    if encoder.embedding_dim != hypernet_config.embedding_dim:
        raise CheckpointError(
            f"{place}: the encoder gives {encoder.embedding_dim} numbers, the network reads "
            f"{hypernet_config.embedding_dim}; copy the folder again"
        )
    tensors = load_tensors(folder / WEIGHTS_FILE, CheckpointError)
    shapes = {name: tensor.shape for name, tensor in hypernet.state_dict().items()}
    problems = find_differences(shapes, tensors, config.dtype)
    if not problems and (broken := find_not_finite(tensors)):
        problems = [f"NaN or infinity in {list_some(broken)}"]
    if problems:
        raise CheckpointError(
            f"{str(folder / WEIGHTS_FILE)!r} does not fit its {CONFIG_FILE}: "
            f"{'; '.join(problems)}; copy or download the folder again"
        )
    hypernet.load_state_dict(tensors, assign=True)
    network_hash, descriptions = fingerprint(folder), None
    if os.path.lexists(file := folder / DESCRIPTIONS_FILE):
        descriptions = load_descriptions(
            file, hypernet=network_hash, embedding_dim=hypernet_config.embedding_dim
        )
    return Loaded(
        hypernet=hypernet.to(device=device, dtype=dtype).eval(),
        encoder=encoder,
        training=config.training,
        fingerprint=network_hash,
        descriptions=descriptions,
    )


def fingerprint(folder: Path | str) -> str:
    """SHA-256 over the contents of a hypernetwork folder's config.json and model.safetensors."""
    return content_hash(
        {name: file_hash(Path(folder) / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    )


def _read_config(folder: Path) -> _Config:
    if not folder.is_dir():
        raise CheckpointError(f"{str(folder)!r} is not a folder; give the hypernetwork's folder")
    file = folder / CONFIG_FILE
    if not file.exists():
        hint = (
            "it looks like a checkpoint of the reference implementation: run t2l convert"
            if (folder / "hypermod.pt").exists()
            else "give the folder that save_hypernet wrote"
        )
        raise CheckpointError(f"{str(folder)!r} holds no {CONFIG_FILE}; {hint}")
    payload = read_json(file, CheckpointError)
    check_format(payload, file, name=FORMAT, version=VERSION, error=CheckpointError)
    config = from_json(_Config, payload, repr(str(file)), CheckpointError)
    if config.dtype not in _DTYPES:
        raise CheckpointError(
            f"{str(file)!r} has dtype {shorten(config.dtype)}; one of {', '.join(_DTYPES)}"
        )
    return config
