"""Bad input: one line on stderr, exit code 2, and the disk as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from text_to_lora.generate import TextToLora
from tiny_models import save_base

GENERATE = 'generate "Say yes" -o out -m net'
RUN = 'run "Say yes" -i a -m net --max-new-tokens 1'
MERGE = "merge adapter -o out --base base"
NET, ADAPTER, BASE = (
    "net/model.safetensors",
    "adapter/adapter_model.safetensors",
    "base/model.safetensors",
)

Damage = Callable[[], object]


@pytest.fixture(scope="module")
def folders(
    base_folder: Path, hypernet_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("folders")
    shutil.copytree(base_folder, root / "base")
    shutil.copytree(hypernet_folder, root / "net")
    TextToLora.from_pretrained(hypernet_folder).generate(["Say yes"]).save(root / "adapter")
    save_base(root / "wide", hidden_size=64)
    return root


@pytest.fixture
def place(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to spoil, which is the current one: two bases, a hypernetwork and an adapter."""
    root = Path(shutil.copytree(folders, tmp_path / "place"))
    monkeypatch.chdir(root)
    return root


def write(name: str, content: bytes) -> Damage:
    return lambda: Path(name).write_bytes(content)


def make(name: str) -> Damage:
    return lambda: Path(name).mkdir()


def truncate(name: str) -> Damage:
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[:-16])


def pickle(name: str) -> Damage:
    return lambda: torch.save({"weight": torch.zeros(2)}, name)


def rename(name: str, to: str) -> Damage:
    return lambda: Path(name).rename(Path(name).with_name(to))


