"""Public data: sets of Hugging Face, Super-NaturalInstructions as a folder, Lots-of-LoRAs on the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError, TaskDataError, first_line, shorten
from text_to_lora.files import read_task_json
from text_to_lora.tasks.folder import is_list_of_texts
from text_to_lora.tasks.task import Example, Metric, Task

MAX_LABELS = 20
"""More different answers than this are not taken for a label set."""

LOTS_OF_LORAS_INPUT = re.compile(
    r"Definition: (?P<definition>.*?)\n\n(?:Positive Example|Negative Example|Now complete).*"
    r"Now complete the following example ?-\s*Input: (?P<input>.*?)\s*Output:\s*",
    re.DOTALL,
)


def open_dataset(
    name: str | Path,
    *,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """Open one split of a data set by its name on the hub, or its folder.

    config: which of the data set's configurations

    Raises ConfigError when `datasets` is not installed or the data set cannot be loaded.
    """
    try:
        from datasets import Dataset, load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ConfigError("datasets is not installed; install text-to-lora[train]") from error
    folder, where = Path(name), f"{str(name)!r}, split {split!r}"
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = load_from_disk(str(folder))
            return loaded if isinstance(loaded, Dataset) else loaded[split]
        cache = None if cache_dir is None else str(cache_dir)
        return load_dataset(str(name), config, split=split, revision=revision, cache_dir=cache)
    except KeyError:
        raise ConfigError(f"cannot load {where}: it has {', '.join(loaded)}") from None
    except (DatasetsError, OSError, ValueError) as error:
        raise ConfigError(f"cannot load {where}: {first_line(error)}") from error


def label_names(dataset: Any, column: str) -> dict[str, str] | None:
    """The label by its number, as text, where a column of a data set knows its labels."""
    names = getattr((getattr(dataset, "features", None) or {}).get(column), "names", None)
    return None if names is None else {str(i): str(name) for i, name in enumerate(names)}


def load_sni(path: Path | str) -> list[Task]:
    """Read the tasks of a copy of the Super-NaturalInstructions repository, or of its `tasks` folder.

    The metric is guessed from the outputs (`guess_metric`); a task's `idx` follows the file.

    Raises ConfigError when there are no files of tasks, TaskDataError when one is wrong.
    """
    root = Path(path)
    folder = root / "tasks" if (root / "tasks").is_dir() else root
    files = sorted(folder.glob("task*.json"))
    if not files:
        raise ConfigError(
            f"{str(root)!r} has no task*.json; give the repository or its tasks folder"
        )
    return [_read_sni(file) for file in files]


def load_lots_of_loras(
    repo_or_path: str | Path,
    *,
    split: str = "train",
    max_rows: int = 10_000,
    descriptions: Sequence[str] = (),
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Task:
    """Read one task of the Lots-of-LoRAs collection, such as "Lots-of-LoRAs/task742_...", or a copy.

    A row's input is the whole prompt: the definition becomes the task's, the example to complete
    becomes the input; the worked examples are dropped.
    descriptions: more wordings, which follow the definition

    Raises ConfigError when `datasets` is not installed or the data set cannot be loaded,
    TaskDataError with the row when a row has another form.
    Source: Text-to-LoRA uses the first 10,000 rows of `train`.
    """
    name = str(repo_or_path)
    rows = open_dataset(name, split=split, revision=revision, cache_dir=cache_dir)
    for column in ("input", "output"):
        if column not in rows.column_names:
            raise TaskDataError(
                f"column {column!r} is missing; expected id, input, output", path=name
            )
    definition, examples = "", []
    for idx, row in enumerate(rows.select(range(min(len(rows), max_rows)))):
        text, outputs = row["input"], _outputs(row["output"], name, row=idx + 1)
        match = LOTS_OF_LORAS_INPUT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise TaskDataError(
                'input is not "Definition: ... Now complete the following example - Input: ... Output:"',
                path=name,
                line=idx + 1,
            )
        definition = definition or match["definition"]
        examples.append(Example(match["input"], outputs, idx))
    return _task(
        name.rstrip("/").rpartition("/")[2],
        (definition, *descriptions),
        examples,
        path=name,
        source=name if revision is None else f"{name} {revision}",
    )


def guess_metric(examples: Sequence[Example]) -> Metric:
    """Guess how answers are scored.

    "classification" when there are few different one-part answers, each often used; else
    "exact_match" when answers have at most three words on average; else "rougeL".
    """
    answers = [example.outputs[0] for example in examples]
    labels = sorted(set(answers))
    single = all(len(example.outputs) == 1 for example in examples)
    if single and 2 <= len(labels) <= MAX_LABELS and 10 * len(labels) <= len(answers):
        return Metric("classification", tuple(labels))
    words = sum(len(answer.split()) for answer in answers) / len(answers)
    return Metric("exact_match" if words <= 3 else "rougeL")


def _read_sni(path: Path) -> Task:
    payload = read_task_json(path)
    for field in ("Definition", "Instances"):
        if not isinstance(payload, dict) or field not in payload:
            raise TaskDataError(f"field {field!r} is missing; is it a task file?", path=path)
    instances = payload["Instances"]
    if not isinstance(instances, list):
        raise TaskDataError(f"Instances is {shorten(instances)}; a list is expected", path=path)
    examples = []
    for idx, instance in enumerate(instances):
        if not isinstance(instance, dict) or not isinstance(instance.get("input"), str):
            raise TaskDataError(f"instance {idx + 1} has no text 'input'", path=path)
        outputs = _outputs(instance.get("output"), path, place=f"instance {idx + 1} has ")
        examples.append(Example(instance["input"], outputs, idx))
    return _task(
        path.stem,
        _texts(payload, "Definition", path),
        examples,
        path=path,
        license=", ".join(_texts(payload, "Instance License", path)),
        source=", ".join(_texts(payload, "URL", path)),
        group=", ".join(_texts(payload, "Source", path)),
        category=", ".join(_texts(payload, "Categories", path)),
    )


def _task(
    name: str,
    descriptions: Sequence[str],
    examples: list[Example],
    *,
    path: Path | str,
    **fields: str,
) -> Task:
    if not examples:
        raise TaskDataError("there are no instances; add some", path=path)
    fields = {"group": name} | {field: value for field, value in fields.items() if value}
    try:
        return Task(
            name, "", tuple(descriptions), tuple(examples), guess_metric(examples), **fields
        )
    except ConfigError as error:
        raise TaskDataError(str(error), path=path) from error


def _texts(payload: Mapping[str, Any], field: str, path: Path) -> tuple[str, ...]:
    """Give a field that is a text in old files and a list of texts in new ones."""
    value = payload.get(field, [])
    if not (isinstance(value, str) or is_list_of_texts(value)):
        raise TaskDataError(
            f"{field} is {shorten(value)}; a text or a list of texts is expected", path=path
        )
    return (value,) if isinstance(value, str) else tuple(value)


def _outputs(
    value: Any, path: Path | str, *, row: int | None = None, place: str = ""
) -> tuple[str, ...]:
    """Give the texts of an output that are not empty; the output is one text or several.

    place: what the output is of, as the start of a message
    """
    texts = [value] if isinstance(value, str) else value if is_list_of_texts(value) else []
    if not (filled := tuple(text for text in texts if text.strip())):
        raise TaskDataError(
            f"{place}output {shorten(value)}; give non-empty texts", path=path, line=row
        )
    return filled
