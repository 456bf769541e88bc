import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from text_to_lora.errors import ConfigError, TaskDataError
from text_to_lora.tasks.hub import guess_metric, load_lots_of_loras, load_sni
from text_to_lora.tasks.task import Example, Metric

SNI: dict[str, Any] = {
    "Contributors": ["A B"],
    "Source": ["mctaco"],
    "URL": ["https://example.org/mctaco"],
    "Categories": ["Question Answering"],
    "Definition": ["Answer the question."],
    "Positive Examples": [{"input": "1+1?", "output": "2", "explanation": "sum"}],
    "Instances": [
        {"id": "a", "input": "2+2?", "output": ["4", "four"]},
        {"id": "b", "input": "3+3?", "output": ["6"]},
    ],
    "Instance License": ["Apache 2.0"],
}


def write_sni(root: Path, **files: Any) -> Path:
    (root / "tasks").mkdir(parents=True)
    (root / "tasks" / "README.md").write_text("not a task")
    for name, payload in files.items():
        (root / "tasks" / f"{name}.json").write_text(json.dumps(payload, indent=4))
    return root


def with_output(output: Any) -> dict[str, Any]:
    return {**SNI, "Instances": [{"input": "x", "output": output}]}


def test_sni_tasks_are_read_from_the_repository_or_its_tasks_folder(tmp_path: Path) -> None:
    old = {**SNI, "Definition": "Old wording.", "Instances": [{"input": "x", "output": "y"}]}
    write_sni(tmp_path, task002_b=SNI, task001_a=old)
    first, second = load_sni(tmp_path)
    assert load_sni(tmp_path / "tasks") == [first, second]
    assert (first.name, first.definition) == ("task001_a", "Old wording.")
    assert first.examples == (Example("x", ("y",), 0),)
    assert second.examples == (Example("2+2?", ("4", "four"), 0), Example("3+3?", ("6",), 1))
    assert (second.license, second.group) == ("Apache 2.0", "mctaco")
    assert (second.source, second.category) == ("https://example.org/mctaco", "Question Answering")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"Definition": "x"}, "field 'Instances' is missing"),
        ([], "field 'Definition' is missing"),
        ({**SNI, "Instances": []}, "there are no instances"),
        ({**SNI, "Definition": [""]}, "has no description"),
        ({**SNI, "Instances": [SNI["Instances"][0], {"output": ["x"]}]}, "instance 2 has no text"),
        ({**SNI, "Instances": [{"input": "x", "output": [""]}]}, r"instance 1 has output \[''\]"),
        (with_output([None, "A"]), r"instance 1 has output \[None, 'A'\]; give non-empty texts"),
        (with_output([["W"]]), r"instance 1 has output \[\['W'\]\]; give non-empty texts"),
        (with_output({"text": "A"}), r"instance 1 has output {'text': 'A'}; give non-empty texts"),
        (with_output(5), "instance 1 has output 5; give non-empty texts"),
        (with_output(None), "instance 1 has output None; give non-empty texts"),
        ({**SNI, "Instances": None}, "Instances is None; a list is expected"),
        ({**SNI, "Instances": {"input": "x"}}, "Instances is {'input': 'x'}; a list is expected"),
        ({**SNI, "Definition": None}, "Definition is None; a text or a list of texts is expected"),
        ({**SNI, "Definition": [1]}, r"Definition is \[1\]; a text or a list of texts"),
        ({**SNI, "Source": None}, "Source is None; a text or a list of texts is expected"),
        ({**SNI, "Instance License": 2}, "Instance License is 2; a text or a list of texts"),
        ({**SNI, "URL": ["\ud83c"]}, r"half of a surrogate pair in '\\ud83c', at \['URL'\]\[0\]"),
    ],
)
def test_a_wrong_sni_file_is_named(tmp_path: Path, payload: Any, message: str) -> None:
    with pytest.raises(TaskDataError, match=rf"task001_a\.json: .*{message}"):
        load_sni(write_sni(tmp_path, task001_a=payload))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"Definition": "\xff"}', r"1: not UTF-8 \(byte 16\)"),
        (b'{\n"Definition": }', "2: not JSON"),
    ],
)
def test_an_sni_file_that_is_no_text_or_json_is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (write_sni(tmp_path, task001_a=SNI) / "tasks" / "task001_a.json").write_bytes(content)
    with pytest.raises(TaskDataError, match=rf"task001_a\.json:{message}"):
        load_sni(tmp_path)


