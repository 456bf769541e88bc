"""The check of tasks: each figure against a count by hand, each finding with its tasks."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import Any

import pytest

from text_to_lora.tasks.checking.check import Lengths, Measure, check_tasks
from text_to_lora.tasks.checking.held_out import drop_held_out, find_held_out
from text_to_lora.tasks.checking.inputs import count_shared, guess_tasks
from text_to_lora.tasks.checking.page import report_lines, report_page
from text_to_lora.tasks.task import Metric, Task
from tiny_models import make_tokenizer

LONG = "one two three four five six seven eight nine ten eleven twelve"


def make(name: str, rows: list[tuple[str, str]], group: str = "", **changes: Any) -> Task:
    task = Task.from_rows(name, rows, [f"Do {name} <b>well</b>."], group=group)
    return replace(task, **changes)


def parcels(color: str, count: int = 30) -> list[tuple[str, str]]:
    return [(f"{color} parcel from {color}land, {color}{i}", "xy"[i % 2]) for i in range(count)]


def test_rows_that_tasks_share_are_counted_whatever_their_case() -> None:
    tasks = [make("a", [("Same text!", "x"), ("own", "y")]), make("b", [("same  TEXT", "z")])]
    shared, pairs = count_shared([*tasks, make("c", [("other", "x")])])
    assert shared == [1, 1, 0]
    assert dict(pairs) == {(0, 1): 1}


def test_the_input_tells_the_task_only_where_inputs_differ() -> None:
    apart = [make(color, parcels(color)) for color in ("red", "green", "blue")]
    assert guess_tasks(apart) == [1.0, 1.0, 1.0]
    alike = [make(str(i), parcels("red")) for i in range(8)]
    assert sum(guess_tasks(alike)) / 8 < 0.5
    assert guess_tasks([make("a", [("b", "x")]), apart[0]])[0] == 0
    report = check_tasks(apart)
    assert (report.guessed, report.chance) == (1.0, 1 / 3)
    assert any("the input alone tells the task in 100% of a sample" in x for x in report.findings)
    assert check_tasks(apart[:1]).guessed is None


def test_without_scikit_learn_a_finding_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    report = check_tasks([make("a", parcels("red")), make("b", parcels("green"))])
    assert report.guessed is None
    assert any("was not measured; pip install scikit-learn" in x for x in report.findings)


def test_equal_inputs_and_rare_runs_of_ten_words_are_found_and_dropped() -> None:
    rows = [
        ("It is the same here", "x"),
        (f"so {LONG} and on", "y"),
        ("short", "x"),
        ("new text", "y"),
    ]
    task = make("train", rows)
    held_out = make("test", [("it is the same, here!", "x"), (LONG, "y"), ("short", "x")])
    found = find_held_out([task], [held_out])
    assert (found["train"].equal, found["train"].similar) == ({0}, {1})
    assert found["train"].held_out_tasks == {"test"}
    (cleaned,) = drop_held_out([task], found)
    assert [row.idx for row in cleaned.examples] == [2, 3]  # the roles of rows stay
    assert find_held_out([cleaned], [held_out]) == {}
    # a run of words that many rows of the evaluation set have is of their template
    template = make("test", [(f"{LONG} number {i}", "y") for i in range(11)])
    assert find_held_out([task], [template]) == {}


def test_a_description_of_an_evaluation_set_is_dropped_and_a_task_without_any_left_out() -> None:
    held_out = make("test", [("a b", "x")], descriptions=("Say what the mail wants.",))
    texts = ("say what the mail wants", "Another one.")
    task = make("train", [("c d", "x")], definition=texts[0], descriptions=texts)
    found = find_held_out([task], [held_out])
    assert drop_held_out([task], found)[0].descriptions == ("Another one.",)
    alone = replace(task, definition=texts[0], descriptions=texts[:1])
    assert drop_held_out([alone], find_held_out([alone], [held_out])) == []


def test_lengths_are_those_of_the_prompts_that_a_run_makes() -> None:
    tokenizer = make_tokenizer()  # a token a byte
    measure = Measure(
        tokenizer, max_prompt_tokens=20, max_answer_tokens=4, max_description_tokens=9
    )
    task = make("t", [("abc", "x"), ("a" * 50, "long")])
    prompt, answer, description = measure.lengths(task)
    frame = len("Input: \nAnswer:")
    assert prompt == Lengths(frame + 50, frame + 50, 20, 0.5)
    assert answer.most == len(" long") + 1  # with the token that ends it
    assert description == Lengths(len("Do t <b>well</b>."), len("Do t <b>well</b>."), 9, 1.0)
    findings = check_tasks([task], measure).findings
    for words in (
        "of their inputs to the limit: t",
        "answers to the limit: t",
        "a prompt would cut: t",
    ):
        assert any(words in finding for finding in findings), words


def test_findings_name_the_tasks_and_the_next_step() -> None:
    labels = Metric("classification", ("x", "y"))
    rows = [(f"red text {i}", "x") for i in range(60)]
    one_sided = make("one", [*rows, ("red text 1", "y"), ("red z", "z")], metric=labels, group="g")
    other = make("two", [(text, "y") for text, _ in rows], group="h")
    report = check_tasks([one_sided, other], held_out=[make("test", [("red text 7 x", "x")])])
    text = "\n".join(report.findings)
    assert "share inputs" in text and "'one' and 'two' (60); give them one group" in text
    assert "1 of 2 tasks have rows whose answers are none of their labels: one" in text
    assert "1 of 2 tasks have inputs with several answers: one" in text
    assert "1 of 2 tasks have one label in more than 90% of their rows: one" in text
    assert "2 of 2 tasks have fewer than 4 descriptions, which `t2l tasks describe` writes" in text
    assert "2 groups: one in data.validation_one_in" in text
    assert "repeat evaluation sets" not in text
    one = report.tasks[0]
    assert (one.labels, one.no_label, one.contradicted, one.shared) == ({"x": 60, "y": 1}, 1, 1, 61)
    assert one.held_out == 0 and one.answer_in_input == 1 / 62
    assert (
        check_tasks([make("a", [(f"go yes {i}", "yes") for i in range(4)])])
        .tasks[0]
        .answer_in_input
    )


def test_the_page_needs_no_other_file_and_escapes_names() -> None:
    task = make("<i>a</i>", parcels("red"), group="<g>")
    report = check_tasks([task, make("b", parcels("blue"))], held_out=[task])
    page = report_page(report)
    assert "&lt;i&gt;a&lt;/i&gt;" in page and "<i>" not in page and "<g>" not in page
    assert not re.search(r"<script|src=|href=|url\(", page)
    lines = report_lines(report)
    assert lines[0].startswith("2 tasks in 2 groups, 60 rows, 2 descriptions; the input alone")
    assert any("30 rows in evaluation sets" in line for line in lines)
    assert json.loads(json.dumps(report.to_dict()))["held_out"]["<i>a</i>"]["equal"] == [*range(30)]
