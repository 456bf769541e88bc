"""The page in headless Chromium: type, answer, move the strength, blend, download, and an error."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

gradio = pytest.importorskip(
    "gradio", reason="gradio is not installed: pip install 'text-to-lora[ui]'"
)
from text_to_lora.serving import ui  # noqa: E402

SENTENCE = "Answer in capitals"


def make_state(**changes: Any) -> ui.State:
    fields = {
        "sentence": SENTENCE,
        "inputs": "hello\nx",
        "strength": 1.0,
        "second": "",
        "share": 0.5,
    }
    return ui.State(**fields | changes)


@pytest.fixture
def page(serve: Callable[..., Any]) -> Any:
    """A server that shows its page."""
    return serve(ui=True)


def test_rows_are_those_of_the_server_and_a_blend_too(serve: Callable[..., Any]) -> None:
    server = serve()
    client = ui.Server(server.url)
    rows, words = ui._answer(client, make_state())
    for text, base, adapted in rows:
        assert base == server.direct(None, text, 64)
        assert adapted == server.direct(SENTENCE, text, 64)
    assert [row[0] for row in rows] == ["hello", "x"]
    assert words == "This hypernetwork does not record what it was trained on."
    blended, _ = ui._answer(client, make_state(second="Say no", share=1.0))
    assert blended == rows
    half, _ = ui._answer(client, make_state(second="Say no", share=0.5))
    assert half != rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentence": " "}, "the description is empty; say in a sentence"),
        ({"inputs": " \n"}, "0 inputs; write 1 to 8, one a line"),
        ({"inputs": "x\n" * 9}, "9 inputs; write 1 to 8"),
        ({"sentence": "x" * 2001}, "has 2001 characters"),
    ],
)
def test_an_error_is_its_one_line(
    serve: Callable[..., Any], change: dict[str, str], message: str
) -> None:
    with pytest.raises(gradio.Error, match=message) as refused:
        ui._answer(ui.Server(serve().url), make_state(**change))
    assert "\n" not in refused.value.message


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(gradio.Error, match=r"does not answer .*; start `t2l serve`"):
        ui._answer(ui.Server("http://127.0.0.1:9"), make_state())


def test_downloads_are_files_and_a_blend_has_none(serve: Callable[..., Any]) -> None:
    client = ui.Server(serve().url)
    names = zipfile.ZipFile(ui._download(client, make_state(strength=2.0), "peft")).namelist()
    assert sorted(Path(name).name for name in names) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "provenance.json",
    ]
    assert ui._download(client, make_state(), "mlx").endswith("-mlx.zip")
    with pytest.raises(gradio.Error, match="a blend is not stored"):
        ui._download(client, make_state(second="Say no"), "peft")


def test_a_link_gives_its_state_back() -> None:
    class Asked:
        headers = {"referer": "http://here/ui/?old=1"}  # noqa: RUF012
        query_params: dict[str, str] = {}  # noqa: RUF012

    from urllib.parse import parse_qsl, urlsplit

    state = make_state(sentence="Say ü & x", strength=2.0, second="b", share=0.25)
    address = ui._link(Asked(), state)  # type: ignore[arg-type]
    assert address.startswith("http://here/ui/?sentence=Say+%C3%BC+%26+x&")
    Asked.query_params = dict(parse_qsl(urlsplit(address).query))
    assert ui.State(*ui._from_link(Asked())) == state  # type: ignore[arg-type]
    Asked.query_params = {"strength": "much", "share": "7"}
    assert ui._from_link(Asked())[2:] == (1.0, "", 1.0)  # type: ignore[arg-type]


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api",
        reason="playwright is not installed: pip install 'text-to-lora[browser]'",
    )
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium; install Debian's package of this name")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.engines
@pytest.mark.filterwarnings("ignore")  # gradio leaves sockets and event loops open
def test_a_person_tries_a_sentence_in_a_browser(page: Any, browser: Any, tmp_path: Path) -> None:
    seconds = 30_000  # in ms; the machine may be busy
    view = browser.new_page(viewport={"width": 1280, "height": 900})
    view.set_default_timeout(seconds)
    view.goto(f"{page.url}/ui?inputs=hello&sentence=")
    view.wait_for_function("() => document.querySelector('#inputs textarea')?.value == 'hello'")
    view.fill("#sentence textarea", SENTENCE)
    view.click("#answer")
    view.wait_for_function("() => document.querySelector('#answers').innerText.includes('hello')")
    adapted = page.direct(SENTENCE, "hello", 64)
    plain = page.direct(None, "hello", 64)

    def shown() -> str:
        return str(view.inner_text("#answers"))

    def squeeze(text: str) -> str:
        return "".join(text.split())

    assert squeeze(adapted)[:20] in squeeze(shown()) and squeeze(plain)[:20] in squeeze(shown())
    view.fill("#strength input[type=number]", "2.5")
    view.click("#answer")
    view.wait_for_function(
        "text => !document.querySelector('#answers').innerText.includes(text)", arg=adapted[:8]
    )
    view.click("#prepare")
    view.wait_for_selector("#file a[download]")
    with view.expect_download() as waiting:
        view.click("#file a[download]")
    waiting.value.save_as(tmp_path / "adapter.zip")
    assert any(
        "adapter_model" in name for name in zipfile.ZipFile(tmp_path / "adapter.zip").namelist()
    )
    view.fill("#sentence textarea", " ")
    view.click("#answer")
    view.wait_for_selector("text=the description is empty; say in a sentence what the task is")
    link = view.input_value("#link textarea, #link input")
    view.goto(link)
    view.wait_for_function("() => document.querySelector('#sentence textarea')?.value.length > 3")
    assert view.input_value("#sentence textarea") == SENTENCE
