"""t2l serve in a process of its own: it answers, ends well on SIGTERM, and tells bad input in a line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest


class Process:
    """A server that was started by the command line."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "text_to_lora.cli", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            [*command, "--port", "0"], stderr=subprocess.PIPE, text=True, env=os.environ
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line + self.process.stderr.read()
        self.url = address[0]

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; gives the exit code and what was printed."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        printed = self.process.stderr.read()
        return self.process.wait(30), printed


@pytest.fixture
def start(
    hypernet_folder: Path, base_folder: Path, tmp_path: Path
) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def call(*arguments: object) -> Process:
        places = (hypernet_folder, "--base", base_folder, "--store", tmp_path / "store")
        running.append(Process(*places, *arguments))
        return running[-1]

    yield call
    for one in running:
        one.process.kill()
        one.process.wait()
        assert one.process.stderr is not None
        one.process.stderr.close()


def ask(url: str, **options: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 200} | options
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish(start: Callable[..., Process], number: int) -> None:
    server = start()
    replies: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: replies.append(ask(server.url, model="t2l:Say yes")))
    asking.start()
    with httpx.Client(base_url=server.url) as client:
        while "t2l_batch_rows_sum 0.0" in client.get("/metrics").text:
            pass
    code, printed = server.end(number)
    asking.join()
    assert (code, printed) == (0, "stopped; what ran was finished\n")
    assert replies[0].status_code == 200 and replies[0].json()["usage"]["completion_tokens"] > 9


def test_a_killed_server_starts_again_with_what_it_had(start: Callable[..., Process]) -> None:
    first = start()
    text = ask(first.url, model="t2l:Say yes").json()["choices"][0]["message"]["content"]
    reply = httpx.post(f"{first.url}/v1/adapters", json={"description": "Say yes", "alias": "yes"})
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    again = start("--api-key", "secret")
    with httpx.Client(base_url=again.url, headers={"Authorization": "Bearer secret"}) as client:
        assert client.get("/v1/adapters/yes").json() == reply.json()
        body = {
            "model": "yes",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 200,
        }
        reply = client.post("/v1/chat/completions", json=body, timeout=60)
    assert reply.json()["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "unknown hypernetwork 'nowhere'"),
        (["--base", "nowhere"], "unknown base model 'nowhere'"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1:"),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--max-batch", "0"], "Invalid value for '--max-batch'"),
        (["--max-wait-ms", "70000"], "max_wait is 70.0 s; 0 to 60 s are allowed"),
        (["--max-adapters", "0"], "Invalid value for '--max-adapters'"),
        (["--api-key", ""], "the API key is empty"),
        (["--device", "nothing"], "device 'nothing' is not there"),
    ],
)
def test_bad_input_is_one_line(
    t2l: Callable[..., Any],
    hypernet_folder: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    model = [] if arguments == ["nowhere"] else [hypernet_folder]
    port = [] if "--port" in arguments else ["--port", 0]
    done = t2l("serve", *model, *arguments, *port, "--store", tmp_path / "store")
    assert done.code == 2 and message in done.err, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1


def test_a_port_that_is_taken_and_a_folder_that_is_no_store_are_told(
    t2l: Callable[..., Any], hypernet_folder: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = t2l("serve", hypernet_folder, "--port", port, "--store", tmp_path / "store")
    assert (
        done.err
        == f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another\n"
    )
    (tmp_path / "x").write_text("mine")
    done = t2l("serve", hypernet_folder, "--port", 0, "--store", tmp_path)
    assert "is no store of adapters; name a new folder" in done.err and done.code == 2


@pytest.mark.parametrize(
    ("arguments", "module", "package"),
    [(["serve"], "api", "fastapi"), (["ui", "--server", "http://127.0.0.1:9"], "ui", "gradio")],
)
def test_a_missing_package_is_told(
    arguments: list[str],
    module: str,
    package: str,
    t2l: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, f"text_to_lora.serving.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert t2l(*arguments).err == (
        f"error: serving needs the package {package!r}; pip install 'text-to-lora[serve,ui]'\n"
    )
