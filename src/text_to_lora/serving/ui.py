"""A web page to try a sentence: answers of the base and under the adapter, side by side.

The page asks a server of `t2l serve` over HTTP, the one that shows it or another.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import gradio

_FORMS: Final = ("peft", "gguf", "mlx")
_MAX_INPUTS: Final = 8
_MAX_TOKENS: Final = 64
_THEME: Final = gradio.themes.Default(font=["sans-serif"], font_mono=["monospace"])  # no downloads
_EXAMPLE: Final = ("Answer in capitals.", "The soup is cold today.\nWhere is the station?")


@dataclass(frozen=True)
class Server:
    """A server of `t2l serve`; url: without /v1."""

    url: str
    api_key: str | None = None

    def read(self, path: str, body: dict[str, Any] | None = None) -> tuple[bytes, str]:
        """The body of an answer, and the name of the file that it is.

        Raises gradio.Error, which the page shows, with the one line that the server gives.
        """
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"}
        content = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(f"{self.url}{path}", content, headers), timeout=300) as reply:
                return reply.read(), reply.headers.get_filename("")
        except HTTPError as error:
            try:
                message = json.loads(error.read())["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = f"{self.url} answers with status {error.code}"
            raise gradio.Error(message, print_exception=False) from None
        except (URLError, OSError) as error:
            message = f"{self.url} does not answer ({error}); start `t2l serve`"
            raise gradio.Error(message, print_exception=False) from None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer."""
        return json.loads(self.read(path, body)[0])

    def chat(self, model: str, text: str) -> str:
        """The answer to one input."""
        turns = [{"role": "user", "content": text}]
        body = {"model": model, "messages": turns, "max_tokens": _MAX_TOKENS}
        return str(self.ask("/v1/chat/completions", body)["choices"][0]["message"]["content"])


@dataclass(frozen=True)
class State:
    """What the user chose; second, share: of a blend, where there is a second sentence."""

    sentence: str
    inputs: str
    strength: float
    second: str
    share: float

    def make(self, server: Server) -> tuple[str, list[dict[str, Any]]]:
        """The name of the model that answers, and the adapters that it is made of."""
        sentences = [self.sentence, *([self.second] if self.second.strip() else [])]
        body = {"descriptions": sentences, "strength": float(self.strength)}
        adapters = server.ask("/v1/adapters", body)["data"]
        if len(adapters) == 1:
            return adapters[0]["id"], adapters
        shares = (self.share, 1 - self.share)
        parts = [f"{one['id']}={share}" for one, share in zip(adapters, shares, strict=True)]
        return f"blend:{','.join(parts)}", adapters


def make_page(server: Server) -> gradio.Blocks:
    """The page, which asks one server."""
    with gradio.Blocks(title="text-to-lora", analytics_enabled=False) as page:
        gradio.Markdown("# A sentence becomes an adapter\nSay what the task is, and compare.")
        with gradio.Row():
            with gradio.Column():
                fields = _fields()
                button = gradio.Button("Answer", variant="primary", elem_id="answer")
            with gradio.Column(scale=2):
                table = gradio.Dataframe(
                    headers=["Input", "Base", "With the adapter"],
                    interactive=False,
                    wrap=True,
                    column_widths=["26%", "37%", "37%"],
                    elem_id="answers",
                )
                near = gradio.Markdown(elem_id="near")
                link = gradio.Textbox(
                    label="Link to this page as it is", interactive=False, elem_id="link"
                )
                with gradio.Row():
                    form = gradio.Radio(_FORMS, value="peft", label="Format", elem_id="form")
                    prepare = gradio.Button("Prepare the download", elem_id="prepare")
                file = gradio.File(label="Adapter", interactive=False, height=90, elem_id="file")

        def answer(
            sentence: str,
            inputs: str,
            strength: float,
            second: str,
            share: float,
            request: gradio.Request,
        ) -> tuple[list[list[str]], str, str]:
            state = State(sentence, inputs, strength, second, share)
            return *_answer(server, state), _link(request, state)

        outputs = [table, near, link]
        button.click(answer, fields, outputs, api_name=False)
        fields[2].release(answer, fields, outputs, api_name=False)
        prepare.click(
            lambda form, *values: _download(server, State(*values), form),
            [form, *fields],
            file,
            api_name=False,
        )
        page.load(_from_link, None, fields, api_name=False)
    return page


