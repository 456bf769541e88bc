"""The example with the openai client asks a server three sentences at once."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_client.py"


def test_three_sentences_are_answered_at_once(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    arguments = ["--url", f"{server.url}/v1", "--input", "hello", "--max-tokens", "8"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    for sentence in ("Answer in capitals.", "Reply with the last word of the text."):
        assert f"{sentence}\n  {server.direct(sentence, 'hello', 8)!r}\n" in printed
