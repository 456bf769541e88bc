"""The command line in this process, and the tiny folders that these tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from text_to_lora.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def t2l(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `t2l` with these arguments."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["t2l", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code is None or isinstance(left.value.code, int)
        return Done(left.value.code or 0, *capsys.readouterr())

    return call
