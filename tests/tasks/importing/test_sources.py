"""Every kind of source becomes tasks; what is left out is counted with its first place."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.errors import ConfigError, T2LWarning, TaskDataError
from text_to_lora.tasks.folder import load_folder
from text_to_lora.tasks.importing.build import Form, Imported
from text_to_lora.tasks.importing.columns import Columns, parse_labels
from text_to_lora.tasks.importing.sources import Reading, import_source
from text_to_lora.tasks.importing.templates import read_templates
from text_to_lora.tasks.task import Task
from text_to_lora.tasks.writing import write_tasks

TEMPLATES = """
dataset: mails
templates:
  a1: !Template
    answer_choices: ham ||| spam
    id: a1
    jinja: "{% if text %}Is this mail spam?\\n{{text}}{% endif %} ||| {{ answer_choices[spam | int] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics: [Accuracy]
      original_task: true
    name: is it
    reference: ''
  a2: !Template
    answer_choices: null
    id: a2
    jinja: "{{ text }} ||| {{ missing }}"
    metadata: !TemplateMetadata {}
    name: broken
    reference: ''
"""


def read(path: Path, reading: Reading | None = None, **form: Any) -> Imported:
    return import_source(path, reading or Reading(), Form(**form))


def table(folder: Path, rows: list[dict[str, Any]], name: str = "mails.json") -> Path:
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def mails(count: int = 30) -> list[dict[str, Any]]:
    return [{"text": f"mail {i}", "spam": i % 2} for i in range(count)]


def test_a_table_becomes_a_task_and_its_bad_rows_are_counted(tmp_path: Path) -> None:
    bad = [{"text": "x", "spam": None}, {"text": "", "spam": 1}, {"text": "y", "spam": 9}]
    file = table(tmp_path, [*mails(), *bad, {"text": "z", "spam": None}, mails()[0]])
    columns = Columns("text", ("spam",), parse_labels("no,yes"))
    result = read(file, Reading(columns), descriptions=("Is it spam?",), max_rows=20)
    (task,) = result.tasks
    assert (task.name, task.group, task.source) == ("mails", "mails", "mails.json")
    assert (task.metric.kind, task.metric.labels) == ("classification", ("no", "yes"))
    assert task.descriptions == ("Is it spam?",)
    assert [row.idx for row in task.examples] == list(range(20))
    assert (task.examples[1].input, task.examples[1].outputs) == ("mail 1", ("yes",))
    assert result.rows == 35
    assert result.explain() == [
        f"left out: 2 rows with no answer (empty, null or NaN), first {file}:31",
        f"left out: 1 row with no input (empty, null or NaN), first {file}:32",
        f"left out: 1 row with an answer that is none of the labels, first {file}:33",
        f"left out: 1 row equal to an earlier row of the task, first {file}:35",
        f"left out: 10 rows beyond the first 20 of their task, first {file}:1",
    ]


def test_a_task_without_a_description_says_what_its_columns_are(tmp_path: Path) -> None:
    rows = [{"title": "a", "body_text": str(i), "tag": "xy"[i % 2]} for i in range(30)]
    columns = Columns("{title}: {body_text}", ("tag",))
    (task,) = read(table(tmp_path, rows), Reading(columns)).tasks
    assert (
        task.definition
        == "Read the title and body text and give the tag. Answer with one of: x, y."
    )


def test_a_column_parts_the_tasks_and_small_ones_are_left_out(tmp_path: Path) -> None:
    rows = [{"input": str(i), "output": str(i), "t": "big"} for i in range(12)]
    rows += [{"input": "1", "output": "1", "t": name} for name in ("small", "")]
    result = read(table(tmp_path, rows), task_column="t")
    assert [task.name for task in result.tasks] == ["big"]
    assert [line.partition(",")[0] for line in result.explain()] == [
        "left out: 1 row with no task in 't'",
        "left out: 1 row of a task with fewer than 10 rows",
    ]
    with pytest.raises(TaskDataError, match=r"no row can be used: left out: 12 rows of a task"):
        read(table(tmp_path, rows[:12]), min_rows=13)


def test_alpaca_rows_of_one_instruction_are_a_task_and_the_others_one_more(tmp_path: Path) -> None:
    rows = [{"instruction": "Turn it.", "input": f"a{i}", "output": f"{i}a"} for i in range(12)]
    rows += [{"instruction": f"Say {i}", "input": "", "output": f"{i}"} for i in range(9)]
    rows += [{"instruction": "Once.", "input": "x", "output": "y"}]
    turned, rest = read(table(tmp_path, rows)).tasks
    assert (turned.name, turned.descriptions) == ("mails-turn-it", ("Turn it.",))
    assert rest.name == "mails"
    assert {"Say 3", "Once.\n\nx"} <= {row.input for row in rest.examples}


def test_sharegpt_rows_are_parted_by_their_system_turn(tmp_path: Path) -> None:
    def talk(i: int, system: list[Any]) -> dict[str, Any]:
        turns = [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": f"a{i}"}]
        return {"conversations": [*system, *turns]}

    rows = [talk(i, [{"from": "system", "value": "Be brief."}]) for i in range(10)]
    brief, rest = read(table(tmp_path, rows + [talk(i, []) for i in range(10)])).tasks
    assert (brief.descriptions, brief.examples[3].outputs) == (("Be brief.",), ("a3",))
    assert (rest.name, rest.examples[3].input) == ("mails", "q3")


def test_templates_of_promptsource_make_a_task_each(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TEMPLATES)
    spam, broken = read_templates(tmp_path / "t.yaml")
    result = read(table(tmp_path, mails()), Reading(templates=[spam]))
    (task,) = result.tasks
    assert (task.name, task.group) == ("mails-is-it", "mails")
    assert task.definition == "Is this mail spam? {text} Answer with one of: ham, spam."
    assert task.metric.labels == ("ham", "spam")
    assert (task.examples[1].input, task.examples[1].outputs) == (
        "Is this mail spam?\nmail 1",
        ("spam",),
    )
    with pytest.raises(
        TaskDataError, match=r"30 rows that the template 'broken' fails for \(Undef"
    ):
        read(tmp_path / "mails.json", Reading(templates=[broken]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML that can be read"),
        ("a: 1", "no 'templates'; give a templates.yaml of promptsource"),
        (
            "templates: {x: {name: n, jinja: no answer}}",
            "template 'n' has no 'name', or no 'jinja'",
        ),
        ("templates: {x: {name: n, jinja: '{{ ||| '}}", "template 'n': unexpected"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML that can be read"),
    ],
)
def test_wrong_templates_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(TaskDataError) as caught:
        read_templates(tmp_path / "t.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_templates_run_in_a_sandbox(tmp_path: Path) -> None:
    text = "templates: {x: {name: n, jinja: \"{{ ''.__class__.__mro__ }} ||| a\"}}"
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(TaskDataError, match=r"fails for \(SecurityError\)"):
        read(table(tmp_path, mails()), Reading(templates=read_templates(tmp_path / "t.yaml")))


def test_collections_and_task_folders_are_read_as_they_are(tmp_path: Path) -> None:
    (task,) = read(
        table(tmp_path, mails()), Reading(Columns("text", ("spam",), parse_labels("no,yes")))
    ).tasks
    folder = write_tasks([task], tmp_path / "mine")
    assert load_folder(folder) == [task]
    assert read(folder, group="g").tasks[0].group == "g"
    sni = {"Definition": ["Say it."], "Instances": [{"input": "a", "output": ["b"]}] * 3}
    (tmp_path / "sni").mkdir()
    (tmp_path / "sni" / "task1_x.json").write_text(json.dumps(sni))
    assert read(tmp_path / "sni").tasks[0].name == "task1_x"
    with pytest.raises(ConfigError, match="holds tasks with rows of their own form"):
        read(folder, descriptions=("x",))


def test_a_data_set_of_hugging_face_gives_the_names_of_its_labels(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "spam": ClassLabel(names=["ham", "spam"])})
    data = Dataset.from_list(mails(), features=features)
    DatasetDict({"test": data}).save_to_disk(str(tmp_path / "saved"))
    columns = Columns("text", ("spam",))
    (task,) = read(tmp_path / "saved", Reading(columns, split="test")).tasks
    assert task.metric.labels == ("ham", "spam")
    assert Task.from_dataset("saved", data, input="text", output="spam").examples == task.examples
    with pytest.raises(ConfigError, match=r"split 'train': it has test"):
        read(tmp_path / "saved", Reading(columns))
    with pytest.raises(TaskDataError, match="no column 'input'; there are 'text', 'spam'"):
        read(tmp_path / "saved", Reading(split="test"))


def test_a_form_that_is_not_known_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for source in (tmp_path / "x.xlsx", Path("x.xlsx")):
        with pytest.raises(ConfigError, match=r"has the unknown form '.xlsx'; rows are read from"):
            read(source)


def test_rows_in_memory_become_a_task() -> None:
    task = Task.from_rows("two", [("a", "b"), ("c", "d")], ["Say it."], group="g")
    assert [(row.input, row.outputs) for row in task.examples] == [("a", ("b",)), ("c", ("d",))]
    assert (task.descriptions, task.group) == (("Say it.",), "g")
    rows = [{"x": "a", "y": True}, {"x": "b", "y": float("nan")}]
    with pytest.warns(T2LWarning, match="left out: 1 row with no answer .* first t:2"):
        task = Task.from_rows("t", rows, input="x", output=["y"], labels={"true": "yes"})
    assert task.metric.labels == ("yes",)
    with pytest.raises(TaskDataError, match="t:1: no column 'input'"):
        Task.from_rows("t", [{"text": "a"}])
    with (
        pytest.raises(ConfigError, match=r"row 1 is 'ab'; give a mapping, or a pair"),
        warnings.catch_warnings(),
    ):
        Task.from_rows("t", ["ab"])  # type: ignore[list-item]
