"""Tasks are described through an endpoint that answers well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from chat_server import ChatServer, serve
from text_to_lora.encoders import load_encoder
from text_to_lora.errors import BackendError, ConfigError, TaskDataError
from text_to_lora.tasks.describing.describe import (
    Described,
    describe_by_endpoint,
    describe_folder,
    describe_offline,
    estimate,
    plan,
)
from text_to_lora.tasks.describing.endpoint import Endpoint, UnreachableError
from text_to_lora.tasks.describing.rules import Rules
from text_to_lora.tasks.describing.wording import ask_choice, ask_descriptions, shown_rows
from text_to_lora.tasks.folder import load_folder
from text_to_lora.tasks.task import Task
from text_to_lora.tasks.writing import write_tasks

EMBED = load_encoder("hash").encode
NAMES = ("red", "green", "blue")


def make_task(name: str) -> Task:
    rows = [
        (f"the {name} parcel number {i} came by the morning train", "xy"[i % 2]) for i in range(20)
    ]
    return Task.from_rows(name, rows, [f"Sort {name} parcels."])


def fresh(request: dict[str, Any], count: int = 20) -> str:
    """Descriptions that differ from each other and from those of other requests."""
    text = request["messages"][1]["content"]
    name, place = text.split("\n")[0].removeprefix("Name: "), text.count("1. a ")
    words = [
        f"{name} w{crc32(f'{text}{i}'.encode()) % 9973} v{i * 7 + place} kind of {i}"
        for i in range(count)
    ]
    return json.dumps({"descriptions": words})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(map(make_task, NAMES), tmp_path / "mine")


def run(
    folder: Path, server: ChatServer, count: int = 4, *, verify: bool = False, **options: Any
) -> list[Described]:
    options = {"timeout": 5, "retries": 2, **options}
    with Endpoint("m", api_base=server.url, **options) as endpoint:
        write = describe_by_endpoint(endpoint, load_folder(folder), EMBED, count, verify=verify)
        return describe_folder(folder, write, count, parallel=2)


def test_descriptions_are_written_behind_the_definition(folder: Path) -> None:
    with serve(fresh) as server:
        described = run(folder, server)
    assert {item.task: len(item.descriptions) for item in described} == dict.fromkeys(NAMES, 4)
    for task in load_folder(folder):
        assert task.definition == f"Sort {task.name} parcels."
        assert len(task.descriptions) == 5 and len(task.examples) == 20
    request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["descriptions"]
    assert "Labels: x, y" in request["messages"][1]["content"]
    assert 1 <= server.most_at_once <= 2


def test_a_run_that_was_stopped_goes_on_and_asks_for_no_task_twice(folder: Path) -> None:
    def refuse_blue(request: dict[str, Any]) -> Any:
        return 500 if "Name: blue" in request["messages"][1]["content"] else fresh(request)

    with serve(refuse_blue) as server, pytest.raises(BackendError) as caught:
        run(folder, server)
    assert "1 of 3 tasks could not be described, first 'blue': the endpoint refuses" in str(
        caught.value
    )
    assert [len(task.descriptions) for task in load_folder(folder)] == [5, 5, 1]
    with (folder / "descriptions.jsonl").open("a") as file:
        file.write('{"task": "bl')  # a process that was killed while it wrote
    with serve(fresh) as server:
        assert [item.task for item in run(folder, server)] == ["blue"]
        assert {"blue"} == {_name(request) for request in server.requests}
        assert run(folder, server) == []
        run(folder, server, count=6)  # more of each are added to those that are there
    assert [len(task.descriptions) for task in load_folder(folder)] == [7, 7, 7]


def _name(request: dict[str, Any]) -> str:
    return str(request["messages"][1]["content"].split("\n")[0].removeprefix("Name: "))


@pytest.mark.parametrize("bad", [429, 503, "no JSON", '{"texts": []}', "[1]", "```json\n{\n```"])
def test_an_answer_that_is_bad_at_first_is_asked_for_again(folder: Path, bad: Any) -> None:
    seen: set[str] = set()

    def answer(request: dict[str, Any]) -> Any:
        first = _name(request) not in seen
        seen.add(_name(request))
        return bad if first else f"Here you are:\n```json\n{fresh(request)}\n```"

    with serve(answer) as server:
        assert len(run(folder, server)) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (429, "the endpoint refuses: Error code: 429"),
        ("no JSON", "3 answers of 'm' are not the JSON that was asked for, the last 'no JSON'"),
        (1.5, "no answer in time; raise --timeout"),
        (b"<html>", "the endpoint answers what is no completion: Expecting value"),
        (b'{"choices": []}', "3 answers of 'm' are not the JSON that was asked for, the last ''"),
    ],
)
def test_a_task_whose_answers_stay_bad_is_named(folder: Path, bad: Any, message: str) -> None:
    answer: Callable[[Any], Any] = lambda request: bad  # noqa: E731
    with serve(answer) as server, pytest.raises(BackendError) as caught:
        run(folder, server, timeout=0.5, retries=0)
    assert message in str(caught.value)
    assert "3 of 3 tasks could not be described" in str(caught.value)
    assert [len(task.descriptions) for task in load_folder(folder)] == [1, 1, 1]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_name_or_address_ends_the_run_at_once(folder: Path, status: int) -> None:
    with serve(lambda request: status) as server, pytest.raises(UnreachableError) as caught:
        run(folder, server)
    assert "cannot be used" in str(caught.value) and "check --api-base, --model" in str(
        caught.value
    )
    assert len(server.requests) <= 3
    with pytest.raises(UnreachableError, match="cannot be used: Connection error"):
        run(folder, server, retries=0)  # it is gone


def test_a_server_that_knows_no_schemas_is_asked_without(folder: Path) -> None:
    def answer(request: dict[str, Any]) -> Any:
        return 400 if "response_format" in request else fresh(request)

    with serve(answer, count_tokens=False) as server:
        assert len(run(folder, server)) == 3
    with serve(lambda request: 400) as server, pytest.raises(BackendError, match="refuses"):
        run(folder, server, count=8)


def test_the_key_is_read_from_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with serve(fresh) as server:
        run(folder, server)
        assert set(server.keys) == {"Bearer sesame"}
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="no key in the environment variable OPENAI_API_KEY"):
        Endpoint("m")


def test_tokens_are_counted_and_priced(folder: Path) -> None:
    with serve(fresh) as server, Endpoint("m", api_base=server.url) as endpoint:
        write = describe_by_endpoint(endpoint, load_folder(folder), EMBED, 4, verify=False)
        describe_folder(folder, write, 4)
        assert endpoint.usage.explain((1.0, 2.0)) == (
            "3 requests, 300 tokens in, 30 out, 0.0004 US dollars"
        )
    tasks, due, _ = plan(folder, 8)
    before = estimate(due, tasks, 8, verify=True)
    assert before.requests == 3 * (1 + 8)
    assert before.explain(None).startswith("27 requests, about ")
    assert before.prompt_tokens > 3 * 8 * 100


def test_verification_keeps_what_tells_the_task_from_others(folder: Path) -> None:
    def answer(request: dict[str, Any]) -> Any:
        text = request["messages"][1]["content"]
        if not text.startswith("Description: "):
            name = _name(request)
            return json.dumps({"descriptions": [f"{name} one", "two or so", f"{name} three is it"]})
        described = text.split("\n")[0].split()[1]
        numbers = [i for i in (1, 2, 3) if f"{i}. Sort {described} parcels." in text]
        return json.dumps({"candidate": numbers[0] if numbers else 99})

    with serve(answer) as server:
        described = run(folder, server, count=3, verify=True)
    for item in described:
        assert item.descriptions == [f"{item.task} one", f"{item.task} three is it"]
        assert item.left_out["do not tell the task from others"] >= 1
    assert any(
        task.definition in ask_choice("x", task, [])[0][1]["content"]
        for task in load_folder(folder)
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Choose x or y for each", None),
        (7, "empty, no text or too long"),
        (" \n", "empty, no text or too long"),
        ("a" * 2000, "empty, no text or too long"),
        ("sort RED parcels", "are there already"),
        ("Say where the red parcel number came by the morning train", "quote a row"),
        ("Known  already", "are there already"),
    ],
)
def test_the_rules_say_why_a_description_is_left_out(text: object, reason: str | None) -> None:
    rules = Rules(make_task("red"), ["Known already"], EMBED)
    if isinstance(text, str) and text.startswith("Say where"):
        number = shown_rows(make_task("red"))[0].input.split()[4]
        text = text.replace("number", f"number {number}")
    assert bool(rules.take([text])) == (reason is None)
    assert dict(rules.left_out) == ({} if reason is None else {reason: 1})


def test_an_answer_that_is_no_label_is_not_named_and_likeness_is_judged_by_embedding() -> None:
    task = Task.from_rows("t", [(f"in {i}", f"Answer{i}") for i in range(12)], ["Name it."])
    answer = shown_rows(task)[0].outputs[0]
    rules = Rules(task, [], EMBED, max_similarity=0.9)
    assert rules.take([f"Say {answer} to it", "Say the name of the place"]) == [
        "Say the name of the place"
    ]
    assert rules.take(["Say the name of the place it", "Entirely other words here"]) == [
        "Entirely other words here"
    ]
    assert dict(rules.left_out) == {
        "name an answer that is no label": 1,
        "are too like another": 1,
    }


def test_the_forms_that_are_asked_for_differ() -> None:
    text = ask_descriptions(make_task("red"), 0, 16)[1]["content"]
    wanted = text.split("in this order:\n")[1].splitlines()
    assert len({line.partition(". ")[2] for line in wanted}) == 16
    for word in ("a command", "a question", "keywords", "names every label", "names no label"):
        assert word in text
    plain = Task.from_rows("p", [("a", "b c d"), ("e", "f")], ["Say it."])
    assert "label" not in ask_descriptions(plain, 0, 2)[1]["content"]


def test_templates_make_paraphrases_without_an_endpoint(folder: Path) -> None:
    described = describe_folder(folder, describe_offline(8), 8)
    assert all(len(item.descriptions) == 8 for item in described)
    assert "please sort red parcels" in described[0].descriptions
    assert "Sort red parcels. Possible answers: x, y." in described[0].descriptions
    assert load_folder(folder)[0].descriptions[1:] == tuple(described[0].descriptions)


def test_a_file_that_is_no_record_is_refused(folder: Path) -> None:
    (folder / "descriptions.jsonl").write_text('{"who": 1}\n')
    with pytest.raises(TaskDataError, match=r"descriptions.jsonl:1: no record of `t2l tasks"):
        plan(folder, 4)


def test_ctrl_c_keeps_the_tasks_that_are_finished(folder: Path) -> None:
    done = threading.Event()

    def write(task: Task, known: Any) -> Described:
        if task.name == "red":
            return Described("red", ["Red it is"], 1)
        done.wait(5)
        raise KeyboardInterrupt

    def stop(line: str) -> None:
        done.set()

    with pytest.raises(KeyboardInterrupt):
        describe_folder(folder, write, 1, report=stop)
    assert load_folder(folder)[0].descriptions == ("Sort red parcels.", "Red it is")
