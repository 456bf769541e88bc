from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs.hooks import verbs
from text_to_lora import __version__

VERBS = sorted(verbs())


def test_the_version_is_printed(t2l: Any) -> None:
    done = t2l("--version")
    assert (done.code, done.out) == (0, f"t2l {__version__}\n")


def test_no_verb_shows_the_help(t2l: Any) -> None:
    done = t2l()
    assert done.code == 2
    assert (done.out + done.err).startswith("Usage: t2l ")
    for verb in VERBS:
        assert f"\n  {verb.split()[0]} " in done.out + done.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_on_one_line(verb: str, t2l: Any) -> None:
    done = t2l(*verb.split(), "--help")
    assert done.code == 0
    examples = re.findall(rf"^ +t2l {verb}\b.*$", done.out, re.MULTILINE)
    assert examples
    for example in examples:
        assert example.count('"') % 2 == 0, f"{example!r} is broken over lines"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "x"], "Missing option '--output' / '-o'; see `t2l generate --help`"),
        (["run"], "neither is given of DESCRIPTION and --adapter FOLDER; give one of them"),
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


def run_t2l(
    *arguments: object, path: Path | None = None, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    places = [*([str(path)] if path else []), *sys.path]
    return subprocess.run(
        [sys.executable, "-m", "text_to_lora.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        # a job in the background of a shell would hand on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


INTERRUPTED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass
raise ImportError("an optional module")
"""


def test_ctrl_c_is_not_swallowed_while_modules_load(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(INTERRUPTED)
    done = run_t2l("generate", "Say yes", "-o", tmp_path / "out", path=tmp_path)
    assert (done.returncode, done.stderr) == (130, b"stopped\n")


def test_a_process_that_ignores_ctrl_c_goes_on(t2l: Any) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert t2l("--version").code == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [(["--version"], ""), (["generate", "--help"], "1")]
)
def test_a_full_standard_output_is_one_line(arguments: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run_t2l(*arguments, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    expected = b"error: cannot write to the standard output: No space left on device\n"
    assert done.stderr == expected


def test_a_standard_output_in_another_code_page_is_written(
    hypernet_folder: Path, tmp_path: Path
) -> None:
    arguments = ["generate", "Répondre en 日本語 🎉", "-m", hypernet_folder, "-o"]
    done = run_t2l(*arguments, tmp_path / "text", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert "Répondre en \\u65e5\\u672c\\u8a9e \\U0001f389".encode("cp1252") in done.stdout
    done = run_t2l(*arguments, tmp_path / "json", "--json", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["description"] == "Répondre en 日本語 🎉"


def test_an_unexpected_error_is_not_hidden(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("text_to_lora.lora.peft_format.save_file", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        t2l("generate", "Say yes", "-o", tmp_path / "out", "-m", hypernet_folder)
    assert list(tmp_path.iterdir()) == []
