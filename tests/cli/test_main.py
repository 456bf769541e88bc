from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from text_to_lora import __version__
from text_to_lora.cli.app import app

COMMANDS = sorted(app.registered_commands, key=lambda command: command.name or "")
VERBS = [
    *([command.name] for command in COMMANDS),
    *(
        [group.name, command.name]
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands  # type: ignore[union-attr]
    ),
]


def test_the_version_is_printed(t2l: Any) -> None:
    done = t2l("--version")
    assert (done.code, done.out) == (0, f"t2l {__version__}\n")


def test_no_verb_shows_the_help(t2l: Any) -> None:
    done = t2l()
    assert done.code == 2
    assert (done.out + done.err).startswith("Usage: t2l ")
    for verb in VERBS:
        assert f"\n  {verb[0]} " in done.out + done.err


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_shows_an_example_on_one_line(verb: list[str], t2l: Any) -> None:
    done = t2l(*verb, "--help")
    assert done.code == 0
    examples = re.findall(rf"^ +t2l {' '.join(verb)}\b.*$", done.out, re.MULTILINE)
    assert examples
    for example in examples:
        assert example.count('"') % 2 == 0, f"{example!r} is broken over lines"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "x"], "Missing option '--output' / '-o'; see `t2l generate --help`"),
        (["run"], "Missing argument 'DESCRIPTION'; see `t2l run --help`"),
        (["generate", "x", "-o", "y", "--strngth", "1"], "No such option: --strngth"),
        (["generate", "x", "-o", "y", "--strength", "strong"], "Invalid value for '--strength'"),
        (["run", "x", "-i", "a", "--max-new-tokens", "0"], "Invalid value for '--max-new-tokens'"),
        (["merge", "x", "-o", "y", "--dtype", "int8"], "Invalid value for '--dtype'"),
        (["genrate", "x"], "No such command 'genrate'"),
        (["train", "sft"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str, t2l: Any) -> None:
    done = t2l(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said.casefold() in done.err.casefold()


def test_ctrl_c_is_one_line_and_leaves_nothing(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("text_to_lora.lora.peft_format.save_file", interrupt)
    done = t2l("generate", "Say yes", "-o", tmp_path / "out", "-m", hypernet_folder)
    assert (done.code, done.err) == (130, "stopped; nothing half-written was left\n")
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_error_is_not_hidden(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("text_to_lora.lora.peft_format.save_file", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        t2l("generate", "Say yes", "-o", tmp_path / "out", "-m", hypernet_folder)
    assert list(tmp_path.iterdir()) == []
