"""t2l ui tells bad input in one line."""

from __future__ import annotations

import socket
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
