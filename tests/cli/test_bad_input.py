"""Bad input: one line on stderr, exit code 2, and the disk as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tiny_models import save_base

Arguments = list[object]


@dataclass(frozen=True)
class Place:
    """A folder to spoil: copies of a base, a hypernetwork and an adapter, and free space."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def net(self) -> Path:
        return self.root / "net"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def generate(self, *texts: str) -> Arguments:
        return ["generate", *(texts or ("Say yes",)), "-o", self.out, "-m", self.net]

    def run(self, *more: object) -> Arguments:
        return ["run", "Say yes", "-i", "a", "-m", self.net, "--max-new-tokens", 1, *more]

    def merge(self, *more: object) -> Arguments:
        return ["merge", self.adapter, "-o", self.out, "--base", self.base, *more]


@pytest.fixture(scope="module")
def adapter_folder(hypernet_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from text_to_lora.generate import TextToLora

    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    TextToLora.from_pretrained(hypernet_folder).generate(["Say yes"]).save(folder)
    return folder


@pytest.fixture
def place(base_folder: Path, hypernet_folder: Path, adapter_folder: Path, tmp_path: Path) -> Place:
    found = Place(tmp_path / "place")
    shutil.copytree(base_folder, found.base)
    shutil.copytree(hypernet_folder, found.net)
    shutil.copytree(adapter_folder, found.adapter)
    return found


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-16])


def _scramble(file: Path) -> None:
    file.write_bytes(b"\xff" * 64)


def _pickle(file: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, file)


def _nan(file: Path) -> None:
    tensors = load_file(file)
    tensors[min(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})


def _rename(file: Path, name: str) -> None:
    file.rename(file.with_name(name))


# Spoilers take the place and give the arguments of a command that must be refused.
Spoiler = Callable[[Place], Arguments]


def _spoil_weights(part: str, spoil: Callable[[Path], None], command: str) -> Spoiler:
    def prepare(place: Place) -> Arguments:
        name = "adapter_model.safetensors" if part == "adapter" else "model.safetensors"
        spoil(place.root / part / name)
        if command == "inspect":
            return ["inspect", place.root / part]
        arguments: Arguments = getattr(place, command)()
        return arguments

    return prepare


def _not_utf8(place: Place) -> Arguments:
    (place.root / "tasks.txt").write_bytes("décide\n".encode("latin-1"))
    return ["generate", "--from-file", place.root / "tasks.txt", "-o", place.out, "-m", place.net]


def _inputs_not_utf8(place: Place) -> Arguments:
    (place.root / "inputs.txt").write_bytes(b"a\xff\n")
    return ["run", "Say yes", "--input-file", place.root / "inputs.txt", "-m", place.net]


def _config_not_utf8(place: Place) -> Arguments:
    (place.net / "config.json").write_bytes(b'{"format": "\xe9"}')
    return place.generate()


def _empty_file(place: Place) -> Arguments:
    (place.root / "tasks.txt").write_text("\n  \n")
    return ["generate", "--from-file", place.root / "tasks.txt", "-o", place.out, "-m", place.net]


def _existing(place: Place) -> Arguments:
    place.out.mkdir()
    (place.out / "precious").write_text("mine")
    return place.generate()


def _existing_file(place: Place) -> Arguments:
    place.out.write_text("mine")
    return [*place.generate(), "--overwrite"]


def _existing_merge(place: Place) -> Arguments:
    place.out.mkdir()
    return place.merge()


def _another_base(place: Place) -> Arguments:
    save_base(place.root / "wide", hidden_size=64)
    return place.run("--base", place.root / "wide")


def _another_base_merge(place: Place) -> Arguments:
    save_base(place.root / "wide", hidden_size=64)
    return ["merge", place.adapter, "-o", place.out, "--base", place.root / "wide"]


def _no_weights(place: Place) -> Arguments:
    (place.net / "model.safetensors").unlink()
    return place.generate()