def edit(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage() -> None:
        tensors = load_file(name)
        change(tensors)
        save_file(tensors, name, metadata={"format": "pt"})

    return damage


def nan(name: str) -> Damage:
    return edit(name, lambda tensors: tensors[min(tensors)].view(-1)[0].fill_(torch.nan))


MISSING = ("model.layers.1.mlp.up_proj.weight", "model.norm.weight")
INCOMPLETE = edit(BASE, lambda tensors: [tensors.pop(name) for name in MISSING])
LINES = "generate --from-file tasks.txt -o out -m net"
NO_UTF8 = "décide\n".encode("latin-1")

# What is done before, the command, and what is said.
CASES: dict[str, tuple[Damage | None, str, str]] = {
    # texts
    "empty description": (None, 'generate "" -o out -m net', "description 1 of 1 is empty"),
    "white space": (None, f"{GENERATE} ' \n\t'", "description 2 of 2 is empty"),
    "no description": (
        None,
        "generate -o out -m net",
        "no description; write one, or give a file with --from-file",
    ),
    "blank description of run": (None, "run ' ' -i a -m net", "description 1 of 1 is empty"),
    "run of nothing": (None, "run -i a", "neither is given of DESCRIPTION and --adapter FOLDER"),
    "run of two": (None, "run x -i a --adapter adapter", "both are given of DESCRIPTION and"),
    "model of an adapter": (None, "run -i a --adapter adapter -m net", "names one that is there"),
    "unknown adapter to run": (None, "run -i a --adapter none", "unknown adapter 'none'"),
    "net as adapter": (None, "run -i a --adapter net", "adapter_config.json"),
    "no input": (None, "run x -m net", "no input; write one, or give a file"),
    "empty input": (None, "run x -i '' -m net", "input 1 of 1 is empty"),
    "blank lines": (write("tasks.txt", b"\n  \n"), LINES, "holds no text; write one entry a line"),
    "missing file": (None, LINES, "tasks.txt': No such file"),
    "lines": (write("tasks.txt", NO_UTF8), LINES, "tasks.txt' is not UTF-8 (byte 1); save it"),
    "inputs": (write("in.txt", NO_UTF8), "run x --input-file in.txt -m net", "is not UTF-8 (byte"),
    "config": (write("net/config.json", b'{"format": "\xe9"}'), GENERATE, "json' is not UTF-8"),
    # names
    "hypernetwork": (
        None,
        "generate x -o out -m nothing",
        "unknown hypernetwork 'nothing'; give 'embedded', a folder that exists",
    ),
    "base": (None, f"{RUN} --base gpt9", "unknown base model 'gpt9'"),
    "base of merge": (None, "merge adapter -o out --base gpt9", "unknown base model 'gpt9'"),
    "adapter": (None, "merge nope -o out", "unknown adapter 'nope'"),
    "folder": (None, "inspect nowhere", "'nowhere' is not a folder"),
    "neither kind": (None, "inspect .", "holds neither adapter_config.json"),
    "reference": (rename("net/config.json", "hypermod.pt"), "inspect net", "run t2l convert"),
    "models": (None, "models nowhere", "'nowhere' is not a folder"),
    "other base": (None, f"{RUN} --base wide", "adapter is for base"),
    "other base of merge": (None, "merge adapter -o out --base wide", "does not fit"),
    # broken weights
    "truncated net": (truncate(NET), GENERATE, "model.safetensors' is truncated or corrupt"),
    "corrupt net": (write(NET, b"\xff" * 64), "inspect net", "is truncated or corrupt"),
    "truncated adapter": (truncate(ADAPTER), MERGE, "safetensors' is truncated or corrupt"),
    "corrupt adapter": (write(ADAPTER, b"\xff" * 64), "inspect adapter", "is truncated or corrupt"),
    "truncated base": (truncate(BASE), MERGE, "cannot load base model"),
    "no weights": (rename(NET, "x"), GENERATE, "holds no model.safetensors; copy it again"),
    "incomplete base": (
        INCOMPLETE,
        f"{RUN} --base base",
        f"lacks {MISSING[0]} and 1 more of the kind; copy or download it again",
    ),
    "pickle as net": (pickle(NET), GENERATE, "is a pickle named safetensors, which can run code"),
    "pickle as adapter": (pickle(ADAPTER), MERGE, "is a pickle named safetensors, which can run"),
    "pickle as base": (pickle(BASE), MERGE, "cannot load base model"),
    "pickle beside net": (rename(NET, "model.bin"), GENERATE, "holds model.bin, a pickle"),
    "pickle beside adapter": (
        rename(ADAPTER, "adapter_model.bin"),
        MERGE,
        "holds adapter_model.bin, a pickle",
    ),
    "pickle beside base": (
        rename(BASE, "pytorch_model.bin"),
        f"{RUN} --base base",
        "cannot load base model",
    ),
    "NaN in net": (nan(NET), GENERATE, "NaN or infinity in "),
    "NaN in adapter": (nan(ADAPTER), MERGE, "NaN or infinity in "),
    "NaN in inspected adapter": (nan(ADAPTER), "inspect adapter", "NaN or infinity in "),
    "NaN in base": (nan(BASE), MERGE, "has NaN or infinity in "),
    # output
    "existing folder": (make("out"), GENERATE, "exists already; pass --overwrite"),
    "existing file": (write("out", b"x"), f"{GENERATE} --overwrite", "already; choose another"),
    # values of options
    "strength 0": (None, f"{GENERATE} --strength 0", "strength is 0.0; a number other"),
    "strength NaN": (None, f"{GENERATE} --strength nan", "strength is nan"),
    "strength of run": (None, f"{RUN} --strength inf", "strength is inf"),
    "blend of words": (
        None,
        f"{GENERATE} --blend some,more",
        "blend is 'some,more'; 'mean' or numbers with commas",
    ),
    "blend of NaN": (None, f"{GENERATE} --blend nan", "finite shares"),
    "blend of too few": (None, f"{GENERATE} y --blend 1", "blend has 1 shares for 2 descriptions"),
    "similarity": (
        None,
        f"{GENERATE} --min-similarity 1.5",
        "min-similarity is 1.5; a cosine from -1 to 1 is needed",
    ),
    "device": (None, f"{GENERATE} --device teapot", "device 'teapot' is not there"),
    "answer beyond the context": (
        None,
        f"{RUN} --max-new-tokens 256",
        "max_new_tokens is 256; this base reads 256 tokens",
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
def test_bad_input_is_one_line_and_changes_nothing(case: str, place: Path, t2l: Any) -> None:
    damage, command, said = CASES[case]
    if damage is not None:
        damage()
    before = _snapshot(place)
    done = t2l(*shlex.split(command))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert done.err.startswith("error: ")
    assert said in done.err
    assert _snapshot(place) == before


@pytest.mark.parametrize(
    "command",
    [
        "compress library",
        "convert reference",
        "export adapter --to mlx",
        "merge adapter",
        "refine x --rows none.csv",
    ],
)
def test_an_output_that_exists_is_refused_before_anything_is_read(
    command: str, tmp_path: Path, t2l: Any
) -> None:
    done = t2l(*command.split(), "-o", tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "exists already; pass --overwrite" in done.err


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"  # safetensors


@pytest.mark.parametrize(
    "failure", [SafetensorError(FULL), OSError(errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize("command", [GENERATE, MERGE])
def test_a_full_disk_is_one_line_and_changes_nothing(
    command: str, failure: Exception, place: Path, t2l: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr("text_to_lora.lora.peft_format.save_file", fail)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    before = _snapshot(place)
    done = t2l(*shlex.split(command))
    assert done.code == 2
    assert done.err == "error: no space left on the disk of 'out'; free some, then repeat\n"
    assert _snapshot(place) == before


def test_a_full_disk_while_overwriting_leaves_the_earlier_folder(
    place: Path, t2l: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert t2l(*shlex.split(GENERATE)).code == 0
    before = _snapshot(place)

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    done = t2l("generate", "Say no", "-o", "out", "-m", "net", "--overwrite")
    assert done.code == 2 and "no space left" in done.err
    assert _snapshot(place) == before
    assert json.loads(Path("out/provenance.json").read_text())["description"] == "Say yes"
