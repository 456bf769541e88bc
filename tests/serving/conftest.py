"""The tiny model of these tests, and answers that are written one after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import answer
from text_to_lora.serving.api import make_app
from text_to_lora.serving.guard import listen
from text_to_lora.serving.service import Limits, Service
from text_to_lora.serving.store import AdapterStore


@pytest.fixture(scope="session")
def t2l(hypernet_folder: Path, base_folder: Path) -> TextToLora:
    """A tiny hypernetwork with its base."""
    loaded = TextToLora.from_pretrained(hypernet_folder)
    loaded.attach_base(*loaded.load_base(str(base_folder)))
    return loaded


@pytest.fixture(scope="session")
def base(t2l: TextToLora) -> tuple[Any, Any]:
    """The tiny base and its tokenizer."""
    return t2l.base


class Server:
    """A server of the tiny model on a free port, in this process."""

    def __init__(self, t2l: TextToLora, folder: Path, **options: Any) -> None:
        limits = Limits(**{"max_wait": 0.02} | options.pop("limits", {}))
        self.t2l = t2l
        self._clients: list[Any] = []
        self.service = Service(
            t2l,
            AdapterStore(folder, options.pop("max_adapters", 100)),
            base_names=["tiny"],
            limits=limits,
            load_copy=options.pop("load_copy", None),
        )
        self.listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        page = options.pop("ui", False)
        app = make_app(self.service, drain_seconds=5, **options)
        if page:
            from text_to_lora.serving.ui import mount

            mount(app, self.url, options.get("api_key"))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, args=([self.listener],))
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def client(self, **options: Any) -> openai.OpenAI:
        """The real client of OpenAI's API."""
        settings = {"api_key": "none", "max_retries": 0, "timeout": 30} | options
        self._clients.append(openai.OpenAI(base_url=f"{self.url}/v1", **settings))
        return self._clients[-1]

    def http(self) -> httpx.Client:
        """A plain client."""
        self._clients.append(httpx.Client(base_url=self.url, timeout=60))
        return self._clients[-1]

    def direct(self, sentence: str | None, text: str, max_new_tokens: int = 16) -> str:
        """The answer without a server."""

        def run() -> str:
            weights = None if sentence is None else self.t2l.generate([sentence]).weights
            model, tokenizer = self.t2l.base
            return answer(model, tokenizer, [text], weights=weights, max_new_tokens=max_new_tokens)[
                0
            ]

        return self.service.engine.call(run).result(30)

    def close(self) -> None:
        """Stop as after a signal."""
        for client in self._clients:
            client.close()
        self._server.should_exit = True
        self._thread.join(20)
        self.listener.close()
        assert not self.service.engine.is_alive


@pytest.fixture
def serve(t2l: TextToLora, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers, which are stopped at the end."""
    servers: list[Server] = []

    def start(t2l: TextToLora = t2l, **options: Any) -> Server:
        servers.append(Server(t2l, options.pop("folder", tmp_path / "store"), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def shared(t2l: TextToLora, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for many small requests."""
    folder = tmp_path_factory.mktemp("shared") / "store"
    server = Server(t2l, folder, limits={"max_body": 20_000})
    yield server
    server.close()