def _incomplete_base(place: Place) -> Arguments:
    file = place.base / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    return place.run("--base", place.base)


def _renamed_pickle(part: str) -> Spoiler:
    def prepare(place: Place) -> Arguments:
        if part == "net":
            _rename(place.net / "model.safetensors", "model.bin")
            return place.generate()
        if part == "adapter":
            _rename(place.adapter / "adapter_model.safetensors", "adapter_model.bin")
            return place.merge()
        _rename(place.base / "model.safetensors", "pytorch_model.bin")
        return place.run("--base", place.base)

    return prepare


CASES: dict[str, tuple[Spoiler, str]] = {
    # descriptions and texts
    "empty description": (lambda p: p.generate(""), "description 1 of 1 is empty"),
    "white space": (lambda p: p.generate("fine", " \n\t"), "description 2 of 2 is empty"),
    "no description": (
        lambda p: ["generate", "-o", p.out, "-m", p.net],
        "no description; write one, or give a file with --from-file",
    ),
    "empty description of run": (
        lambda p: ["run", " ", "-i", "a", "-m", p.net],
        "description 1 of 1 is empty",
    ),
    "no input": (lambda p: ["run", "Say yes", "-m", p.net], "no input; write one, or give a file"),
    "empty input": (lambda p: ["run", "x", "-i", "", "-m", p.net], "input 1 of 1 is empty"),
    "file of blank lines": (_empty_file, "holds no text; write one entry a line"),
    "missing file": (
        lambda p: ["generate", "--from-file", p.root / "no.txt", "-o", p.out, "-m", p.net],
        "no.txt': No such file",
    ),
    # not UTF-8
    "descriptions not UTF-8": (_not_utf8, "tasks.txt' is not UTF-8 (byte 1); save it as UTF-8"),
    "inputs not UTF-8": (_inputs_not_utf8, "inputs.txt' is not UTF-8 (byte 1)"),
    "config not UTF-8": (_config_not_utf8, "config.json' is not UTF-8"),
    # names
    "unknown hypernetwork": (
        lambda p: ["generate", "x", "-o", p.out, "-m", "nothing"],
        "unknown hypernetwork 'nothing'; give 'embedded', a folder that exists",
    ),
    "unknown base": (lambda p: p.run("--base", "gpt9"), "unknown base model 'gpt9'"),
    "unknown base of merge": (
        lambda p: ["merge", p.adapter, "-o", p.out, "--base", "gpt9"],
        "unknown base model 'gpt9'",
    ),
    "unknown adapter": (lambda p: ["merge", "nope", "-o", p.out], "unknown adapter 'nope'"),
    "unknown folder": (lambda p: ["inspect", p.root / "no"], "no' is not a folder"),
    "folder of neither kind": (lambda p: ["inspect", p.root], "holds neither adapter_config.json"),
    "models of no folder": (lambda p: ["models", p.root / "no"], "no' is not a folder"),
    # another base
    "hypernetwork of another base": (_another_base, "adapter is for base"),
    "adapter of another base": (_another_base_merge, "does not fit"),
    # broken weights
    "truncated hypernetwork": (
        _spoil_weights("net", _truncate, "generate"),
        "model.safetensors' is truncated or corrupt",
    ),
    "corrupt hypernetwork": (
        _spoil_weights("net", _scramble, "inspect"),
        "model.safetensors' is truncated or corrupt",
    ),
    "truncated adapter": (
        _spoil_weights("adapter", _truncate, "merge"),
        "adapter_model.safetensors' is truncated or corrupt",
    ),
    "corrupt adapter": (
        _spoil_weights("adapter", _scramble, "inspect"),
        "adapter_model.safetensors' is truncated or corrupt",
    ),
    "truncated base": (_spoil_weights("base", _truncate, "merge"), "cannot load base model"),
    "missing weights": (_no_weights, "holds no model.safetensors; copy it again"),
    "incomplete base": (_incomplete_base, "lacks model.layers.1.mlp.up_proj.weight"),
    # pickles
    "pickle as hypernetwork": (
        _spoil_weights("net", _pickle, "generate"),
        "is a pickle named safetensors, which can run code",
    ),
    "pickle as adapter": (
        _spoil_weights("adapter", _pickle, "merge"),
        "is a pickle named safetensors, which can run code",
    ),
    "pickle as base": (_spoil_weights("base", _pickle, "merge"), "cannot load base model"),
    "pickle beside hypernetwork": (_renamed_pickle("net"), "holds model.bin, a pickle"),
    "pickle beside adapter": (_renamed_pickle("adapter"), "holds adapter_model.bin, a pickle"),
    "pickle beside base": (_renamed_pickle("base"), "cannot load base model"),
    # NaN
    "NaN in hypernetwork": (_spoil_weights("net", _nan, "generate"), "NaN or infinity in "),
    "NaN in adapter": (_spoil_weights("adapter", _nan, "merge"), "NaN or infinity in "),
    "NaN in inspected adapter": (_spoil_weights("adapter", _nan, "inspect"), "NaN or infinity in "),
    "NaN in base": (_spoil_weights("base", _nan, "merge"), "has NaN or infinity in "),
    # output
    "existing folder": (_existing, "exists already; pass --overwrite"),
    "existing file": (_existing_file, "exists already; choose another path"),
    "existing folder of merge": (_existing_merge, "exists already; pass --overwrite"),
    # values of options
    "strength 0": (lambda p: [*p.generate(), "--strength", 0], "strength is 0.0; a number other"),
    "strength NaN": (lambda p: [*p.generate(), "--strength", "nan"], "strength is nan"),
    "strength of run": (lambda p: p.run("--strength", "inf"), "strength is inf"),
    "blend of words": (
        lambda p: [*p.generate("x", "y"), "--blend", "some,more"],
        "blend is 'some,more'; 'mean' or numbers with commas",
    ),
    "blend of NaN": (lambda p: [*p.generate("x", "y"), "--blend", "nan,1"], "finite shares"),
    "blend of too few": (
        lambda p: [*p.generate("x", "y"), "--blend", "1"],
        "blend has 1 shares for 2 descriptions",
    ),
    "device": (lambda p: [*p.generate(), "--device", "teapot"], "device 'teapot' is not there"),
    "answer longer than the context": (
        lambda p: [*p.run(), "--max-new-tokens", 9999],
        "reads 256 tokens",
    ),
}