def test_folders_and_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no task\*\.json; give"):
        load_sni(tmp_path)


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["yes", "no"] * 15, Metric("classification", ("no", "yes"))),
        ([f"item {i}" for i in range(30)], Metric("exact_match")),
        ([f"a rather long answer {i}" for i in range(30)], Metric("rougeL")),
    ],
)
def test_the_metric_is_guessed_from_the_answers(answers: list[str], metric: Metric) -> None:
    assert guess_metric([Example("x", (a,), i) for i, a in enumerate(answers)]) == metric


def lol_input(text: str) -> str:
    """The form of a row's input in the Lots-of-LoRAs collection."""
    return (
        "Definition: In this task you answer.\nBe short.\n\n"
        "Positive Example 1 -\nInput: How many?\nOutput: Two\n\n"
        "Positive Example 2 -\nInput: Who?\nOutput: Ann\n\n"
        "Negative Example 1 -\nInput: Why?\nOutput: 7\n\n"
        f"Now complete the following example -\nInput: {text}\nOutput:"
    )


def write_lots_of_loras(root: Path, inputs: list[str], outputs: list[Any]) -> Path:
    (root / "data").mkdir(parents=True)
    ids = [f"task001-{i}" for i in range(len(inputs))]
    table = pa.table({"id": ids, "input": inputs, "output": outputs})
    pq.write_table(table, root / "data" / "train-00000-of-00001.parquet")
    return root


def test_lots_of_loras_rows_give_the_definition_and_the_true_input(tmp_path: Path) -> None:
    folder = write_lots_of_loras(
        tmp_path / "task001_who",
        [lol_input("Who sang?\nInput: a trap"), lol_input("When?")],
        [["Bob", "Bob Dylan"], ["1962"]],
    )
    task = load_lots_of_loras(folder, descriptions=["Answer."], cache_dir=tmp_path / "cache")
    assert task.name == "task001_who"
    assert task.descriptions == ("In this task you answer.\nBe short.", "Answer.")
    assert task.examples == (
        Example("Who sang?\nInput: a trap", ("Bob", "Bob Dylan"), 0),
        Example("When?", ("1962",), 1),
    )
    assert task.source == str(folder)
    short = load_lots_of_loras(folder, max_rows=1, cache_dir=tmp_path / "cache")
    assert len(short.examples) == 1


def test_a_lots_of_loras_row_of_another_form_is_named(tmp_path: Path) -> None:
    texts = [lol_input("When?"), "Just a question"]
    folder = write_lots_of_loras(tmp_path / "a", texts, [["x"], ["y"]])
    with pytest.raises(TaskDataError, match='a:2: input is not "Definition: '):
        load_lots_of_loras(folder, cache_dir=tmp_path / "cache")
    folder = write_lots_of_loras(tmp_path / "b", [lol_input("When?")], [[""]])
    with pytest.raises(TaskDataError, match=r"b:1: output \[''\]; give non-empty texts"):
        load_lots_of_loras(folder, cache_dir=tmp_path / "cache")


def test_a_data_set_that_is_missing_or_has_other_columns_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot load '.*nowhere', split 'train'"):
        load_lots_of_loras(tmp_path / "nowhere", cache_dir=tmp_path / "cache")
    folder = tmp_path / "c" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["x"]}), folder / "train-00000-of-00001.parquet")
    with pytest.raises(TaskDataError, match="column 'input' is missing; expected id, input, out"):
        load_lots_of_loras(tmp_path / "c", cache_dir=tmp_path / "cache")


def test_without_datasets_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ConfigError, match=r"datasets is not installed; install text-to-lora\[train"
    ):
        load_lots_of_loras("Lots-of-LoRAs/task1")


@pytest.mark.network
def test_a_task_of_the_hub_has_the_form_of_our_copy() -> None:
    task = load_lots_of_loras(
        "Lots-of-LoRAs/task742_lhoestq_answer_generation_frequency", max_rows=20
    )
    assert len(task.examples) == 20
