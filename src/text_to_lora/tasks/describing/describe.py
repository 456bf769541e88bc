"""Describing the tasks of a folder: several at a time, each finished one recorded at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from text_to_lora.errors import BackendError, TaskDataError
from text_to_lora.files import one_job, read_json_lines, read_task_json
from text_to_lora.tasks.describing.endpoint import (
    Endpoint,
    UnreachableError,
    Usage,
    estimate_tokens,
)
from text_to_lora.tasks.describing.offline import paraphrases
from text_to_lora.tasks.describing.rules import Embed, Rules
from text_to_lora.tasks.describing.wording import (
    CHOICE_SCHEMA,
    DESCRIPTIONS_SCHEMA,
    PER_REQUEST,
    TOKENS_PER_DESCRIPTION,
    ask_choice,
    ask_descriptions,
)
from text_to_lora.tasks.folder import load_folder
from text_to_lora.tasks.task import Task
from text_to_lora.tasks.texts import distinct_texts
from text_to_lora.tasks.writing import write_entries

RECORDS: Final = "descriptions.jsonl"
_ROUNDS: Final = 4  # of requests for a task whose descriptions are left out

Write = Callable[[Task, Sequence[str]], "Described"]
"""Gives the descriptions of a task, those that it has from an earlier run first."""


@dataclass(frozen=True)
class Described:
    """What came of one task.

    wanted: how many descriptions were asked for; left_out: number of the others by reason
    """

    task: str
    descriptions: list[str]
    wanted: int
    left_out: dict[str, int] = field(default_factory=dict)
    written_by: str = ""


def plan(folder: Path | str, count: int) -> tuple[list[Task], list[Task], dict[str, Described]]:
    """Give all tasks of a folder, those that lack descriptions, and what earlier runs recorded."""
    tasks = load_folder(folder)
    records = _read_records(Path(folder) / RECORDS)
    due = [t for t in tasks if t.name not in records or records[t.name].wanted < count]
    return tasks, due, records


def estimate(due: Sequence[Task], everything: Sequence[Task], count: int, *, verify: bool) -> Usage:
    """Estimate what describing takes, if one description in eight is left out."""
    usage = Usage(is_estimate=True)
    asked = -(-count * 9 // 8)
    for task in due:
        requests = [
            ask_descriptions(task, start, min(PER_REQUEST, asked - start))
            for start in range(0, asked, PER_REQUEST)
        ]
        usage.answer_tokens += asked * TOKENS_PER_DESCRIPTION
        if verify:
            others = [other for other in everything if other is not task]
            requests += [ask_choice(task.definition, task, others)[0]] * count
            usage.answer_tokens += 8 * count
        usage.requests += len(requests)
        usage.prompt_tokens += sum(estimate_tokens(*(m["content"] for m in r)) for r in requests)
    return usage


def describe_by_endpoint(
    endpoint: Endpoint, everything: Sequence[Task], embed: Embed, count: int, *, verify: bool
) -> Write:
    """Describe by a language model; see Rules for which of its descriptions are kept.

    verify: keep a description only where the model, told nothing else, picks the task by it from ten
    """

    def write(task: Task, known: Sequence[str]) -> Described:
        rules = Rules(task, known, embed)
        others = [other for other in everything if other.name != task.name]
        start = len(known)
        for _ in range(_ROUNDS * -(-count // PER_REQUEST)):
            missing = count - len(rules.accepted)
            if missing <= 0:
                break
            number = min(PER_REQUEST, missing + max(1, missing // 8))
            answer = endpoint.ask(ask_descriptions(task, start, number), DESCRIPTIONS_SCHEMA)
            start += number
            texts = answer["descriptions"]
            for text in rules.take(texts if isinstance(texts, list) else []):
                if verify:
                    messages, right = ask_choice(text, task, others)
                    if endpoint.ask(messages, CHOICE_SCHEMA)["candidate"] != right:
                        rules.drop(text, "do not tell the task from others")
        return Described(task.name, rules.accepted[:count], count, dict(rules.left_out))

    return write


def describe_offline(count: int) -> Write:
    """Describe by templates; such texts differ in their frame alone, and teach less."""

    def write(task: Task, known: Sequence[str]) -> Described:
        texts = distinct_texts([*known, *paraphrases(task, count)])[:count]
        return Described(task.name, list(texts), count, written_by="templates")

    return write


def describe_folder(
    folder: Path | str,
    write: Write,
    count: int,
    *,
    parallel: int = 4,
    report: Callable[[str], None] = lambda line: None,
) -> list[Described]:
    """Describe the tasks of a folder that lack descriptions, and write them into `tasks.json`.

    Each finished task is recorded in `descriptions.jsonl`, so that a run that was stopped goes on;
    `tasks.json` is written whole, also after Ctrl-C and when the endpoint fails.
    count: descriptions of a task, besides its definition; parallel: tasks at a time

    Raises BackendError at the end when tasks failed, and at once when the endpoint cannot be used.
    """
    path = Path(folder)
    with one_job(path):
        _, due, records = plan(path, count)
        failures: dict[str, str] = {}
        pool = ThreadPoolExecutor(parallel)
        try:
            known = {name: record.descriptions for name, record in records.items()}
            jobs = {pool.submit(write, task, known.get(task.name, [])): task for task in due}
            pending: set[Future[Described]] = set(jobs)
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for job in sorted(finished, key=lambda job: job.exception() is not None):
                    _collect(job, jobs[job].name, path, records, failures)
                report(f"{len(due) - len(pending)} of {len(due)} tasks")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            _write_back(path, records)
    if failures:
        name, reason = next(iter(failures.items()))
        raise BackendError(
            f"{len(failures)} of {len(due)} tasks could not be described, first {name!r}: {reason}; "
            "repeat the command, which goes on with these"
        )
    return [records[task.name] for task in due]


def _collect(
    job: Future[Described],
    name: str,
    folder: Path,
    records: dict[str, Described],
    failures: dict[str, str],
) -> None:
    try:
        described = job.result()
    except UnreachableError:
        raise
    except BackendError as error:
        failures[name] = str(error)
        return
    with (folder / RECORDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(described), ensure_ascii=False) + "\n")
    records[name] = described


def _read_records(path: Path) -> dict[str, Described]:
    """The last record of each task; what a killed process left of a line is taken away."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    records = {}
    for line, row in read_json_lines(path):
        try:
            record = Described(**row)
        except TypeError:
            raise TaskDataError("no record of `t2l tasks describe`", path=path, line=line) from None
        records[record.task] = record
    return records


def _write_back(folder: Path, records: dict[str, Described]) -> None:
    entries = read_task_json(folder / "tasks.json")
    for entry in entries:
        if (record := records.get(entry["id"])) is not None:
            texts = [*entry.get("descriptions", []), *record.descriptions]
            entry["descriptions"] = list(distinct_texts(texts))
    write_entries(entries, folder / "tasks.json")
