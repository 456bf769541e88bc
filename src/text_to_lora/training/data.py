"""Tasks as a run uses them: sources, parts set aside, rows as tokens, batches by step."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.inference.rows import Rows
from text_to_lora.tasks.families import families
from text_to_lora.tasks.folder import load_data_dir, load_folder
from text_to_lora.tasks.hub import load_lots_of_loras, load_sni
from text_to_lora.tasks.prompts import PromptFormat, paper_definition
from text_to_lora.tasks.sampling import TaskSampler, TrainingRow
from text_to_lora.tasks.task import Task
from text_to_lora.training.config import DataSection, SourcesSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def split_by_group(tasks: Sequence[Task], one_in: int = 16) -> tuple[list[Task], list[Task]]:
    """Split tasks into (trained on, set aside) by whole source groups.

    one_in: about one group in this many is set aside, by hash of its name, so that it does not
        depend on which other tasks there are; 0 sets none aside
    """

    def aside(task: Task) -> bool:
        return one_in > 0 and int(sha256(task.group.encode()).hexdigest(), 16) % one_in == 0

    return [task for task in tasks if not aside(task)], [task for task in tasks if aside(task)]


def load_tasks(data: SourcesSection) -> list[Task]:
    """Read the tasks of all sources of a configuration.

    Raises ConfigError when it names none or two tasks share a name, and what the loaders raise.
    """
    tasks: list[Task] = []
    if data.data_dir is not None:
        tasks += load_data_dir(data.data_dir, data.split)
    for folder in data.folders:
        tasks += load_folder(folder)
    if data.sni is not None:
        tasks += load_sni(data.sni)
    tasks += [load_lots_of_loras(name) for name in data.hub]
    if not tasks:
        raise ConfigError("no tasks; set data.data_dir, data.folders, data.sni or data.hub")
    seen: set[str] = set()
    for task in tasks:
        if task.name in seen:
            raise ConfigError(f"two tasks are named {task.name!r}; leave one out of the sources")
        seen.add(task.name)
    return tasks


@dataclass(frozen=True)
class TaskSplit:
    """The tasks of a run.

    training: tasks and families to train on; evaluation: tasks of each validation set, by name
    """

    training: tuple[Task, ...]
    evaluation: dict[str, tuple[Task, ...]]

    @classmethod
    def make(cls, tasks: Sequence[Task], data: DataSection) -> TaskSplit:
        """Set source groups aside, make the families, and keep the asked number of descriptions.

        Validation sets are "seen_tasks" (held-out rows of training tasks), "unseen_tasks" (groups
        set aside) and "unseen_families" (families set aside, over held-out rows); empty ones are
        left out.

        Raises ConfigError when nothing is left to train on, or less than `data.count` tasks.
        """
        kept, aside = split_by_group(tasks, data.validation_one_in)
        if not kept:
            raise ConfigError(
                f"all {len(tasks)} tasks are set aside by data.validation_one_in="
                f"{data.validation_one_in}; set it to 0 or add tasks"
            )
        kept = _chosen(kept, data.count, data.min_descriptions)
        made: list[Task] = []
        made_aside: list[Task] = []
        if data.family_tasks:
            share = data.family_word_share
            made = families(
                kept, seed=data.family_seed, num_tasks=data.family_tasks, word_share=share
            )
            if data.eval_rows and data.validation_family_tasks:
                made_aside = families(
                    kept,
                    seed=data.family_seed,
                    split="validation",
                    num_tasks=data.validation_family_tasks,
                    word_share=share,
                )
        evaluation = {"seen_tasks": kept, "unseen_tasks": aside, "unseen_families": made_aside}
        return cls(
            training=_shortened([*kept, *made], data.descriptions_per_task),
            evaluation={
                name: _shortened(part, data.descriptions_per_task)
                for name, part in evaluation.items()
                if part and data.eval_rows
            },
        )


def _chosen(tasks: Sequence[Task], count: int | None, min_descriptions: int) -> list[Task]:
    """The tasks that have enough descriptions, as many as are asked for."""
    enough = [task for task in tasks if len(task.descriptions) >= min_descriptions]
    if len(enough) < (count or 1):
        raise ConfigError(
            f"data.count is {count or 'all'}, but {len(enough)} tasks have "
            f"data.min_descriptions={min_descriptions}; lower either"
        )
    if count is None:
        return enough
    by_hash = sorted(enough, key=lambda task: sha256(task.name.encode()).digest())
    names = {task.name for task in by_hash[:count]}
    return [task for task in enough if task.name in names]


def _shortened(tasks: Iterable[Task], count: int | None) -> tuple[Task, ...]:
    return tuple(replace(task, descriptions=task.descriptions[:count]) for task in tasks)


@dataclass(frozen=True)
class Part:
    """Rows that run through the base at once.

    student: prompts as the adapted base sees them; teacher: rows with their description in the
        prompt, None without distillation; taught: which rows of `student` those are
    swapped: whether each row has the description and the answer of another task
    rows: which adapter of the batch each row uses
    task_names: task of each row; noise_seeds: of each row's noise
    """

    student: Rows
    teacher: Rows | None
    taught: tuple[int, ...]
    swapped: tuple[bool, ...]
    rows: tuple[int, ...]
    task_names: tuple[str, ...]
    noise_seeds: tuple[int, ...]

    def to(self, device: torch.device) -> Part:
        """The same rows on another device."""
        teacher = None if self.teacher is None else self.teacher.to(device)
        return replace(self, student=self.student.to(device), teacher=teacher)


@dataclass(frozen=True)
class Batch:
    """The rows of one step that a process runs.

    parts: its rows, those of like length together
    embeddings: task embeddings of the distinct descriptions of the whole step, [adapters,
        embedding_dim]
    total_rows: rows of the whole step, over all processes
    seed: of the dropout of the whole step
    texts: the distinct descriptions, in the order of `embeddings`
    """

    parts: tuple[Part, ...]
    embeddings: Tensor
    total_rows: int
    seed: int
    texts: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return sum(len(part.student.tokens) for part in self.parts)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        parts = tuple(part.to(device) for part in self.parts)
        return replace(self, parts=parts, embeddings=self.embeddings.to(device))


class RowEncoder:
    """Turns rows into token ids; each is tokenised when it first comes, and kept.

    max_prompt_tokens, max_description_tokens, max_answer_tokens: as in DataSection
    description_in: the turn that holds a description, as for PromptFormat
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        description_in: Literal["system", "user"] = "system",
        max_prompt_tokens: int,
        max_description_tokens: int,
        max_answer_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._description_in = description_in
        self._format = PromptFormat.for_tokenizer(tokenizer, description_in=description_in)
        self._max_prompt = max_prompt_tokens
        self._max_description = max_description_tokens
        self._max_answer = max_answer_tokens
        self._rows: dict[tuple[str, str, str | None], tuple[array[int], array[int]]] = {}
        self._descriptions: dict[str, str] = {}

    def encode(
        self, input: str, answer: str, description: str | None = None
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Token ids of prompt and answer, cut to their limits."""
        key = (input, answer, description)
        if key not in self._rows:
            limit = self._max_prompt
            if description is not None:
                limit += self._max_description
                description = self._cut(description)
            room = limit + self._max_answer
            encode = self._format.encode
            prompt = encode(self._tokenizer, input, None, description, max_length=limit).prompt_ids
            row = encode(self._tokenizer, input, answer, description, max_length=10**9)
            answer_ids = row.answer_ids[: room - limit]
            self._rows[key] = array("l", prompt), array("l", answer_ids)
        return self._rows[key]

    def length(self, row: tuple[str, str, str | None]) -> int:
        """Tokens of (input, answer, description in the prompt or None)."""
        return sum(map(len, self.encode(*row)))

    def join(self, rows: Iterable[tuple[str, str, str | None]]) -> Rows:
        """Encode (input, answer, description in the prompt or None)."""
        encoded = [self.encode(*row) for row in rows]
        return Rows.join([prompt for prompt, _ in encoded], [answer for _, answer in encoded])

    def definition(self, task: Task) -> str:
        """A task's definition as it stands in a prompt: in the user's turn in the paper's form."""
        user = self._description_in == "user"
        return paper_definition(task.definition) if user else task.definition

    def _cut(self, description: str) -> str:
        if description not in self._descriptions:
            ids = self._tokenizer(description, add_special_tokens=False, verbose=False).input_ids
            text = description
            if len(ids) > self._max_description:
                text = str(self._tokenizer.decode(ids[: self._max_description]))
            self._descriptions[description] = text
        return self._descriptions[description]


class Descriptions:
    """Task embeddings of descriptions, by text.

    texts: each description once; embeddings: [texts, embedding_dim]
    """

    def __init__(self, texts: Sequence[str], embeddings: Tensor) -> None:
        self._places = {text: place for place, text in enumerate(texts)}
        self._embeddings = embeddings

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Embeddings of the distinct texts, and for each text which of them is its own."""
        distinct = list(dict.fromkeys(texts))
        order = {text: place for place, text in enumerate(distinct)}
        rows = tuple(order[text] for text in texts)
        return self._embeddings[[self._places[text] for text in distinct]], rows


class TrainingBatches(Dataset[Batch]):
    """The batches of a process by step; each depends on (seed, step) and the process alone.

    steps: optimiser steps; parts: in how many parts a process runs its rows of a step
    process, processes: this process and how many there are
    in_prompt: put the task's definition in the prompt; distill: give the teacher's prompts as well
    reads_input: make each row's adapter from its input instead of its description
    swapped: rows of each task that get the description and the answer of the step's next task; what
        is right for these the teacher alone knows, so that its prompts are given for them always
    swapped_after: steps before the first with such rows

    Raises ConfigError when a step has fewer rows than there are processes, or no row of a task or no
    other task is left for `swapped`.
    """

    def __init__(
        self,
        sampler: TaskSampler,
        encoder: RowEncoder,
        descriptions: Descriptions,
        *,
        steps: int,
        parts: int = 1,
        process: int = 0,
        processes: int = 1,
        in_prompt: bool = False,
        distill: bool = False,
        reads_input: bool = False,
        swapped: int = 0,
        swapped_after: int = 0,
    ) -> None:
        if swapped and (swapped >= sampler.examples_per_task or sampler.tasks_per_batch < 2):
            raise ConfigError(
                f"data.swapped_examples is {swapped} of data.examples_per_task="
                f"{sampler.examples_per_task} in steps of {sampler.tasks_per_batch} tasks; "
                "one row of its own for each task and two tasks a step are needed"
            )
        total = sampler.tasks_per_batch * sampler.examples_per_task
        if total < processes:
            raise ConfigError(
                f"a step has {total} rows, too few for {processes} processes; "
                "raise data.tasks_per_batch"
            )
        self._sampler = sampler
        self._encoder = encoder
        self._descriptions = descriptions
        self._steps = steps
        self._parts = parts
        self._process = process
        self._processes = processes
        self._in_prompt = in_prompt
        self._distill = distill
        self._reads_input = reads_input
        self._swapped = swapped
        self._swapped_after = swapped_after

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        drawn = self._sampler.batch(step)
        swapped = self._swapped if step >= self._swapped_after else 0
        told_by = [self._teller(place, len(drawn), swapped) for place in range(len(drawn))]
        # A row keeps its input, and has description and answer of the row that tells it its task.
        rows = [
            replace(drawn[teller], input=row.input)
            for row, teller in zip(drawn, told_by, strict=True)
        ]
        texts = [self._description(row) for row in rows]
        read = [row.input for row in rows] if self._reads_input else texts
        embeddings, adapters = self._descriptions.batch(read)
        first = len(rows) * self._process // self._processes
        stop = len(rows) * (self._process + 1) // self._processes
        seed = self._sampler.seed

        def make_part(chosen: Sequence[int]) -> Part:
            tasks = [self._sampler.tasks[rows[i].task_index] for i in chosen]
            others = tuple(told_by[i] != i for i in chosen)
            taught = tuple(p for p, other in enumerate(others) if self._distill or other)
            told = [
                (rows[chosen[place]].input, rows[chosen[place]].output, texts[chosen[place]])
                for place in taught
            ]
            return Part(
                student=self._encoder.join(self._seen(rows[i]) for i in chosen),
                teacher=self._encoder.join(told) if told else None,
                taught=taught,
                swapped=others,
                rows=tuple(adapters[i] for i in chosen),
                task_names=tuple(task.name for task in tasks),
                noise_seeds=tuple(seed_of(f"{seed}/noise/{step}/{i}") for i in chosen),
            )

        mine = range(first, stop)
        lengths = [self._encoder.length(self._seen(rows[i])) for i in mine]
        groups = split_by_length(lengths, self._parts)
        return Batch(
            parts=tuple(make_part([mine[place] for place in group]) for group in groups),
            embeddings=embeddings,
            total_rows=len(rows),
            seed=seed_of(f"{seed}/dropout/{step}"),
            texts=tuple(dict.fromkeys(read)),
        )

    def _teller(self, place: int, count: int, swapped: int) -> int:
        """The row whose description and answer a row has: itself, or one of the next task."""
        examples = self._sampler.examples_per_task
        if place % examples < examples - swapped:
            return place
        return (place + examples) % count

    def _seen(self, row: TrainingRow) -> tuple[str, str, str | None]:
        """Input, answer, and what the prompt says of the task."""
        task = self._sampler.tasks[row.task_index]
        return row.input, row.output, self._encoder.definition(task) if self._in_prompt else None

    def _description(self, row: TrainingRow) -> str:
        return self._sampler.tasks[row.task_index].descriptions[row.description_index]


def split_by_length(lengths: Sequence[int], parts: int) -> Iterator[list[int]]:
    """Split rows into at most `parts` lists of like length, so that little is spent on padding.

    lengths: of the rows, in tokens
    Gives the rows' places.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    count = min(parts, len(order))
    for part in range(count):
        yield order[len(order) * part // count : len(order) * (part + 1) // count]


@dataclass(frozen=True)
class EvalRow:
    """A validation row.

    task: where it is from; description: of its task; shuffled: of a task of another source group
        and other labels, None where there is no such task
    """

    task: Task
    input: str
    output: str
    description: str
    shuffled: str | None


def pick_eval_rows(
    tasks: Sequence[Task], count: int, *, seed: int, held_out: bool = True
) -> list[EvalRow]:
    """Draw about equally many rows of every task, `count` in all or as many as there are.

    held_out: take rows with idx % 10 == 9 only, as tasks that are trained on need
    """
    rng = Random(f"{seed}/evaluation")
    shuffled_tasks = _other_tasks(tasks)
    pools = []
    for task, other in zip(tasks, shuffled_tasks, strict=True):
        examples = list(task.validation() if held_out else task.examples)
        rng.shuffle(examples)
        pools.append((task, other, examples))
    rng.shuffle(pools)
    rows: list[EvalRow] = []
    place = 0
    while len(rows) < count and any(place < len(examples) for *_, examples in pools):
        for task, other, examples in pools:
            if place < len(examples) and len(rows) < count:
                example = examples[place]
                rows.append(
                    EvalRow(
                        task,
                        example.input,
                        example.outputs[0],
                        rng.choice(task.descriptions),
                        None if other is None else rng.choice(other.descriptions),
                    )
                )
        place += 1
    return rows


def eval_batches(
    rows: Sequence[EvalRow],
    texts: Sequence[str],
    encoder: RowEncoder,
    descriptions: Descriptions,
    *,
    size: int,
    in_prompt: bool = False,
) -> list[Batch]:
    """Validation rows as batches of up to `size` rows of like length.

    texts: the description that makes the adapter of each row
    """
    seen = [
        (row.input, row.output, encoder.definition(row.task) if in_prompt else None) for row in rows
    ]
    lengths = [encoder.length(row) for row in seen]
    batches = []
    for chosen in split_by_length(lengths, ceil(len(rows) / size)):
        embeddings, adapters = descriptions.batch([texts[i] for i in chosen])
        names = tuple(rows[i].task.name for i in chosen)
        joined = encoder.join(seen[i] for i in chosen)
        part = Part(joined, None, (), (False,) * len(chosen), adapters, names, ())
        read = tuple(dict.fromkeys(texts[i] for i in chosen))
        batches.append(Batch((part,), embeddings, len(chosen), seed=0, texts=read))
    return batches


def _other_tasks(tasks: Sequence[Task]) -> list[Task | None]:
    """For each task one of another source group and other labels, about half the list away."""
    others: list[Task | None] = []
    for place, task in enumerate(tasks):
        start = place + len(tasks) // 2
        candidates = (tasks[(start + shift) % len(tasks)] for shift in range(len(tasks)))
        others.append(
            next(
                (
                    other
                    for other in candidates
                    if other is not task
                    and (other.group != task.group or not task.group)
                    and (other.metric.labels != task.metric.labels or not task.metric.labels)
                ),
                None,
            )
        )
    return others


def check_context(data: DataSection, config: Any, *, described: bool) -> None:
    """Check that the longest row fits the positions that a base model has.

    described: some prompts hold a description

    Raises ConfigError when it does not.
    """
    parts = [data.max_prompt_tokens, data.max_answer_tokens]
    if described:
        parts.append(data.max_description_tokens)
    check_positions(parts, config)


def check_positions(parts: Sequence[int], config: Any) -> None:
    """Check that rows made of parts of up to so many tokens fit the positions of a base model.

    Raises ConfigError when they do not.
    """
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is not None and sum(parts) > limit:
        raise ConfigError(
            f"rows of up to {sum(parts)} tokens ({' + '.join(map(str, parts))}) do not fit the "
            f"base's {limit} positions; lower data.max_prompt_tokens"
        )


def warn_long(texts: Sequence[str], counts: Sequence[int], limit: int) -> None:
    """Warn once of how many descriptions the encoder cuts."""
    cut = sum(count > limit for count in counts)
    if cut:
        warnings.warn(
            f"the encoder reads {limit} tokens of a description; {cut} of {len(texts)} are longer",
            T2LWarning,
            stacklevel=2,
        )


def seed_of(text: str) -> int:
    """A seed that torch's generators take, from 0 to 2**63 - 1."""
    return int.from_bytes(sha256(text.encode()).digest()[:8]) >> 1
