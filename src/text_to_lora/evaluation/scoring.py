"""Scorer: likelihoods and greedy answers of fixed rows, each row with its own adapter."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from text_to_lora.errors import ConfigError, TaskDataError, list_some
from text_to_lora.evaluation.metrics import in_labels, score_answer
from text_to_lora.evaluation.rules import find_rule
from text_to_lora.inference.generate import cache_name, crop, find_stop_tokens, generate, pad_left
from text_to_lora.inference.rows import Rows, answer_logits, logits_at, split_by_tokens
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.prompts import Encoded, PromptFormat
from text_to_lora.tasks.task import Example, Row, Task
from text_to_lora.tasks.texts import normalize_answer

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

TOKENS_PER_BATCH = 8192  # rows x longest prompt and answer
LOGITS_PER_TOKEN = 2**13  # a batch has 2^26 logits of answers at most, 256 MiB in float32
SPARE_TOKENS = 4  # beyond the longest right answer, so that a cut answer is never a right one
UNLIMITED = 2**31  # tokens

_Nll = Callable[[Sequence[Sequence[int]]], Tensor]
"""An answer of each row of a batch -> its negative log likelihood, nats, [batch]."""
_Shots = tuple[tuple[str, str], ...]
"""Input and answer of each solved example."""
_PromptKey = tuple[str, str | None, int, _Shots]
"""Input, description, room in tokens, and shots."""


class ScoringOptions(TypedDict, total=False):
    """Options of a Scorer; see there."""

    max_new_tokens: int
    max_length: int
    label_likelihood: bool
    cut_descriptions: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model makes of one row; fields as in Sample.

    nll, tokens: 0 tokens where there is no likelihood
    shots: solved examples that stood in the prompt
    """

    text: str
    nll: float
    tokens: int
    score: float | None
    in_labels: bool | None
    label_score: float | None
    cut: bool
    shots: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A row in tokens.

    limit: most tokens worth generating; 0: none
    labels: answers of the label set; empty where not asked for
    cut, shots: as in Answer
    """

    prompt: list[int]
    answer: list[int]
    limit: int
    labels: list[list[int]]
    cut: bool
    shots: int


@dataclass(frozen=True, slots=True)
class _Result:
    """What a model makes of a row in tokens; label: place of the likeliest label."""

    text: str
    nll: float
    label: int | None


def held_out(task: Task) -> tuple[Example, ...]:
    """The rows that a task may be scored on: of a training task idx % 10 == 9, else >= 5."""
    return task.validation() if task.split == "train" else task.scored()


def choose_rows(
    tasks: Sequence[Task],
    *,
    rows_per_task: int | None,
    seed: int,
    examples: Callable[[Task], Sequence[Example]] = Task.scored,
) -> list[Row]:
    """Draw up to `rows_per_task` rows of each task, in order of idx; None takes them all.

    A task's draw depends on its name, its rows and the seed alone.

    Raises TaskDataError naming a task without rows.
    """
    if rows_per_task is not None and rows_per_task < 1:
        raise ConfigError(f"rows_per_task is {rows_per_task}; give at least 1, or None for all")
    rows: list[Row] = []
    for task in tasks:
        pool = sorted(examples(task), key=lambda example: example.idx)
        if not pool:
            raise TaskDataError(
                f"task {task.name!r} has no rows to score (training tasks are scored on "
                "idx % 10 == 9, others on idx % 10 >= 5); add such rows or leave the task out",
                path=task.source or task.name,
            )
        if rows_per_task is not None and len(pool) > rows_per_task:
            rng = Random(f"rows/{seed}/{task.name}")
            pool = sorted(rng.sample(pool, rows_per_task), key=lambda example: example.idx)
        rows += [Row(task, example) for example in pool]
    return rows


class Scorer:
    """Scores rows with one base model.

    max_new_tokens: most tokens of a greedy answer; 0 generates none. A classification or
        exact-match answer stops earlier, once it is longer than everything that could be right;
        programs are not generated, since they would have to be run.
    max_length: most tokens of prompt and answer together; prompts are cut to leave room
    label_likelihood: find each classification row's likeliest label too (sum over its tokens)
    cut_descriptions: cut a description that does not fit even without the row's input on its right,
        to half of the prompt's room; such a prompt counts as cut

    The answer's likelihood continues from the cache that generation leaves, where there is one that
    can be cropped; else prompt and answer run as in training. Rows of tasks whose metric is a rule
    have no likelihood, since a rule names no right answer.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int = 32,
        max_length: int = 512,
        label_likelihood: bool = False,
        cut_descriptions: bool = False,
    ) -> None:
        positions = getattr(base.config, "max_position_embeddings", max_length)
        self._base = base
        self._tokenizer = tokenizer
        self._format = PromptFormat.for_tokenizer(tokenizer)
        self._max_new_tokens = max_new_tokens
        self._positions = positions
        self._max_length = min(max_length, positions)
        if 2 * max_new_tokens > self._max_length:
            raise ConfigError(
                f"max_new_tokens is {max_new_tokens}; prompt and answer have "
                f"{self._max_length} tokens together, give at most half of them"
            )
        self._label_likelihood = label_likelihood
        self._cut_descriptions = cut_descriptions
        self._stops = find_stop_tokens(base, tokenizer, self._format)
        # Tokens of the texts that come again under every condition.
        self._prompts: dict[_PromptKey, Encoded] = {}
        self._answers: dict[str, list[int]] = {}

    def score(
        self,
        rows: Sequence[Row],
        *,
        weights: LoraWeights | None = None,
        adapters: Sequence[int] | None = None,
        prompt_texts: Sequence[str | None] | None = None,
        shots: Sequence[Sequence[Example]] | None = None,
    ) -> list[Answer]:
        """Score every row; the answers are in the order of the rows.

        adapters: adapter of each row; None gives every row adapter 0
        prompt_texts: description in each row's prompt; None: in none
        shots: solved examples in each row's prompt, answered by their first output; None: in none

        Raises SpecError for adapters of another base, ConfigError for a prompt that does not fit
        without its input.
        """
        encoded = [
            self._encode(
                row,
                prompt_texts[place] if prompt_texts else None,
                tuple((shot.input, shot.outputs[0]) for shot in shots[place]) if shots else (),
            )
            for place, row in enumerate(rows)
        ]
        # Equal rows, as many tasks over the same inputs have without a description, run once.
        keys = [(repr(e), adapters[place] if adapters else 0) for place, e in enumerate(encoded)]
        unique = list({key: place for place, key in enumerate(keys)}.values())
        results: dict[tuple[str, int], _Result] = {}
        with _evaluating(self._base):
            for batch in split_by_tokens(
                [self._size(encoded[p]) for p in unique], TOKENS_PER_BATCH
            ):
                places = [unique[number] for number in batch]
                chosen = [keys[place][1] for place in places]
                scored = self._score_batch([encoded[place] for place in places], weights, chosen)
                results.update(zip((keys[place] for place in places), scored, strict=True))
        return [
            self._finish(row, row_encoded, results[key])
            for row, row_encoded, key in zip(rows, encoded, keys, strict=True)
        ]

    def check_room(self, prompts: Iterable[tuple[Row, str | None]]) -> None:
        """Check before anything is scored that every prompt fits without its input.

        prompts: rows, each with the description in its prompt

        Raises ConfigError naming the tasks whose prompts do not, and the max_length that would do.
        """
        if self._cut_descriptions:
            return
        needed: dict[str, int] = {}
        for row, text in prompts:
            name = row.task.name
            needed[name] = max(needed.get(name, 0), self._needed_length(row, text))
        tasks = [f"{name!r} ({n})" for name, n in needed.items() if n > self._max_length]
        if not tasks:
            return
        most = max(needed.values())
        remedy = (
            f"give --max-length {most}"
            if most <= self._positions
            else f"the base has {self._positions} positions, so shorten their definitions"
        )
        raise ConfigError(
            f"max_length is {self._max_length}; the prompts of {len(tasks)} tasks need more, even "
            f"without their inputs: {list_some(tasks)}; {remedy}, pass --cut-descriptions, or leave "
            "the tasks out"
        )

    def _needed_length(self, row: Row, description: str | None) -> int:
        """The least max_length with which a row's prompt fits without its input."""
        prompt = len(self._prompt("", description, UNLIMITED, ()).prompt_ids)
        labels = row.task.metric.labels if self._label_likelihood else ()
        answer = max(len(self._answer_ids(text)) for text in (row.example.outputs[0], *labels))
        limit = self._max_new_tokens
        # An answer takes as much as it needs, or half of all.
        return min(prompt + max(limit, answer), max(2 * prompt - 1, prompt + limit))

    def _finish(self, row: Row, encoded: _Encoded, result: _Result) -> Answer:
        metric, outputs = row.task.metric, row.example.outputs
        label_score = None
        if result.label is not None:
            likeliest = normalize_answer(metric.labels[result.label])
            label_score = float(likeliest in map(normalize_answer, outputs))
        score = None
        if encoded.limit and metric.kind == "rule":
            score = float(find_rule(metric.rule).obeys(row.example.input, result.text))
        elif encoded.limit:
            score = score_answer(metric, result.text, outputs)
        return Answer(
            text=result.text,
            nll=result.nll / len(encoded.answer),
            tokens=0 if metric.kind == "rule" else len(encoded.answer),
            score=score,
            in_labels=in_labels(metric, result.text) if encoded.limit else None,
            label_score=label_score,
            cut=encoded.cut,
            shots=encoded.shots,
        )

    def _encode(self, row: Row, description: str | None, shots: _Shots) -> _Encoded:
        metric, example = row.task.metric, row.example
        room = self._max_length // 2
        answers = [self._answer_ids(output)[:room] for output in example.outputs]
        labels = [self._answer_ids(label)[:room] for label in metric.labels]
        limit = 0 if metric.kind == "code_execution" else self._max_new_tokens
        if metric.kind in ("classification", "exact_match"):
            limit = min(limit, max(map(len, answers + labels)) + SPARE_TOKENS)
        if not self._label_likelihood:
            labels = []
        reserve = max(self._max_new_tokens, len(answers[0]), *map(len, labels))
        prompt = self._prompt(example.input, description, self._max_length - reserve, shots)
        return _Encoded(prompt.prompt_ids, answers[0], limit, labels, prompt.cut, prompt.shots)

    def _prompt(self, text: str, description: str | None, room: int, shots: _Shots) -> Encoded:
        key = text, description, room, shots
        if key not in self._prompts:
            encode = partial(self._format.encode, self._tokenizer, max_length=room, shots=shots)
            shown = description
            if description and self._cut_descriptions:
                shown = self._fit_description(description, room)
            prompt = encode(text, None, shown)
            is_cut = prompt.cut or shown != description
            self._prompts[key] = Encoded(prompt.prompt_ids, [], is_cut, prompt.shots)
        return self._prompts[key]

    def _fit_description(self, description: str, room: int) -> str:
        """The description, or so much of its left that it takes half of the room."""

        def length(characters: int) -> int:
            prompt = self._format.prompt("", description[:characters])
            return len(self._tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)

        if length(len(description)) <= room:
            return description
        return description[: bisect_right(range(len(description)), room // 2, key=length) - 1]

    def _answer_ids(self, answer: str) -> list[int]:
        if answer not in self._answers:
            encode = self._format.encode
            self._answers[answer] = encode(
                self._tokenizer, "", answer, max_length=UNLIMITED
            ).answer_ids
        return self._answers[answer]

    def _size(self, row: _Encoded) -> int:
        """The share of a batch that a row takes, in units of TOKENS_PER_BATCH."""
        answer = max(row.limit, len(row.answer), *map(len, row.labels), 0)
        vocabulary: int = self._base.config.get_text_config().vocab_size
        return max(len(row.prompt) + answer, answer * vocabulary // LOGITS_PER_TOKEN)

    @torch.no_grad()
    def _score_batch(
        self, batch: Sequence[_Encoded], weights: LoraWeights | None, adapters: Sequence[int]
    ) -> list[_Result]:
        texts = [""] * len(batch)
        prompts = [row.prompt for row in batch]
        limit = max(row.limit for row in batch)
        if limit:
            ids, mask = pad_left(prompts, self._base.device)
            with nullcontext() if weights is None else adapted(self._base, weights, adapters):
                output = generate(
                    self._base, ids, mask, max_new_tokens=limit, stop_tokens=self._stops
                )
                texts = [
                    self._format.read_answer(self._tokenizer, answer) if row.limit else ""
                    for row, answer in zip(batch, output.answer_ids, strict=True)
                ]
                if output.cache is not None:
                    last = [prompt[-1] for prompt in prompts]
                    nll = partial(self._cached_nll, mask, last, output.cache)
                    return self._results(batch, texts, nll)
        return self._results(batch, texts, partial(self._nll, prompts, weights, adapters))

    def _results(self, batch: Sequence[_Encoded], texts: Sequence[str], nll: _Nll) -> list[_Result]:
        nlls = nll([row.answer for row in batch]).tolist()
        return list(map(_Result, texts, nlls, self._likeliest_labels(batch, nll)))

    def _nll(
        self,
        prompts: Sequence[Sequence[int]],
        weights: LoraWeights | None,
        adapters: Sequence[int],
        answers: Sequence[Sequence[int]],
    ) -> Tensor:
        """Negative log likelihood of each answer, nats, summed over its tokens, [batch]."""
        rows = Rows.join(prompts, answers).to(self._base.device)
        with answer_logits(self._base, rows, weights, adapters) as logits:
            losses = cross_entropy(logits.float(), rows.targets, reduction="none")
        return losses.new_zeros(len(rows)).index_add(0, rows.of_row, losses)

    def _cached_nll(
        self,
        mask: Tensor,
        last_tokens: Sequence[int],
        cache: Cache,
        answers: Sequence[Sequence[int]],
    ) -> Tensor:
        """`_nll` from the cache of the prompts without their last tokens.

        mask: where the prompts have tokens, [batch, seq]
        """
        device = mask.device
        length = max(map(len, answers))
        counted = torch.tensor([[place < len(a) for place in range(length)] for a in answers])
        ids = torch.zeros(len(answers), length + 1, dtype=torch.long)
        for row, (token, answer) in enumerate(zip(last_tokens, answers, strict=True)):
            ids[row, : len(answer) + 1] = torch.tensor([token, *answer])
        ids, counted = ids.to(device), counted.to(device)
        whole_mask = torch.cat([mask, counted[:, 1:].to(mask.dtype)], dim=1)
        positions = (whole_mask.cumsum(dim=1) - 1).clamp_min(0)[:, -length:]
        logits = logits_at(
            self._base,
            counted.flatten().nonzero()[:, 0],
            ids[:, :-1],
            attention_mask=whole_mask,
            position_ids=positions,
            use_cache=True,
            **{cache_name(self._base): cache},
        )
        crop(cache, mask.shape[1] - 1)
        losses = cross_entropy(logits.float(), ids[:, 1:][counted], reduction="none")
        return losses.new_zeros(len(ids)).index_add(0, counted.nonzero()[:, 0], losses)

    def _likeliest_labels(self, batch: Sequence[_Encoded], nll: _Nll) -> list[int | None]:
        """Place of each row's likeliest label; None for rows without labels."""
        count = max(len(row.labels) for row in batch)
        if not count:
            return [None] * len(batch)
        nlls = torch.full((len(batch), count), torch.inf)
        for place in range(count):
            has = [place < len(row.labels) for row in batch]
            answers = [r.labels[place] if h else r.answer for r, h in zip(batch, has, strict=True)]
            nlls[:, place] = nll(answers).cpu().where(torch.tensor(has), torch.inf)
        best = nlls.argmin(dim=1).tolist()
        return [label if row.labels else None for row, label in zip(batch, best, strict=True)]


@contextmanager
def _evaluating(base: PreTrainedModel) -> Iterator[None]:
    training = base.training
    base.train(False)
    try:
        yield
    finally:
        base.train(training)
