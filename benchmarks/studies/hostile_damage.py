"""Ways to damage a file, each seeded: of its bytes, its place, its text, its values and its header."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

BOMB_BYTES = 1 << 28
"""Size of what a few hundred kilobytes of a zip archive or of a Parquet file unpack to."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2.5, 1e308, float("inf"), float("nan"), 10**300, 2**63, -(2**63),
    "", "x", "a" * 5000, "(", "[", "*", "(.*)*(.*)*x$", "\n", "\0", "two\nlines", "\u202eabc",
    "../../x", "/dev/zero", "\x1b[31m", "😀", "float64", "LORA", "all-linear",
    [], [1], ["q_proj"], [None], [["a"]], {}, {"a": 1}, [[[[1]]]],
)  # fmt: skip
HEADER_VALUES: tuple[Any, ...] = (
    "F8_E4M3", "F4", "I64", "BF16", "F32", "F16", "BOOL", "C64", "F8_E8M0", "U8", "nonsense",
    [2, 32], [32, 2], [2**60, 2**60], [], [0], [-1], [64], [1] * 100, [0, 128], [128, 0],
    [0, 2**62], [-8, 8], None, {}, 1.5,
)  # fmt: skip
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
    ways = [_bytes, _place, _code]
    if file.suffix in (".json", ".jsonl", ".yaml"):
        ways += [_values, _values, _values, _text]
    elif file.suffix in (".csv", ".tsv", ".md"):
        ways += [_text, _text]
    elif file.suffix == ".safetensors":
        ways += [_header, _header, _tensors]
    elif file.suffix == ".parquet":
        ways += [_table, _table]
    elif file.suffix == ".gguf":
        ways += [_counts, _bytes]
    elif file.suffix == ".whl":
        ways += [_archive]
    return rng.choice(ways)(file, rng, marker)


def _bytes(file: Path, rng: random.Random, marker: Path) -> str:
    content = bytearray(file.read_bytes())
    way = rng.choice(
        ("cut", "changed", "changed at its start", "repeated", "empty", "random", "NUL")
    )
    if way == "cut":
        del content[rng.randrange(len(content)) :]
    elif way.startswith("changed"):
        end = min(len(content), 400) if way.endswith("start") else len(content)
        for _ in range(rng.randrange(1, 8)):
            content[rng.randrange(end)] = rng.randrange(256)
    elif way == "repeated":
        content *= rng.choice((2, 3, 50))
    elif way == "empty":
        content.clear()
    elif way == "random":
        content[:] = rng.randbytes(rng.randrange(1, 5000))
    else:
        place = rng.randrange(len(content))
        content[place : place + 16] = bytes(16)
    file.write_bytes(content)
    return f"bytes {way}"


def _place(file: Path, rng: random.Random, marker: Path) -> str:
    way = rng.choice(("missing", "a folder", "a pipe", "a link to itself", "a link to nothing",
                      "a link to /dev/zero", "a link to a folder", "a link to /dev/null"))  # fmt: skip
    file.unlink()
    if way == "a folder":
        file.mkdir()
    elif way == "a pipe":
        os.mkfifo(file)
    elif way != "missing":
        targets = {"itself": file.name, "nothing": "nowhere", "folder": str(file.parent)}
        file.symlink_to(targets.get(way.rpartition(" ")[2], way.rpartition(" ")[2]))
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
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("tiny/tiny.gguf", "w") as member,
    ):
        for _ in range(BOMB_BYTES >> 22):
            member.write(bytes(1 << 22))
    return stream.getvalue()


def _text(file: Path, rng: random.Random, marker: Path) -> str:
    text = file.read_text()
    way = rng.choice(("UTF-16", "UTF-32", "Latin-1", "byte order mark", "nested", "repeated lines",
                      "long line", "huge number", "half a surrogate pair", "quotes", "aliases"))  # fmt: skip
    encoding, place = "utf-8", rng.randrange(len(text))
    if way in ("UTF-16", "UTF-32"):
        encoding = way
    elif way == "Latin-1":
        text, encoding = f"{text[:place]}é{text[place:]}", way
    elif way == "byte order mark":
        encoding = "utf-8-sig"
    elif way == "nested":
        text = rng.choice(("[", '{"a":', "{", "- ")) * rng.choice((70, 5000, 100_000))
    elif way == "repeated lines":
        lines = text.splitlines(keepends=True)
        text = "".join(lines[: place % len(lines)]) + rng.choice(lines) * 100 + "".join(lines)
    elif way == "aliases":  # which expand to 9 to the power of 9 texts
        text = "a0: &a0 x\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
        )
    else:
        parts = {
            "long line": "a" * 1_000_000,
            "huge number": "9" * 5000,
            "half a surrogate pair": "\\ud83c",
            "quotes": '"',
        }
        text = text[:place] + parts[way] + text[place:]
    file.write_bytes(text.encode(encoding))
    return f"text: {way}"