def mount(app: Any, address: str, api_key: str | None) -> None:
    """Show the page at /ui of a server's application; a key is asked for as the password."""
    login = None if api_key is None else ("t2l", api_key)
    page = make_page(Server(address, api_key))
    gradio.mount_gradio_app(app, page, "/ui", auth=login, theme=_THEME, footer_links=[])


def launch(server: Server, host: str, port: int) -> None:
    """Serve the page alone, for another server, until Ctrl-C."""
    make_page(server).launch(
        server_name=host, server_port=port, theme=_THEME, footer_links=[], quiet=True
    )


def _fields() -> list[Any]:
    """The fields of a state, in its order."""
    return [
        gradio.Textbox(label="Sentence that says the task", lines=2, elem_id="sentence"),
        gradio.Textbox(
            label=f"Inputs, one a line, at most {_MAX_INPUTS}", lines=4, elem_id="inputs"
        ),
        gradio.Slider(0.1, 3, value=1, step=0.1, label="Strength", elem_id="strength"),
        gradio.Textbox(label="Second sentence, to blend with; may be empty", elem_id="second"),
        gradio.Slider(0, 1, value=0.5, step=0.05, label="Share of the first", elem_id="share"),
    ]


def _answer(server: Server, state: State) -> tuple[list[list[str]], str]:
    """Rows of input, base answer and adapted answer, and how near the sentences are to the training."""
    inputs = [line.strip() for line in state.inputs.splitlines() if line.strip()]
    if not 0 < len(inputs) <= _MAX_INPUTS:
        message = f"{len(inputs)} inputs; write 1 to {_MAX_INPUTS}, one a line"
        raise gradio.Error(message, print_exception=False)
    base = server.ask("/v1/models")["data"][0]["id"]
    model, adapters = state.make(server)
    with ThreadPoolExecutor(2 * _MAX_INPUTS) as threads:  # all in one batch of the server
        asked = [(name, text) for name in (base, model) for text in inputs]
        answers = list(threads.map(lambda pair: server.chat(*pair), asked))
    rows = zip(inputs, answers[: len(inputs)], answers[len(inputs) :], strict=True)
    return [list(row) for row in rows], "\n\n".join(map(_nearness, adapters))


def _nearness(adapter: dict[str, Any]) -> str:
    nearest = adapter["nearest_description"]
    if nearest is None:
        return "This hypernetwork does not record what it was trained on."
    words = json.dumps(nearest["text"], ensure_ascii=False)
    return f"Nearest training description, cosine **{nearest['cosine']:.2f}**: {words}"


def _download(server: Server, state: State, form: str) -> str:
    """The path of a file that holds the adapter of a state."""
    if state.second.strip():
        message = "a blend is not stored; empty the second sentence to download an adapter"
        raise gradio.Error(message, print_exception=False)
    name, _ = state.make(server)
    content, file_name = server.read(f"/v1/adapters/{name}/download?format={form}")
    path = Path(tempfile.mkdtemp(prefix="t2l-")) / Path(file_name).name
    path.write_bytes(content)
    return str(path)


def _link(request: gradio.Request, state: State) -> str:
    """The address of the page with a state in it."""
    address = str(request.headers.get("referer") or request.request.url).partition("?")[0]
    return f"{address}?{urlencode(asdict(state))}"


def _from_link(request: gradio.Request) -> Sequence[Any]:
    """The state in a page's address; what is missing or no number gets its default."""
    given = dict(request.query_params)
    sentence = given.get("sentence", _EXAMPLE[0])
    inputs = given.get("inputs", _EXAMPLE[1])
    numbers = []
    for name, default, low, high in (("strength", 1.0, 0.1, 3.0), ("share", 0.5, 0.0, 1.0)):
        try:
            numbers.append(min(max(float(given.get(name, default)), low), high))
        except ValueError:
            numbers.append(default)
    return sentence, inputs, numbers[0], given.get("second", ""), numbers[1]
