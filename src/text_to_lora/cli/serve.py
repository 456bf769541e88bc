"""t2l serve: an OpenAI-compatible server in which a sentence is the name of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from text_to_lora.cli.common import (
    Base,
    Device,
    check_device,
    note,
    progress,
    silence_transformers,
)
from text_to_lora.errors import ConfigError, needs_extra

if TYPE_CHECKING:
    from text_to_lora.generate import TextToLora

_DRAIN_SECONDS = 30.0

Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder that keeps adapters; default: 'store' in the folder of downloaded models.",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
MaxAdapters = Annotated[
    int,
    typer.Option(
        min=1,
        help="Adapters that the store keeps; the least recently used without an alias goes first.",
    ),
]


def serve(
    model: Annotated[
        str, typer.Argument(help="Hypernetwork: 'embedded', a folder, or OWNER/NAME.")
    ] = "embedded",
    base: Base = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="T2L_API_KEY", help="Key that clients have to send; default: none."),
    ] = None,
    store: Store = None,
    max_adapters: MaxAdapters = 1000,
    max_batch: Annotated[int, typer.Option(min=1, help="Most answers at once.")] = 32,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, help="How long the first answer of a batch waits for others.")
    ] = 10.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Most answers that wait.")] = 256,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages that may use the server; may be repeated."),
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Show a web page at /ui.")] = False,
    device: Device = "cpu",
) -> None:
    """Serve a base model under adapters that clients name by a sentence.

    The server speaks OpenAI's API. A client's model name is the base's name, "t2l:" and a sentence
    that says the task, an adapter's id or alias, or "blend:ID=0.7,ID=0.3". Requests with unlike
    adapters run in one batch. SIGTERM and Ctrl-C finish what runs.

    \b
    Examples:
      t2l serve
      t2l serve my-hypernet --port 8080 --api-key secret --store adapters
      curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
        -d '{"model": "t2l:Answer in capitals", "messages": [{"role": "user", "content": "hello"}]}'
    """
    if api_key == "":
        raise ConfigError("the API key is empty; leave --api-key out, or give a key")
    api, guard = import_serving("api"), import_serving("guard")
    page = import_serving("ui") if ui else None
    listener = guard.listen(host, port)
    with listener:
        limits = {"max_batch": max_batch, "max_queue": max_queue, "max_wait": max_wait_ms / 1000}
        with progress("loading the hypernetwork and the base model"):
            service = _load(model, base, store, max_adapters, limits, device)
        options = {"api_key": api_key, "cors_origins": cors_origin or []}
        app = api.make_app(service, drain_seconds=_DRAIN_SECONDS, **options)
        name, number = listener.getsockname()[:2]
        address = f"http://{name}:{number}"
        if page is not None:
            page.mount(app, address, api_key)
        note(f"serving {service.base_names[0]} at {address}/v1{f', page at {address}/ui' * ui}")
        api.run(app, listener, drain_seconds=_DRAIN_SECONDS)
    note("stopped; what ran was finished")


def _load(
    model: str,
    base: str | None,
    store: Path | None,
    max_adapters: int,
    limits: dict[str, Any],
    device: str,
) -> Any:
    from text_to_lora.generate import TextToLora
    from text_to_lora.models.cache import cache_folder
    from text_to_lora.models.find import base_to_load
    from text_to_lora.serving.service import Limits, Service
    from text_to_lora.serving.store import AdapterStore

    silence_transformers()
    check_device(device)
    bounds = Limits(**limits)
    shelf = AdapterStore(store or cache_folder() / "store", max_adapters)

    def load() -> TextToLora:
        t2l = TextToLora.from_pretrained(model, device=device)
        name = base or base_to_load(t2l.spec.base.name, t2l.spec.base.revision)
        t2l.attach_base(*t2l.load_base(name))
        return t2l

    names = [base] if base else []
    return Service(load(), shelf, base_names=names, limits=bounds, load_copy=load)


def import_serving(module: str) -> Any:
    """Import a module of the server.

    Raises ConfigError saying what to install when a package is missing.
    """
    from importlib import import_module

    with needs_extra("serve,ui", "serving"):
        return import_module(f"text_to_lora.serving.{module}")