def _values(file: Path, rng: random.Random, marker: Path) -> str:
    """Replace, remove or repeat values at random places of what the file holds."""
    if file.suffix == ".jsonl":
        lines = file.read_text().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(_mutate(json.loads(lines[place]), rng))
        file.write_text("\n".join(lines))
        return "another value in a line"
    value = (
        yaml.safe_load(file.read_text()) if file.suffix == ".yaml" else json.loads(file.read_text())
    )
    for _ in range(rng.randrange(1, 4)):
        value = _mutate(value, rng)
    text = yaml.safe_dump(value) if file.suffix == ".yaml" else json.dumps(value)
    file.write_text(text)
    return "other values"


def _mutate(value: Any, rng: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    pending = [value] if isinstance(value, dict | list) else []
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        places += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    new = copy.deepcopy(rng.choice(VALUES))
    if not places or rng.random() < 0.05:
        return new
    holder, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[rng.choice(("foo", "a\nb", "x" * 3000, "use_dora", "extends"))] = holder.pop(key)
    elif way == 1:
        holder *= 3
    else:
        holder[key] = new
    return value


def _header(file: Path, rng: random.Random, marker: Path) -> str:
    """Lie in the header of a safetensors file."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.2:
        size = rng.choice((0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1))
        file.write_bytes(size.to_bytes(8, "little") + content[8:])
        return "header of a wrong length"
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([key for key in header if key != "__metadata__"])
    way = rng.choice(("value", "name", "metadata", "twice"))
    if way == "value":
        header[name][rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(HEADER_VALUES)
    elif way == "name":
        header[rng.choice(("a\nb", "x" * 3000, "\0", "../x", "😀"))] = header.pop(name)
    elif way == "metadata":
        described = header.get("__metadata__", {})
        if "text_to_lora" in described:
            described["text_to_lora"] = json.dumps(
                _mutate(json.loads(described["text_to_lora"]), rng)
            )
        else:
            header["__metadata__"] = rng.choice(VALUES)
    else:
        header["again"] = header[name]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return f"header: {way}"


def _tensors(file: Path, rng: random.Random, marker: Path) -> str:
    """Tensors of other shapes, dtypes and values in a file that is whole."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

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


def _table(file: Path, rng: random.Random, marker: Path) -> str:
    """A Parquet file that is whole, of other columns, types and sizes."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    place = rng.randrange(table.num_columns)
    name, count = table.column_names[place], len(table)
    way = rng.choice(("null", "number", "binary", "nested", "renamed", "twice", "bomb", "no rows",
                      "long text of many rows", "NaN", "date"))  # fmt: skip
    if way == "no rows":
        table = table.slice(0, 0)
    elif way == "renamed":
        table = table.rename_columns([f"{c}\n" if c == name else c for c in table.column_names])
    elif way == "twice":
        table = table.append_column(name, table.column(place))
    elif way in ("bomb", "long text of many rows"):
        size = BOMB_BYTES // count if way == "bomb" else 1_000_000
        rows = count if way == "bomb" else BOMB_BYTES // size
        text = pyarrow.array(["a" * size]).dictionary_encode()
        column = pyarrow.DictionaryArray.from_arrays([0] * rows, text.dictionary)
        table = pyarrow.table({c: column for c in table.column_names})
    else:
        values: dict[str, list[Any]] = {
            "null": [None],
            "number": [2**62],
            "binary": [b"\xff\x00"],
            "nested": [[{"a": [["x"]]}]],
            "NaN": [float("nan")],
            "date": [pyarrow.scalar(2**40, pyarrow.timestamp("s"))],
        }
        table = table.set_column(place, name, pyarrow.array(values[way] * count))
    pyarrow.parquet.write_table(table, file, compression="zstd")
    return f"table: {way}"


def _counts(file: Path, rng: random.Random, marker: Path) -> str:
    """Lie in the 8-byte numbers of a GGUF file: counts and lengths."""
    content = bytearray(file.read_bytes())
    place = rng.choice((4, 8, 16, 24, 8 * rng.randrange(3, 60)))
    number = rng.choice((0, 1, 255, 2**31, 2**40, 2**63, 2**64 - 1))
    content[place : place + 8] = number.to_bytes(8, "little")
    file.write_bytes(content)
    return "counts that are wrong"


def _archive(file: Path, rng: random.Random, marker: Path) -> str:
    """A zip archive that is whole, of other members."""
    way = rng.choice(("no member", "other content", "encrypted", "member is a folder"))
    whole = file.with_suffix(".whole")
    shutil.copy(file, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        if way == "other content":
            new.writestr("tiny/tiny.gguf", rng.randbytes(100))
        elif way == "member is a folder":
            new.writestr("tiny/tiny.gguf/", b"")
        elif way == "encrypted":
            new.writestr("tiny/tiny.gguf", old.read("tiny/tiny.gguf"))
    whole.unlink()
    if way == "encrypted":  # bit 0 of the flags, in both headers of the member
        content = bytearray(file.read_bytes())
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        file.write_bytes(content)
    return f"archive: {way}"
