"""t2l ui: a web page to try sentences."""

from __future__ import annotations

from typing import Annotated

import typer

from text_to_lora.cli.common import Base, Device
from text_to_lora.cli.serve import Host, MaxAdapters, Port, Store, import_serving, serve
from text_to_lora.errors import ConfigError


def ui(
    model: Annotated[
        str, typer.Argument(help="Hypernetwork: 'embedded', a folder, or OWNER/NAME.")
    ] = "embedded",
    base: Base = None,
    server: Annotated[
        str | None,
        typer.Option(help="Address of a `t2l serve` that runs already; MODEL is then not loaded."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="T2L_API_KEY", help="Key of the server.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    store: Store = None,
    max_adapters: MaxAdapters = 1000,
    device: Device = "cpu",
) -> None:
    """Show a web page that answers with the base and under the adapter of a sentence.

    Without --server the page is at /ui of a server that this command starts.

    \b
    Examples:
      t2l ui
      t2l ui --server http://127.0.0.1:8000 --port 7860
    """
    if server is None:
        serve(model, base, host, port, api_key, store, max_adapters, ui=True, device=device)
        return
    if not server.startswith(("http://", "https://")):
        raise ConfigError(
            f"server is {server!r}; an address such as http://127.0.0.1:8000 is needed"
        )
    page = import_serving("ui")
    import_serving("guard").listen(host, port).close()
    page.launch(page.Server(server.rstrip("/").removesuffix("/v1"), api_key), host, port)
