"""t2l ui tells bad input in one line."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

SERVER = "http://127.0.0.1:9"


def test_an_address_that_is_none_is_told(t2l: Callable[..., Any]) -> None:
    done = t2l("ui", "--server", "127.0.0.1:8000")
    assert done.code == 2
    assert done.err == (
        "error: server is '127.0.0.1:8000'; an address such as http://127.0.0.1:8000 is needed\n"
    )


def test_a_port_that_is_taken_is_told(t2l: Callable[..., Any]) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = t2l("ui", "--server", SERVER, "--port", port)
    assert (
        done.code == 2 and f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.err
    )


def test_a_missing_package_is_told(
    t2l: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "text_to_lora.serving.ui", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = t2l("ui", "--server", SERVER)
    assert (
        done.err
        == "error: serving needs the package 'gradio'; pip install 'text-to-lora[serve,ui]'\n"
    )