def _snapshot(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in root.rglob("*")
    }


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_changes_nothing(case: str, place: Place, t2l: Any) -> None:
    prepare, said = CASES[case]
    arguments = prepare(place)
    before = _snapshot(place.root)
    done = t2l(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert said in done.err
    assert _snapshot(place.root) == before


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"  # safetensors


@pytest.mark.parametrize(
    "failure", [SafetensorError(FULL), OSError(errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize("command", ["generate", "merge"])
def test_a_full_disk_is_one_line_and_changes_nothing(
    command: str, failure: Exception, place: Place, t2l: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr("text_to_lora.lora.peft_format.save_file", fail)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    before = _snapshot(place.root)
    done = t2l(*getattr(place, command)())
    assert done.code == 2
    assert done.err == (
        f"error: no space left on the disk of '{place.out}'; free some, then repeat\n"
    )
    assert _snapshot(place.root) == before


def test_a_full_disk_while_overwriting_keeps_what_was_there(
    place: Place, t2l: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert t2l(*place.generate()).code == 0
    before = _snapshot(place.root)

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    done = t2l(*place.generate("Say no"), "--overwrite")
    assert done.code == 2
    assert "no space left" in done.err
    assert _snapshot(place.root) == before
    kept = json.loads((place.out / "provenance.json").read_text())
    assert kept["description"] == "Say yes"
