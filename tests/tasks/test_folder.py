import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from text_to_lora.errors import ConfigError, T2LWarning, TaskDataError
from text_to_lora.tasks.folder import load_data_dir, load_folder
from text_to_lora.tasks.task import Example, Metric

TASKS: list[dict[str, Any]] = [
    {
        "id": "colour",
        "definition": "Name the colour.",
        "descriptions": ["Name the colour.", "What colour is it?"],
        "metric": {"kind": "classification", "labels": ["red", "green"]},
        "license": "CC0",
        "source": {"repo": "owner/repo", "commit": "c0ffee"},
    },
    {"id": "copy", "descriptions": ["Copy."], "metric": {"kind": "exact_match"}},
]
ROWS: list[dict[str, Any]] = [
    {"task_id": "colour", "idx": 0, "input": "grass", "outputs": ["green"]},
    {"task_id": "copy", "idx": 0, "input": "a\nb", "outputs": ["a\nb", "a b"]},
    {"task_id": "colour", "idx": 9, "input": "blood", "outputs": ["red"]},
]
TWICE = {"kind": "classification", "labels": ["red", "green", "red"]}


def write_folder(
    folder: Path, tasks: Any = TASKS, rows: Any = ROWS, *, parquet: bool = False
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tasks.json").write_text(json.dumps(tasks, indent=1), encoding="utf-8")
    if parquet:
        pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    else:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("parquet", [False, True])
def test_a_folder_gives_its_tasks_in_order(tmp_path: Path, parquet: bool) -> None:
    colour, copy = load_folder(write_folder(tmp_path / "own", parquet=parquet))
    assert colour.descriptions == ("Name the colour.", "What colour is it?")
    assert colour.examples == (Example("grass", ("green",), 0), Example("blood", ("red",), 9))
    assert colour.metric == Metric("classification", ("red", "green"))
    assert (colour.license, colour.source, colour.group) == ("CC0", "owner/repo c0ffee", "colour")
    assert copy.examples == (Example("a\nb", ("a\nb", "a b"), 0),)


@pytest.mark.parametrize("parquet", [False, True])
def test_rows_without_idx_are_numbered_within_their_task(tmp_path: Path, parquet: bool) -> None:
    rows = [{k: v for k, v in row.items() if k != "idx"} for row in ROWS]
    colour, copy = load_folder(write_folder(tmp_path, rows=rows, parquet=parquet))
    assert [row.idx for row in colour.examples] == [0, 1]
    assert [row.idx for row in copy.examples] == [0]


def test_named_tasks_alone_are_read(tmp_path: Path) -> None:
    assert [task.name for task in load_folder(write_folder(tmp_path), ["copy"])] == ["copy"]
    with pytest.raises(ConfigError, match="no task 'cpoy'; it has 2, first 'colour'"):
        load_folder(tmp_path, ["cpoy"])


def test_a_data_folder_gives_one_split_of_all_collections(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", TASKS[:1], [ROWS[0]])
    write_folder(tmp_path / "two", TASKS[1:], [ROWS[1]], parquet=True)
    splits = {"train": ["copy"], "dev_heldout": ["colour"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    assert [task.name for task in load_data_dir(tmp_path)] == ["copy"]
    (task,) = load_data_dir(tmp_path, "dev_heldout")
    assert (task.name, task.split) == ("colour", "dev_heldout")
    with pytest.raises(ConfigError, match="no split 'test'; choose one of train, dev_heldout"):
        load_data_dir(tmp_path, "test")
    (tmp_path / "splits.json").write_text('{"train": ["gone"]}')
    with pytest.raises(TaskDataError, match=r"splits\.json: .*1 tasks .* first 'gone'"):
        load_data_dir(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_data_dir(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"train": "copy"}', r"splits\.json: split 'train' is not a list of task ids"),
        (b'{"train": [1]}', r"splits\.json: split 'train' is not a list of task ids"),
        (b'["copy"]', r"splits\.json: expected an object"),
        (b'{"train":\n [}', r"splits\.json:2: not JSON"),
        (b'{"train": ["\xff"]}', r"splits\.json:1: not UTF-8"),
    ],
)
def test_a_wrong_list_of_splits_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    write_folder(tmp_path / "one")
    (tmp_path / "splits.json").write_bytes(content)
    with pytest.raises(TaskDataError, match=message):
        load_data_dir(tmp_path)


def test_empty_files_are_named(tmp_path: Path) -> None:
    for rows in ([], [ROWS[1]]):
        folder = write_folder(tmp_path / "lines", rows=rows)
        with pytest.raises(TaskDataError, match=r"data\.jsonl: task 'colour' has no rows"):
            load_folder(folder)
    (folder / "tasks.json").write_bytes(b"")
    with pytest.raises(TaskDataError, match=r"tasks\.json:1: not JSON"):
        load_folder(folder)
    folder = write_folder(tmp_path / "parquet", parquet=True)
    pq.write_table(pq.read_table(folder / "data.parquet").slice(0, 0), folder / "data.parquet")
    with pytest.raises(TaskDataError, match=r"data\.parquet: task 'colour' has no rows"):
        load_folder(folder)


@pytest.mark.parametrize("parquet", [False, True])
def test_rows_without_a_label_among_their_outputs_are_told_of_once(
    tmp_path: Path, parquet: bool
) -> None:
    rows = [
        *ROWS,
        changed(ROWS[0], idx=1, outputs=["azure", " Green. "]),
        changed(ROWS[0], idx=2, outputs=["azure", "blue"]),
    ]
    folder = write_folder(tmp_path / "own", rows=rows, parquet=parquet)
    with pytest.warns(
        T2LWarning,
        match=r"own' has rows whose outputs are none of their task's labels, so that no label is "
        r"right: 1 of 4 of 'colour'; mend the rows or add the labels",
    ) as caught:
        assert len(load_folder(folder)[0].examples) == 4
    assert len(caught) == 1
    load_folder(folder, ["copy"])


def changed(entry: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {key: value for key, value in {**entry, **fields}.items() if value is not ...}


@pytest.mark.parametrize(
    ("tasks", "line", "message"),
    [
        ([TASKS[1], changed(TASKS[1])], 11, "task id 'copy' is taken by line 2"),
        ([TASKS[1], changed(TASKS[0], id="")], 11, "a task has id ''"),
        ([TASKS[1], 7], 11, "a task is a int; expected an object"),
        ([TASKS[1], changed(TASKS[0], metric=...)], 11, "'colour' has metric None; give"),
        ([TASKS[1], changed(TASKS[0], metric={"kind": "bleu"})], 11, "metric kind 'bleu'; choose"),
        ([TASKS[1], changed(TASKS[0], metric={"kind": "classification"})], 11, "has no labels"),
        (
            [TASKS[1], changed(TASKS[0], metric=TWICE)],
            11,
            "task 'colour': label 'red' stands in 'labels' twice; list each label once",
        ),
        (
            [TASKS[1], changed(TASKS[0], definition=" ", descriptions=[])],
            11,
            "'colour' has no description",
        ),
        ([TASKS[1], changed(TASKS[0], descriptions="one")], 11, "descriptions 'one'; give a list"),
        ([TASKS[1], changed(TASKS[0], definition=3)], 11, "definition 3; give a text"),
        ([], None, "the list of tasks is empty"),
        ({}, None, "holds a dict; a list of tasks is expected"),
    ],
)
def test_an_error_in_tasks_names_file_and_line(
    tmp_path: Path, tasks: Any, line: int | None, message: str
) -> None:
    with pytest.raises(TaskDataError, match=message) as caught:
        load_folder(write_folder(tmp_path, tasks))
    assert (caught.value.path.name, caught.value.line) == ("tasks.json", line)


BAD_ROWS = [
    (changed(ROWS[0], task_id="other"), "task 'other', which tasks.json does not have"),
    (changed(ROWS[0], idx=9), "idx 9 of task 'colour' occurs twice"),
    (changed(ROWS[0], idx=-1), "idx -1; give a whole number"),
    (changed(ROWS[0], outputs=[]), r"outputs \(\); give one or more"),
    (changed(ROWS[0], outputs=["green", " "]), "give one or more non-empty texts"),
]
BAD_LINES = [
    (changed(ROWS[0], input=...), "no column 'input'; there are "),
    (changed(ROWS[0], input=3), "input 3; give a text"),
    (changed(ROWS[0], outputs="green"), "outputs 'green'; give a list of texts"),
    (changed(ROWS[0], outputs=[1]), r"outputs \[1\]; give a list of texts"),
    (changed(ROWS[0], idx="0"), "idx '0'; give a whole number"),
    ("[1]", "a row is a list"),
    (changed(ROWS[0], task_id=7), "row of task 7, which"),
    (changed(ROWS[0], task_id=[1]), r"row of task \[1\], which tasks.json does not have"),
    ('{"task_id": ', "not JSON"),
    ('{"task_id": "copy", "task_id": "colour"}', "the key 'task_id' twice in one object"),
    (changed(ROWS[0], input="\ud83c"), r"half of a surrogate pair in '\\ud83c', at \['input'\]"),
    ("[" * 100_000, "nested more than 64 deep"),
    (changed(ROWS[0], idx=10**400), "a number of 401 digits"),
]


@pytest.mark.parametrize(
    ("row", "message", "parquet"),
    [
        *((row, message, False) for row, message in BAD_ROWS + BAD_LINES),
        *((row, message, True) for row, message in BAD_ROWS),
    ],
)
def test_an_error_in_a_row_names_file_and_row(
    tmp_path: Path, row: Any, message: str, parquet: bool
) -> None:
    with pytest.raises(TaskDataError, match=rf"data\.(jsonl|parquet):3: .*{message}"):
        load_folder(write_folder(tmp_path, rows=[*ROWS[1:], row], parquet=parquet))


def test_a_file_that_is_not_utf8_is_named_with_the_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "data.jsonl").write_bytes(b'\n{"input": "\xe9"}\n')
    with pytest.raises(TaskDataError, match=r"data\.jsonl:2: not UTF-8 \(byte 11\)"):
        load_folder(folder)


def test_files_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(TaskDataError, match=r"tasks\.json: does not exist"):
        load_folder(tmp_path)
    folder = write_folder(tmp_path)
    (folder / "data.parquet").write_bytes(b"no parquet")
    with pytest.raises(TaskDataError, match=r"both data\.parquet and data\.jsonl"):
        load_folder(folder)
    (folder / "data.jsonl").unlink()
    with pytest.raises(TaskDataError, match=r"data\.parquet: not a parquet file"):
        load_folder(folder)
    pq.write_table(pa.table({"task_id": ["copy"]}), folder / "data.parquet")
    with pytest.raises(TaskDataError, match="no column 'input'; there are "):
        load_folder(folder)
    (folder / "data.parquet").unlink()
    with pytest.raises(TaskDataError, match=r"neither data\.parquet nor data\.jsonl"):
        load_folder(folder)
