"""The real client of OpenAI's API gets the answers of `answer`, whole and streamed, and its errors."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from text_to_lora.generate import TextToLora
from text_to_lora.lora.peft_format import load_adapter
from text_to_lora.refinement import refine_with
from text_to_lora.training.joint import JointTrainer

Serve = Callable[..., Any]
SENTENCE = "Answer in capitals"
USER = [{"role": "user", "content": "The soup is cold"}]


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:
    settings = {"model": model, "messages": USER, "max_tokens": 16} | options
    return client.chat.completions.create(**settings)


def test_whole_answers_are_those_of_a_direct_call(serve: Serve) -> None:
    server = serve()
    client = server.client()
    for model, sentence in (("tiny", None), (f"t2l:{SENTENCE}", SENTENCE)):
        reply = ask(client, model)
        assert reply.choices[0].message.content == server.direct(sentence, USER[0]["content"])
        assert reply.model == model and reply.choices[0].finish_reason in ("stop", "length")
        prompt = len(server.t2l.base[1]("Input: The soup is cold\nAnswer:").input_ids)
        assert reply.usage.prompt_tokens == prompt
        assert reply.usage.total_tokens == prompt + reply.usage.completion_tokens
    ref = server.service.pool.sentence(SENTENCE)
    server.service.store.set_alias("loud", ref.id)
    texts = {
        ask(client, model).choices[0].message.content
        for model in (ref.id, "loud", f"blend:{ref.id}=1")
    }
    assert texts == {server.direct(SENTENCE, USER[0]["content"])}


def test_streams_join_to_the_whole_answer_for_clients_at_once(serve: Serve) -> None:
    server = serve()
    client = server.client()

    def stream(sentence: str) -> tuple[str, Any]:
        chunks = list(
            ask(client, f"t2l:{sentence}", stream=True, stream_options={"include_usage": True})
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        return text, chunks[-1].usage

    sentences = [f"Say {word}" for word in ["one", "two", "three", "four", "five", "six"]]
    with ThreadPoolExecutor(6) as threads:
        streams = list(threads.map(stream, sentences))
    for sentence, (text, usage) in zip(sentences, streams, strict=True):
        assert text == server.direct(sentence, USER[0]["content"])
        assert usage.completion_tokens == ask(client, f"t2l:{sentence}").usage.completion_tokens


def test_completions_continue_text_and_tokens(serve: Serve) -> None:
    server = serve()
    client = server.client()
    prompt = "Input: The soup is cold\nAnswer:"
    ids = server.t2l.base[1](prompt).input_ids
    reply = client.completions.create(
        model=f"t2l:{SENTENCE}", prompt=[prompt, "x"], max_tokens=16, n=2
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in reply.choices]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert texts[0].strip() == server.direct(SENTENCE, USER[0]["content"])
    assert reply.usage.prompt_tokens == len(ids) + 1
    of_ids = client.completions.create(model=f"t2l:{SENTENCE}", prompt=ids, stream=True)
    assert "".join(chunk.choices[0].text for chunk in of_ids) == texts[0]


def test_seeds_numbers_stops_and_log_probabilities(serve: Serve) -> None:
    client = serve().client()
    drawn = ask(client, "tiny", temperature=1.5, seed=3, n=3)
    texts = [choice.message.content for choice in drawn.choices]
    assert len(set(texts)) == 3
    again = ask(client, "tiny", temperature=1.5, seed=4, n=1).choices[0].message.content
    assert again == texts[1]
    whole = ask(client, "tiny").choices[0].message.content
    cut = ask(client, "tiny", stop=[whole[5:7]])
    assert cut.choices[0].message.content == whole[: whole.find(whole[5:7])]
    assert cut.choices[0].finish_reason == "stop"
    logprobs = (
        ask(client, "tiny", logprobs=True, top_logprobs=2, max_tokens=3).choices[0].logprobs.content
    )
    assert len(logprobs) == 3
    for entry in logprobs:  # greedy: the token itself is the most likely one
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0
        assert entry.top_logprobs[0].token == entry.token
    plain = client.completions.create(model="tiny", prompt="x", max_tokens=2, logprobs=1)
    assert len(plain.choices[0].logprobs.tokens) == 2


def test_strength_and_min_similarity_are_extra_fields(
    serve: Serve, described_hypernet_folder: Path, base_folder: Path
) -> None:
    t2l = TextToLora.from_pretrained(described_hypernet_folder)
    t2l.attach_base(*t2l.load_base(str(base_folder)))
    server = serve(t2l)
    client = server.client()
    plain, strong = (
        ask(client, f"t2l:{SENTENCE}", extra_body={"strength": strength}).choices[0].message.content
        for strength in (1.0, 3.0)
    )
    assert plain != strong
    ask(client, f"t2l:{SENTENCE}", extra_body={"min_similarity": 0.9})
    with pytest.raises(openai.BadRequestError, match="nearest training description has cosine"):
        ask(client, "t2l:zebra quilt", extra_body={"min_similarity": 0.9})


BAD: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "gpt-5"}, 404, "the model 'gpt-5' does not exist", "model"),
    ({"model": "t2l: "}, 400, "the description is empty", None),
    ({"model": 3}, 400, "model: input should be a valid string; got 3", "model"),
    ({"messages": []}, 400, "messages: list should have at least 1 item", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "last message", "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages.0",
        "messages",
    ),
    (
        {"max_tokens": 0},
        400,
        "max_tokens: input should be greater than or equal to 1; got 0",
        "max_tokens",
    ),
    ({"max_tokens": 999}, 400, "reads 256 tokens of prompt and answer together", "messages"),
    ({"temperature": 3}, 400, "temperature", "temperature"),
    ({"top_p": 0}, 400, "top_p", "top_p"),
    ({"n": 99}, 400, "n: input", "n"),
    ({"stop": ["a"] * 5}, 400, "stop", "stop"),
    ({"strength": 0}, 400, "strength is 0.0", None),
    ({"foo": 1}, 400, "Unrecognized request argument supplied: foo", "foo"),
    ({"tools": [{}]}, 400, "Unsupported parameter: 'tools'", "tools"),
    ({"model": "tiny", "strength": 2}, 400, "the base has no strength", "strength"),
]


@pytest.mark.parametrize(("change", "status", "message", "param"), BAD)
def test_a_bad_request_is_told_as_openai_does(
    shared: Any, change: dict[str, Any], status: int, message: str, param: str | None
) -> None:
    body = {"model": f"t2l:{SENTENCE}", "messages": USER, "max_tokens": 4} | change
    reply = httpx.post(f"{shared.url}/v1/chat/completions", json=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert message in error["message"] and error["param"] == param
    assert "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff", 400, "is not UTF-8"),
        (b"[1]", 400, "the body is a list; send a JSON object"),
        (b"[" * 5000, 400, "nested more than 64 deep"),
        (b'{"model": "a", "model": "b"}', 400, "twice in one object"),
        (b'{"model": "\\ud800"}', 400, "half of a surrogate pair"),
        (b"x" * 20_001, 413, "more than 20000 bytes"),
    ],
)
def test_a_malformed_body_is_told(shared: Any, content: bytes, status: int, message: str) -> None:
    for route in ("chat/completions", "completions", "adapters"):
        reply = httpx.post(f"{shared.url}/v1/{route}", content=content)
        assert reply.status_code == status and message in reply.json()["error"]["message"]

    def parts() -> Any:
        yield content

    reply = httpx.post(f"{shared.url}/v1/adapters", content=parts())  # of a length not announced
    assert reply.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "GET /nothing: Not Found"),
        ("GET", "/v1/chat/completions", 405, "Method Not Allowed"),
        ("GET", "/v1/adapters/nobody", 404, "the model 'nobody' does not exist"),
        ("GET", "/v1/adapters/..%2f..%2fetc", 404, ""),
        ("DELETE", "/v1/adapters/nobody", 404, "does not exist"),
        ("GET", "/v1/adapters/nobody/download", 404, "does not exist"),
        ("GET", "/v1/models/nobody", 404, "does not exist"),
    ],
)
def test_a_bad_path_is_told(shared: Any, method: str, path: str, status: int, message: str) -> None:
    reply = httpx.request(method, shared.url + path)
    assert reply.status_code == status and message in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "give either description or descriptions"),
        ({"description": "a", "descriptions": ["b"]}, 400, "give either"),
        ({"descriptions": []}, 400, "descriptions: list should have at least 1"),
        ({"descriptions": ["a", "b"], "alias": "x"}, 400, "one alias for 2 descriptions"),
        ({"description": ""}, 400, "the description is empty"),
        ({"description": "x" * 2001}, 400, "has 2001 characters"),
        ({"description": "a", "strength": 0.0}, 400, "strength is 0.0"),
        ({"description": "a", "alias": "../x"}, 409, "alias '../x' cannot be used"),
        ({"description": "a", "alias": "tiny"}, 400, "is the name of the base"),
        ({"description": "a", "tools": []}, 400, "Unrecognized request argument supplied: tools"),
        ({"description": "a", "examples": []}, 400, "the task has no rows"),
        ({"description": "a", "examples": [{"input": "x"}]}, 400, "examples.0.output"),
        ({"descriptions": ["a", "b"], "examples": []}, 400, "examples go with one description"),
    ],
)
def test_a_bad_request_for_adapters_is_told_and_writes_nothing(
    shared: Any, body: dict[str, Any], status: int, message: str
) -> None:
    before = shared.service.store.ids()
    reply = httpx.post(f"{shared.url}/v1/adapters", json=body)
    assert reply.status_code == status, reply.text
    assert message in reply.json()["error"]["message"]
    assert shared.service.store.ids() == before


def test_adapters_are_made_listed_downloaded_and_deleted(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    http = server.http()
    reply = http.post("/v1/adapters", json={"description": SENTENCE, "alias": "loud"})
    assert reply.status_code == 201
    facts = reply.json()
    assert facts["id"] == server.service.pool.sentence(SENTENCE).id and facts["aliases"] == ["loud"]
    pair = http.post(
        "/v1/adapters", json={"descriptions": ["Say a", "Say b"], "strength": 2.0}
    ).json()
    assert [entry["strength"] for entry in pair["data"]] == [2.0, 2.0]
    assert len(http.get("/v1/adapters").json()["data"]) == 3
    names = [entry["id"] for entry in http.get("/v1/models").json()["data"]]
    assert "loud" in names and "tiny" in names and facts["id"] in names
    assert http.get("/v1/models/loud").json()["id"] == "loud"

    taken = http.post("/v1/adapters", json={"description": "Say a", "alias": "loud"})
    assert taken.status_code == 409 and "is that of" in taken.json()["error"]["message"]

    packed = http.get("/v1/adapters/loud/download")
    assert packed.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(packed.content)).extractall(tmp_path / "unpacked")
    load_adapter(tmp_path / "unpacked" / facts["id"], spec=server.t2l.spec)
    mlx = zipfile.ZipFile(io.BytesIO(http.get("/v1/adapters/loud/download?format=mlx").content))
    assert any(name.endswith("adapters.safetensors") for name in mlx.namelist())
    bad = http.get("/v1/adapters/loud/download?format=zip")
    assert bad.status_code == 400 and "unknown format 'zip'" in bad.json()["error"]["message"]

    assert http.delete("/v1/adapters/loud").json() == {
        "id": facts["id"],
        "object": "adapter",
        "deleted": True,
    }
    assert http.get("/v1/adapters/loud").status_code == 404
    assert len(http.get("/v1/adapters").json()["data"]) == 2


@pytest.fixture
def load_copy(hypernet_folder: Path, base_folder: Path) -> Callable[[], TextToLora]:
    """Load a hypernetwork with a base that nothing else uses, as refining jobs do."""

    def load() -> TextToLora:
        copy = TextToLora.from_pretrained(hypernet_folder)
        copy.attach_base(*copy.load_base(str(base_folder)))
        return copy

    return load


def test_an_adapter_with_examples_is_trained_while_answering_goes_on(
    serve: Serve, load_copy: Callable[[], TextToLora]
) -> None:
    server = serve(load_copy=load_copy)
    http = server.http()
    rows = [{"input": f"word {n}", "output": "yes" if n % 2 else "no"} for n in range(8)]
    body = {"description": "Say yes or no", "examples": rows, "steps": 3, "alias": "refined"}
    started = http.post("/v1/adapters", json=body)
    assert started.status_code == 202
    name = started.json()["id"]
    assert http.post("/v1/adapters", json=body).json()["id"] == name
    answers = 0
    while (facts := http.get(f"/v1/adapters/{name}").json())["status"] in ("queued", "running"):
        assert ask(server.client(), "tiny").choices
        answers += 1
        refused = http.post("/v1/chat/completions", json={"model": name, "messages": USER})
        assert refused.status_code in (200, 409)
    assert facts["status"] == "ready" and answers
    assert facts["refinement"]["steps_tried"] and facts["aliases"] == ["refined"]
    assert http.get(f"/v1/adapters/{name}").json()["status"] == "ready"
    assert ask(server.client(), "refined").choices[0].message.content is not None


def test_a_refinement_goes_on_where_a_server_stopped(
    serve: Serve, load_copy: Callable[[], TextToLora], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(load_copy=load_copy)
    http, store = server.http(), server.service.store
    rows = [(f"word {n}", "yes" if n % 2 else "no") for n in range(8)]
    examples = [{"input": text, "output": answer} for text, answer in rows]
    body = {"description": "Say yes or no", "examples": examples, "steps": 3}
    with monkeypatch.context() as patch:
        patch.setattr(server.service._refining, "start", lambda job: job)  # as if it stopped here
        name = http.post("/v1/adapters", json=body).json()["id"]
    state = store.unfinished(name)
    refine_with(load_copy(), [body["description"]], [rows], steps=2, state_dir=state)
    assert state.is_dir()
    calls = []
    step = JointTrainer.step
    monkeypatch.setattr(JointTrainer, "step", lambda *given: calls.append(1) or step(*given))
    http.post("/v1/adapters", json=body)
    while (facts := http.get(f"/v1/adapters/{name}").json())["status"] in ("queued", "running"):
        time.sleep(0.05)
    assert facts["refinement"]["steps_tried"] == 3 and len(calls) == 1
    assert not state.exists()


def test_a_key_is_asked_for(serve: Serve) -> None:
    server = serve(api_key="secret")
    for key in ("none", "secrets", ""):
        with pytest.raises(openai.OpenAIError, match=r"API key|api_key|Illegal|credentials"):
            ask(server.client(api_key=key), "tiny")
    assert ask(server.client(api_key="secret"), "tiny").choices
    reply = httpx.get(f"{server.url}/v1/models")
    assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


def test_pages_of_others_are_refused_unless_asked(serve: Serve, tmp_path: Path) -> None:
    headers = {"Origin": "http://elsewhere"}
    plain = httpx.get(f"{serve().url}/health", headers=headers)
    assert "access-control-allow-origin" not in plain.headers
    asked = serve(cors_origins=["http://elsewhere"], folder=tmp_path / "other")
    shared = httpx.get(f"{asked.url}/health", headers=headers)
    assert shared.headers["access-control-allow-origin"] == "http://elsewhere"


def test_a_full_queue_is_429_with_retry_after(serve: Serve) -> None:
    server = serve(limits={"max_batch": 1, "max_queue": 1})
    client = server.client()
    gate = threading.Event()
    server.service.engine.call(lambda: gate.wait(20))
    time.sleep(0.05)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, client, "tiny")
        while not server.service.engine._waiting:
            time.sleep(0.005)
        with pytest.raises(
            openai.RateLimitError, match="1 answers wait already, and 1 may"
        ) as refused:
            ask(client, "tiny")
        assert refused.value.response.headers["retry-after"] == "1"
        gate.set()
        assert first.result(20).choices
    with pytest.raises(openai.BadRequestError, match="1 answers are allowed in one request"):
        ask(client, "tiny", n=2)


def test_a_client_that_goes_away_frees_its_row(serve: Serve) -> None:
    server = serve()
    for stream in (True, False):
        body = json.dumps(
            {"model": "tiny", "messages": USER, "max_tokens": 200, "stream": stream}
        ).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(
            ("127.0.0.1", server.listener.getsockname()[1])
        ) as connection:
            connection.sendall(head.encode() + body)
            while not server.service.engine._rows:
                time.sleep(0.001)
            row = server.service.engine._rows[0]
        deadline = time.monotonic() + 5
        while server.service.engine._rows and time.monotonic() < deadline:
            time.sleep(0.01)
        assert row.cancelled and len(row.ids) < 190


def test_a_full_disk_is_507_and_the_base_still_answers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    import text_to_lora.lora.peft_format as peft_format

    server = serve()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(peft_format, "save_file", full)
    with pytest.raises(openai.InternalServerError, match="no space left on the disk") as refused:
        ask(server.client(), f"t2l:{SENTENCE}")
    assert refused.value.status_code == 507
    assert ask(server.client(), "tiny").choices
    monkeypatch.undo()
    assert ask(server.client(), f"t2l:{SENTENCE}").choices


def test_metrics_count_requests_tokens_and_adapters(serve: Serve) -> None:
    server = serve()
    client = server.client()
    for _ in range(2):
        ask(client, f"t2l:{SENTENCE}")
    with pytest.raises(openai.NotFoundError):
        ask(client, "nobody")
    text = httpx.get(f"{server.url}/metrics").text
    for line in (
        't2l_requests_total{route="/v1/chat/completions",status="200"} 2.0',
        't2l_requests_total{route="/v1/chat/completions",status="404"} 1.0',
        't2l_adapter_uses_total{origin="generated"} 1.0',
        't2l_adapter_uses_total{origin="memory"} 1.0',
        't2l_tokens_total{kind="completion"}',
        "t2l_adapters 1.0",
        "t2l_waiting_answers 0.0",
        "t2l_first_token_seconds_count 2.0",
        "t2l_batch_rows_sum",
    ):
        assert line in text, line


def test_a_bug_is_a_500_without_its_traceback(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(server.service, "show_adapter", lambda name: 1 / 0)
    reply = httpx.get(f"{server.url}/v1/adapters/x")
    assert reply.status_code == 500
    assert reply.json()["error"]["message"] == "the server failed (ZeroDivisionError); see its log"
