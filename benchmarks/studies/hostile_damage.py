"""Ways to damage a file, each seeded: of its bytes, its place, its text, its values and its header."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

MEMBER = "tiny_gguf/tiny.Q4_1.gguf"  # of the wheel that is damaged
BOMB_BYTES = 1 << 28
"""Size of what a few hundred kilobytes of a zip archive or of a Parquet file unpack to."""
_NUMBERS = (None, True, False, 0, -1, 1, 2.5, 1e308, float("inf"), float("nan"), 10**300, 2**63)
_TEXTS = ("", "x", "a" * 5000, "\n", "\0", "two\nlines", "\u202eabc", "\x1b[31m", "😀")
_MEANINGFUL_TEXTS = ("(", "(.*)*(.*)*x$", "../../x", "/dev/zero", "float64", "LORA", "all-linear")
_CONTAINERS: tuple[Any, ...] = ([], [1], ["q_proj"], [None], [["a"]], {}, {"a": 1}, [[[[1]]]])
VALUES: tuple[Any, ...] = (*_NUMBERS, *_TEXTS, *_MEANINGFUL_TEXTS, *_CONTAINERS)
_DTYPES = ("F8_E4M3", "F4", "I64", "BF16", "F32", "F16", "BOOL", "C64", "F8_E8M0", "U8", "nonsense")
_SHAPES: tuple[list[int], ...] = ([2, 32], [32, 2], [2**60, 2**60], [], [0], [-1], [64], [1] * 100)
_OFFSETS = ([0, 128], [128, 0], [0, 2**62], [-8, 8])
HEADER_VALUES: tuple[Any, ...] = (*_DTYPES, *_SHAPES, *_OFFSETS, None, {}, 1.5)
NAMES = ("foo", "a\nb", "x" * 3000, "\0", "../x", "😀", "use_dora", "extends")
PYTHON_TAG = "!!python/object/apply:os.system"


class Marker:
    """What a pickle of it does when somebody loads it: makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {str(self.file)!r}",)


def damage(file: Path, rng: random.Random, marker: Path) -> str:
    """Damage a file in one way, and give the way's name.

    marker: the file that code in the damaged one would make
    """
    ways: list[Callable[[Path, random.Random], str]]
    ways = [_bytes, _place, functools.partial(_code, marker=marker), *_WAYS.get(file.suffix, ())]
    return rng.choice(ways)(file, rng)


def _bytes(file: Path, rng: random.Random) -> str:
    content = file.read_bytes()
    place = rng.randrange(len(content))

    def change(end: int) -> bytes:
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 8)):
            changed[rng.randrange(end)] = rng.randrange(256)
        return bytes(changed)

    damaged = {
        "cut": content[:place],
        "changed": change(len(content)),
        "changed at its start": change(min(len(content), 400)),
        "repeated": content * rng.choice((2, 3, 50)),
        "empty": b"",
        "random": rng.randbytes(rng.randrange(1, 5000)),
        "NUL": content[:place] + bytes(16) + content[place + 16 :],
    }
    way = rng.choice(list(damaged))
    file.write_bytes(damaged[way])
    return f"bytes {way}"


def _place(file: Path, rng: random.Random) -> str:
    links = {"itself": file.name, "nothing": "nowhere", "a folder": str(file.parent)}
    links |= {"/dev/zero": "/dev/zero"}
    way = rng.choice(("missing", "a folder", "a pipe", *(f"a link to {end}" for end in links)))
    file.unlink()
    if way == "a folder":
        file.mkdir()
    elif way == "a pipe":
        os.mkfifo(file)
    elif way != "missing":
        file.symlink_to(links[way.removeprefix("a link to ")])
    return way


def _code(file: Path, rng: random.Random, marker: Path) -> str:
    """Something that would run code, or unpack to far more than it is."""
    way = rng.choice(("pickle", "PyTorch's zip of a pickle", "zip bomb", "YAML with a Python tag"))
    if way == "pickle":
        file.write_bytes(pickle.dumps(Marker(marker), protocol=rng.randrange(6)))
    elif way.startswith("YAML"):
        file.write_text(f"base: {PYTHON_TAG} ['touch {marker}']\n")
    elif way == "zip bomb":
        file.write_bytes(_bomb())
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Marker(marker)))
    return way


