"""Scorer: likelihoods and greedy answers of fixed rows, each row with its own adapter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence

from text_to_lora.errors import ConfigError, TaskDataError, list_some
from text_to_lora.evaluation.metrics import in_labels, normalise, score_answer
from text_to_lora.inference.rows import contiguous_head, logits_at
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.prompts import Encoded, PromptFormat
from text_to_lora.tasks.task import Example, Row, Task

__all__ = ["Answer", "Row", "Scorer", "choose_rows", "held_out"]

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

ROWS_PER_BATCH = 64
PROMPT_TOKENS_PER_BATCH = 8192  # rows x longest prompt
LOGITS_PER_BATCH = 2**26  # rows x longest answer x vocabulary; 256 MiB in float32
TOKENS_PER_PASS = 30  # cost of a pass beside its tokens; 8 ms at 0.25 ms a token of a 15 M base
SPARE_TOKENS = 4  # beyond the longest right answer, so that a cut answer is never a right one
UNLIMITED = 2**31  # tokens
IGNORED = -100

_Shots = tuple[tuple[str, str], ...]
"""Input and answer of each solved example."""
_PromptKey = tuple[str, str | None, int, _Shots]
"""Input, description, room in tokens, and shots."""


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

    Prompts are padded on the left and answers on the right, so that logits are computed for answer
    positions only; the answer's likelihood continues from the cache that generation leaves, where
    the model's cache can be cropped.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int = 32,
        max_length: int = 512,
        label_likelihood: bool = False,
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
        parameters = inspect.signature(base.forward).parameters
        # transformers renamed the argument in 5.24
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        pad = tokenizer.pad_token_id
        self._pad = int(tokenizer.eos_token_id if pad is None else pad)
        self._stops = _stops(base, tokenizer, self._format)
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
        """Score every row; the order of the answers is that of the rows.

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
        answers: dict[int, Answer] = {}
        with _evaluating(self._base):
            for places in self._batches(encoded):
                block: AbstractContextManager[None] = nullcontext()
                if weights is not None:
                    chosen = [adapters[place] if adapters else 0 for place in places]
                    block = adapted(self._base, weights, chosen)
                with block:
                    results = self._score_batch([encoded[place] for place in places])
                for place, result in zip(places, results, strict=True):
                    answers[place] = self._finish(rows[place], encoded[place], result)
        return [answers[place] for place in range(len(rows))]

    def check_room(self, rows: Sequence[Row], prompt_texts: Sequence[str | None]) -> None:
        """Check before anything is scored that every prompt fits without its input.

        prompt_texts: description in each row's prompt

        Raises ConfigError naming the tasks whose prompts do not, and the max_length that would do.
        """
        needed: dict[str, int] = {}
        for row, text in zip(rows, prompt_texts, strict=True):
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
            f"without their inputs: {list_some(tasks)}; {remedy}, or leave the tasks out"
        )

    def _needed_length(self, row: Row, description: str | None) -> int:
        """The least max_length with which a row's prompt fits without its input."""
        prompt = len(self._prompt("", description, UNLIMITED, ()).prompt_ids)
        texts = [
            row.example.outputs[0],
            *(row.task.metric.labels if self._label_likelihood else ()),
        ]
        answer = max(len(self._answer_ids(text)) for text in texts)
        limit = self._max_new_tokens
        # An answer takes as much as it needs, or half of all.
        return min(prompt + max(limit, answer), max(2 * prompt - 1, prompt + limit))

    def _finish(self, row: Row, encoded: _Encoded, result: _Result) -> Answer:
        metric, outputs = row.task.metric, row.example.outputs
        label_score = None
        if result.label is not None:
            likeliest = normalise(metric.labels[result.label])
            label_score = float(likeliest in map(normalise, outputs))
        generated = encoded.limit > 0
        return Answer(
            text=result.text if generated else "",
            nll=result.nll / result.tokens,
            tokens=result.tokens,
            score=score_answer(metric, result.text, outputs) if generated else None,
            in_labels=in_labels(metric, result.text) if generated else None,
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
            self._prompts[key] = self._format.encode(
                self._tokenizer, text, None, description, max_length=room, shots=shots
            )
        return self._prompts[key]

    def _answer_ids(self, answer: str) -> list[int]:
        if answer not in self._answers:
            encode = self._format.encode
            self._answers[answer] = encode(
                self._tokenizer, "", answer, max_length=UNLIMITED
            ).answer_ids
        return self._answers[answer]

    def _batches(self, encoded: Sequence[_Encoded]) -> list[list[int]]:
        """Places of rows of like limit and length, within the memory limits, at the least cost.

        In order of limit, answer and prompt, neighbours are joined so that padding and passes
        together cost least; found by dynamic programming over the ends of batches.
        """
        vocabulary = self._base.config.get_text_config().vocab_size
        # Rows by (limit, longest answer or label, prompt), in tokens.
        sizes = [
            (row.limit, max(len(row.answer), *map(len, row.labels), 0), len(row.prompt))
            for row in encoded
        ]

        def key(place: int) -> tuple[int, int, int, int]:
            limit, answer, prompt = sizes[place]
            return min(limit.bit_length(), self._max_new_tokens), answer.bit_length(), prompt, place

        order = sorted(range(len(encoded)), key=key)
        costs, starts = [0], [0]  # of the cheapest split of the first rows, and its last batch
        for end in range(1, len(order) + 1):
            limit = answer = prompt = 0
            cheapest = start_of_cheapest = -1
            for start in range(end - 1, -1, -1):
                row_limit, row_answer, row_prompt = sizes[order[start]]
                limit, answer = max(limit, row_limit), max(answer, row_answer)
                prompt, count = max(prompt, row_prompt), end - start
                if count > 1 and (
                    count > ROWS_PER_BATCH
                    or count * prompt > PROMPT_TOKENS_PER_BATCH
                    or count * answer * vocabulary > LOGITS_PER_BATCH
                ):
                    break
                cost = costs[start] + TOKENS_PER_PASS * (limit + 2) + count * (prompt + answer)
                if cheapest < 0 or cost < cheapest:
                    cheapest, start_of_cheapest = cost, start
            costs.append(cheapest)
            starts.append(start_of_cheapest)
        batches = []
        end = len(order)
        while end:
            batches.append(order[starts[end] : end])
            end = starts[end]
        return batches[::-1]

    @torch.no_grad()
    def _score_batch(self, batch: Sequence[_Encoded]) -> list[_Result]:
        device = self._base.device
        prompts, mask = self._pad_left([row.prompt for row in batch])
        prompts, mask = prompts.to(device), mask.to(device)
        texts = [""] * len(batch)
        cache: Cache | None = None
        limit = max(row.limit for row in batch)
        if limit:
            texts, cache = self._generate(prompts, mask, limit)
        nlls = self._nll(prompts, mask, [row.answer for row in batch], cache).tolist()
        labels = self._likeliest_labels(batch, prompts, mask, cache)
        return [
            _Result(text, nll, len(row.answer), label)
            for text, nll, row, label in zip(texts, nlls, batch, labels, strict=True)
        ]

    def _generate(
        self, prompts: Tensor, mask: Tensor, limit: int
    ) -> tuple[list[str], Cache | None]:
        """Greedy answers, and the cache of the prompts without their last token, if it crops."""
        from transformers import GenerationConfig

        make_config = cast("Callable[..., GenerationConfig]", GenerationConfig)
        config = make_config(
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=self._stops,
            pad_token_id=self._pad,
            return_dict_in_generate=True,
            use_cache=True,
        )
        generate = cast("Callable[..., Any]", self._base.generate)
        with contiguous_head(self._base):
            output = generate(prompts, attention_mask=mask, generation_config=config)
        new = output.sequences[:, prompts.shape[1] :].tolist()
        cache: Cache | None = output.get(self._cache_name)
        if cache is not None and _crops(cache):
            _crop(cache, prompts.shape[1] - 1)
        else:
            cache = None
        return [self._text(ids) for ids in new], cache

    def _text(self, ids: list[int]) -> str:
        end = next((place for place, token in enumerate(ids) if token in self._stops), len(ids))
        return self._format.read_answer(self._tokenizer, ids[:end])

    def _nll(
        self, prompts: Tensor, mask: Tensor, answers: Sequence[list[int]], cache: Cache | None
    ) -> Tensor:
        """Negative log likelihood of each answer, nats, summed over its tokens, [batch]."""
        labels = pad_sequence(
            [torch.tensor(answer) for answer in answers], batch_first=True, padding_value=IGNORED
        ).to(prompts.device)
        length = labels.shape[1]
        known = labels[:, :-1] != IGNORED
        ids = torch.cat([prompts, labels[:, :-1].masked_fill(~known, self._pad)], dim=1)
        mask = torch.cat([mask, known.to(mask.dtype)], dim=1)
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        options: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            options[self._cache_name] = cache
            ids, positions = ids[:, -length:], positions[:, -length:]
        counted = labels != IGNORED
        places = pad(counted, (ids.shape[1] - length, 0)).flatten().nonzero()[:, 0]
        logits = logits_at(
            self._base, places, ids, attention_mask=mask, position_ids=positions, **options
        )
        if cache is not None:
            _crop(cache, prompts.shape[1] - 1)
        losses = cross_entropy(logits.float(), labels[counted], reduction="none")
        rows = counted.nonzero()[:, 0]
        return losses.new_zeros(len(labels)).index_add(0, rows, losses)

    def _likeliest_labels(
        self, batch: Sequence[_Encoded], prompts: Tensor, mask: Tensor, cache: Cache | None
    ) -> list[int | None]:
        """Place of each row's likeliest label; None for rows without labels."""
        count = max(len(row.labels) for row in batch)
        if not count:
            return [None] * len(batch)
        nlls = torch.full((len(batch), count), torch.inf)
        for place in range(count):
            has = [place < len(row.labels) for row in batch]
            answers = [r.labels[place] if h else r.answer for r, h in zip(batch, has, strict=True)]
            nll = self._nll(prompts, mask, answers, cache).cpu()
            nlls[:, place] = nll.where(torch.tensor(has), torch.inf)
        best = nlls.argmin(dim=1).tolist()
        return [label if row.labels else None for row, label in zip(batch, best, strict=True)]

    def _pad_left(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids, mask


@dataclass(frozen=True, slots=True)
class _Result:
    text: str
    nll: float
    tokens: int
    label: int | None


@contextmanager
def _evaluating(base: PreTrainedModel) -> Iterator[None]:
    training = base.training
    base.train(False)
    try:
        yield
    finally:
        base.train(training)


def _stops(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, format: PromptFormat
) -> list[int]:
    """Tokens that end an answer: the model's own, and the first special one of the turn's end."""
    config = base.generation_config
    own = config.eos_token_id if config is not None else None
    stops = [] if own is None else own if isinstance(own, list) else [own]
    end = tokenizer(format.untold.end, add_special_tokens=False).input_ids
    special = [token for token in end if token in tokenizer.all_special_ids]
    return sorted({*stops, *special[:1], tokenizer.eos_token_id} - {None})


def _crops(cache: Cache) -> bool:
    """Tell whether every layer keeps all keys, so that the last ones can be taken back."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _crop(cache: Cache, length: int) -> None:
    cache.crop(length - cache.get_seq_length())
