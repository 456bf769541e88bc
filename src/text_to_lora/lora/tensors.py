"""Safetensors files read strictly: pickles are never opened, and what does not fit is named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from text_to_lora.errors import T2LError, list_some, shorten

_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl")
_ORDERED: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_START_BYTES: Final = 9  # of a file, which tell a pickle from safetensors


def load_tensors(file: Path, error: type[T2LError]) -> dict[str, Tensor]:
    """Read a safetensors file; its tensors are memory-mapped, private to this process.

    Raises `error` when there is no such file, or it is a pickle, truncated or corrupt.
    """
    if not os.path.isfile(file):
        pickles = sorted(f.name for f in file.parent.glob("*") if f.suffix in _PICKLES)
        if pickles:
            raise error(
                f"{str(file.parent)!r} holds {pickles[0]}, a pickle, which can run code and is not "
                f"read; save it again as {file.name}"
            )
        raise error(f"{str(file.parent)!r} holds no {file.name}; copy it again")
    try:
        with file.open("rb") as stream:
            start = stream.read(_START_BYTES)
    except OSError as cause:
        raise error(
            f"{str(file)!r} cannot be read ({cause.strerror or cause}); check its permissions"
        ) from cause
    is_pickle = start[:1] == b"\x80" and start[1:2] <= b"\x05"
    # a safetensors file is the length of its header in 8 bytes, then the header, a JSON object
    if not start.endswith(b"{") and (is_pickle or start.startswith(b"PK\x03\x04")):
        raise error(
            f"{str(file)!r} is a pickle named safetensors, which can run code and is not read; "
            "save it again with safetensors"
        )
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as cause:
        reason = shorten(str(cause)).strip("'\"")
        raise error(
            f"{str(file)!r} is truncated or corrupt ({reason}); copy or make it again"
        ) from cause
    return tensors


def find_differences(
    shapes: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor], dtype: str | None = None
) -> list[str]:
    """Name the tensors that are missing, left over, or of another shape or dtype.

    shapes: of every tensor that is expected
    dtype: of all tensors, such as "float32"; None asks for one dtype, whichever it is
    """
    problems = []
    if missing := sorted(shapes.keys() - tensors.keys()):
        problems.append(f"missing {list_some(missing)}")
    if extra := sorted(tensors.keys() - shapes.keys()):
        problems.append(f"unexpected {list_some(extra)}")
    common = sorted(shapes.keys() & tensors.keys())
    if reshaped := [
        f"{name} {tuple(tensors[name].shape)}, not {tuple(shapes[name])}"
        for name in common
        if tuple(tensors[name].shape) != tuple(shapes[name])
    ]:
        problems.append(f"wrong shape of {list_some(reshaped)}")
    dtypes = {name: str(tensors[name].dtype).removeprefix("torch.") for name in common}
    wrong = [] if dtype is None else [f"{n} {d}" for n, d in dtypes.items() if d != dtype]
    if wrong:
        problems.append(f"wrong dtype, not {dtype}: {list_some(wrong)}")
    elif len(set(dtypes.values())) > 1 and dtype is None:
        problems.append(f"several dtypes {', '.join(sorted(set(dtypes.values())))}")
    return problems


def find_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity, sorted."""
    return [name for name in sorted(tensors) if not is_finite(tensors[name])]


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    if tensor.numel() and tensor.dtype in _ORDERED:
        # a twentieth of the time of isfinite().all()
        return bool(torch.stack(tensor.aminmax()).isfinite().all())
    return bool(tensor.isfinite().all())