@functools.cache
def _bomb() -> bytes:
    """A zip archive whose member unpacks to BOMB_BYTES."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(MEMBER, bytes(BOMB_BYTES))
    return stream.getvalue()


def _text(file: Path, rng: random.Random) -> str:
    text = file.read_text()
    lines, place = text.splitlines(keepends=True), rng.randrange(len(text))
    encodings = {"UTF-16": "utf-16", "byte order mark": "utf-8-sig", "Latin-1": "latin-1"}
    inserted = {
        "Latin-1": "é",
        "long line": "a" * 1_000_000,
        "huge number": "9" * 5000,
        "half a surrogate pair": "\\ud83c",
        "quotes": '"',
    }
    aliases = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)]
    damaged = {
        "nested": rng.choice(("[", '{"a":', "{", "- ")) * rng.choice((70, 5000, 100_000)),
        "repeated lines": "".join([*lines[: place % len(lines)], rng.choice(lines) * 100, *lines]),
        "aliases": "a0: &a0 x\n" + "".join(aliases),  # they expand to 9 to the power of 9 texts
    }
    way = rng.choice(sorted({*encodings, *inserted, *damaged}))
    text = damaged.get(way, text[:place] + inserted.get(way, "") + text[place:])
    file.write_bytes(text.encode(encodings.get(way, "utf-8")))
    return f"text: {way}"


def _values(file: Path, rng: random.Random) -> str:
    """Replace, remove or repeat values at random places of what the file holds."""
    text = file.read_text()
    if file.suffix == ".jsonl":
        lines = text.splitlines()
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(_mutate(json.loads(lines[place]), rng))
        file.write_text("\n".join(lines))
        return "another value in a line"
    is_yaml = file.suffix == ".yaml"
    value = yaml.safe_load(text) if is_yaml else json.loads(text)
    for _ in range(rng.randrange(1, 4)):
        value = _mutate(value, rng)
    file.write_text(yaml.safe_dump(value) if is_yaml else json.dumps(value))
    return "other values"


def _mutate(value: Any, rng: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    new, places = copy.deepcopy(rng.choice(values)), _places(value)
    if not places or rng.random() < 0.05:
        return new
    holder, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[rng.choice(NAMES)] = holder.pop(key)
    elif way == 1:
        holder *= 3
    else:
        holder[key] = new
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every value inside of a value, as the dictionary or list that holds it and its key there."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def _header(file: Path, rng: random.Random) -> str:
    """Lie in the header of a safetensors file."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.2:
        size = rng.choice((0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1))
        file.write_bytes(size.to_bytes(8, "little") + content[8:])
        return "header of a wrong length"
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    way = rng.choice(("values", "metadata", "twice"))
    if way == "values":
        header = _mutate(header, rng, HEADER_VALUES)
    elif way == "twice":  # two tensors of the same bytes
        header["again"] = header[rng.choice([key for key in header if key != "__metadata__"])]
    elif "text_to_lora" in metadata:
        metadata["text_to_lora"] = json.dumps(_mutate(json.loads(metadata["text_to_lora"]), rng))
    else:
        header["__metadata__"] = rng.choice(VALUES)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return f"header: {way}"


def _tensors(file: Path, rng: random.Random) -> str:
    """Tensors of other shapes, dtypes and values in a file that is whole."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    way = rng.choice(("reshaped", "of another dtype", "NaN", "infinite", "too many", "scalar"))
    if way == "reshaped":
        tensors[name] = tensors[name].flatten()
    elif way == "of another dtype":
        kinds = (torch.int8, torch.float8_e4m3fn, torch.bool, torch.float64, torch.bfloat16)
        tensors[name] = tensors[name].to(rng.choice(kinds))
    elif way == "too many":
        tensors |= {f"more.{i}": torch.zeros(1) for i in range(5000)}
    elif way == "scalar":
        tensors[name] = torch.zeros(())
    else:
        tensors[name].view(-1)[0] = float("nan" if way == "NaN" else "inf")
    save_file(tensors, file, metadata)
    return f"tensors {way}"


def _table(file: Path, rng: random.Random) -> str:
    """A Parquet file that is whole, of other columns, types and sizes."""
    table = pyarrow.parquet.read_table(file)
    place, count = rng.randrange(table.num_columns), len(table)
    name = table.column_names[place]
    values: dict[str, Any] = {
        "null": None,
        "number": 2**62,
        "binary": b"\xff\x00",
        "nested": [{"a": [["x"]]}],
        "NaN": float("nan"),
        "date": pyarrow.scalar(2**40, pyarrow.timestamp("s")),
    }
    sizes = {"bomb": (BOMB_BYTES // count, count), "long text of many rows": (1_000_000, 268)}
    way = rng.choice((*values, *sizes, "renamed", "twice", "no rows"))
    if way in values:
        table = table.set_column(place, name, pyarrow.array([values[way]] * count))
    elif way in sizes:  # BOMB_BYTES once they are unpacked
        size, rows = sizes[way]
        text = pyarrow.array(["a" * size])
        column = pyarrow.DictionaryArray.from_arrays([0] * rows, text)
        table = pyarrow.table({c: column for c in table.column_names})
    elif way == "renamed":
        table = table.rename_columns([f"{c}\n" if c == name else c for c in table.column_names])
    elif way == "twice":
        table = table.append_column(name, table.column(place))
    else:
        table = table.slice(0, 0)
    pyarrow.parquet.write_table(table, file, compression="zstd")
    return f"table: {way}"


def _counts(file: Path, rng: random.Random) -> str:
    """Lie in the 8-byte numbers of a GGUF file: counts and lengths."""
    content = bytearray(file.read_bytes())
    place = rng.choice((4, 8, 16, 24, 8 * rng.randrange(3, 60)))
    number = rng.choice((0, 1, 255, 2**31, 2**40, 2**63, 2**64 - 1))
    content[place : place + 8] = number.to_bytes(8, "little")
    file.write_bytes(content)
    return "counts that are wrong"


def _archive(file: Path, rng: random.Random) -> str:
    """A zip archive that is whole, of other members."""
    way = rng.choice(("no member", "other content", "encrypted", "member is a folder"))
    with zipfile.ZipFile(file) as old:
        whole = old.read(MEMBER)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        if way == "member is a folder":
            new.writestr(f"{MEMBER}/", b"")
        elif way != "no member":
            new.writestr(MEMBER, whole if way == "encrypted" else rng.randbytes(100))
    if way == "encrypted":  # bit 0 of the flags, in both headers of the member
        content = bytearray(file.read_bytes())
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        file.write_bytes(content)
    return f"archive: {way}"


_VALUES_AND_TEXT = (_values, _values, _values, _text)
_WAYS: dict[str, tuple[Callable[[Path, random.Random], str], ...]] = {
    **dict.fromkeys((".json", ".jsonl", ".yaml"), _VALUES_AND_TEXT),
    **dict.fromkeys((".csv", ".tsv", ".md"), (_text, _text)),
    ".safetensors": (_header, _header, _tensors),
    ".parquet": (_table, _table),
    ".gguf": (_counts, _bytes),
    ".whl": (_archive,),
}
"""Ways to damage files of a kind, beside those for all; what stands twice is taken twice as often."""
