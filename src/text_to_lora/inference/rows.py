"""One forward pass over prompts with their answers, packed where a model allows it, else padded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from text_to_lora.inference.packing import Segment

Noise = Callable[[int, Tensor], Tensor]
"""Number of a row and the embeddings of its tokens [tokens, hidden] -> what is added to them."""


@dataclass(frozen=True)
class Rows:
    """Prompts with their answers, one row after another, without padding.

    tokens: of all rows, [tokens]; lengths: tokens of each row
    answer_lengths: tokens of each row's answer, which ends the row
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    answer_lengths: tuple[int, ...]

    @classmethod
    def join(cls, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Rows:
        """Rows of token ids; prompt and answer have one token each, or more."""
        pairs = list(zip(prompts, answers, strict=True))
        return cls(
            torch.tensor([token for pair in pairs for part in pair for token in part]),
            tuple(len(prompt) + len(answer) for prompt, answer in pairs),
            tuple(len(answer) for _, answer in pairs),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def targets(self) -> Tensor:
        """The tokens of the answers, row by row, [answer tokens]."""
        rows = zip(self.unbind(), self.answer_lengths, strict=True)
        return torch.cat([row[len(row) - answer :] for row, answer in rows])

    @property
    def of_row(self) -> Tensor:
        """The number of the row of every answer token, [answer tokens]."""
        counts = torch.tensor(self.answer_lengths, device=self.tokens.device)
        return torch.arange(len(self), device=counts.device).repeat_interleave(counts)

    def unbind(self) -> tuple[Tensor, ...]:
        """The tokens of each row."""
        return torch.split(self.tokens, list(self.lengths))

    def to(self, device: torch.device) -> Rows:
        """The same rows on another device."""
        return replace(self, tokens=self.tokens.to(device))


@dataclass(frozen=True)
class Layout:
    """Rows as the input of a model.

    starts: place in the flattened input at which each row starts, or would if all of it stood there
    skipped: tokens at the start of each row that stand elsewhere, since another row has them too
    first_tokens: place of the first token of each row, wherever it stands
    batch, columns: shape of the input
    order: one row of each stretch of the input that runs with one adapter
    segments: these stretches, where the rows are packed; None where each is padded on its own
    """

    rows: Rows
    starts: tuple[int, ...]
    skipped: tuple[int, ...]
    first_tokens: tuple[int, ...]
    batch: int
    columns: int
    order: tuple[int, ...]
    segments: tuple[Segment, ...] | None

    @classmethod
    def padded_left(cls, rows: Rows) -> Layout:
        """Every row on its own, so that all end in one column."""
        count, longest = len(rows), max(rows.lengths)
        starts = tuple((row + 1) * longest - length for row, length in enumerate(rows.lengths))
        return cls(rows, starts, (0,) * count, starts, count, longest, tuple(range(count)), None)

    @classmethod
    def packed(cls, rows: Rows, adapters: Sequence[int] | None, *, share: bool) -> Layout:
        """All in one sequence, those of one adapter next to each other; equal beginnings perhaps once."""
        from text_to_lora.inference.packing import Segment

        starts, skipped, first_tokens = ([0] * len(rows) for _ in range(3))
        segments, end = [], 0
        groups = _group(rows, adapters, share=share)
        for members, prefix in groups:
            lengths = tuple(rows.lengths[row] - prefix for row in members)
            for row, length in zip(members, lengths, strict=True):
                starts[row] = end if row == members[0] else end - prefix
                skipped[row] = 0 if row == members[0] else prefix
                first_tokens[row] = starts[members[0]]
                end = starts[row] + prefix + length
            segments.append(Segment(prefix, lengths))
        order = tuple(members[0] for members, _ in groups)
        places = tuple(starts), tuple(skipped), tuple(first_tokens)
        return cls(rows, *places, 1, end, order, tuple(segments))

    @property
    def places(self) -> list[slice]:
        """Where each row's tokens are in the flattened input, if no row shares any."""
        return [slice(a, a + n) for a, n in zip(self.starts, self.rows.lengths, strict=True)]

    def token_places(self, row: int) -> list[int]:
        """Places in the flattened input of all tokens of a row."""
        start, skipped, head = self.starts[row], self.skipped[row], self.first_tokens[row]
        rest = range(start + skipped, start + self.rows.lengths[row])
        return [*range(head, head + skipped), *rest]

    def answer_positions(self) -> Tensor:
        """Places in the flattened input that predict the answers' tokens, [answer tokens]."""
        pairs = zip(self.places, self.rows.answer_lengths, strict=True)
        return torch.cat(
            [torch.arange(row.stop - answer - 1, row.stop - 1) for row, answer in pairs]
        )

    def inputs(self) -> dict[str, Any]:
        """The input of the forward pass."""
        device, shape = self.rows.tokens.device, (self.batch, self.columns)
        ids, positions, mask = torch.zeros(3, self.batch * self.columns, dtype=torch.long).to(
            device
        )
        for row, skipped, tokens in zip(self.places, self.skipped, self.rows.unbind(), strict=True):
            place = slice(row.start + skipped, row.stop)
            ids[place], mask[place] = tokens[skipped:], 1
            positions[place] = torch.arange(skipped, len(tokens), device=device)
        inputs = {
            "input_ids": ids.view(shape),
            "position_ids": positions.view(shape),
            "use_cache": False,
        }
        return (
            inputs if self.segments is not None else inputs | {"attention_mask": mask.view(shape)}
        )


def _group(
    rows: Rows, adapters: Sequence[int] | None, *, share: bool
) -> list[tuple[list[int], int]]:
    """Group the rows of an adapter by equal beginnings, so that the fewest tokens are computed.

    Gives the rows of each group and the tokens that are equal. These end before the last token of a
    prompt, since its state predicts the answer of one row.
    """
    by_adapter: dict[int, list[int]] = {}
    for row in range(len(rows)):
        by_adapter.setdefault(adapters[row] if adapters else 0, []).append(row)
    if not share:
        return [([row], 0) for _, members in sorted(by_adapter.items()) for row in members]
    beginnings = [
        row[: len(row) - answer - 1].tolist()
        for row, answer in zip(rows.unbind(), rows.answer_lengths, strict=True)
    ]
    return [
        group
        for _, members in sorted(by_adapter.items())
        for group in _share(sorted(members, key=beginnings.__getitem__), beginnings)
    ]


def _share(
    members: Sequence[int], beginnings: Sequence[Sequence[int]]
) -> list[tuple[list[int], int]]:
    """Cut sorted rows into groups such that the tokens which stand once instead of often are most.

    Dynamic programming over the place of the last cut.
    """
    equal = [equal_tokens(beginnings[row], beginnings[after]) for row, after in pairwise(members)]
    # Of the first n rows: the most tokens saved, where the last group starts, and its shared tokens.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(members) + 1):
        choices, prefix = [(best[end - 1][0], end - 1, 0)], len(beginnings[members[end - 1]])
        for start in range(end - 2, -1, -1):
            prefix = min(prefix, equal[start])
            if not prefix:
                break
            choices.append((best[start][0] + (end - start - 1) * prefix, start, prefix))
        best.append(max(choices))
    groups, end = [], len(members)
    while end:
        _, start, prefix = best[end]
        groups.append((list(members[start:end]), prefix))
        end = start
    return groups[::-1]


def equal_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


@contextmanager
def answer_logits(
    model: PreTrainedModel,
    rows: Rows,
    weights: LoraWeights | None = None,
    adapters: Sequence[int] | None = None,
    *,
    noise: Noise | None = None,
    share: bool = True,
) -> Iterator[Tensor]:
    """Run rows through a model; gives the logits that predict the answers, [answer tokens, vocab].

    weights: adapters to run with; adapters: of each row, None for adapter 0
    noise: added to the input embeddings
    share: compute the tokens once with which rows of one adapter begin, such as those of the system's
        turn, where the model takes packed rows and there is no noise
    Logits are in the order of the rows. A backward pass belongs inside the block, since layers
    that are checkpointed run once more in it.

    Raises SpecError when the adapters are for another base.
    """
    from text_to_lora.inference import packing

    with ExitStack() as stack:
        if packing.takes_packed_rows(model, max(rows.lengths)):
            layout = Layout.packed(rows, adapters, share=share and noise is None)
            stack.enter_context(packing.packed(model, layout.segments or ()))
        else:
            layout = Layout.padded_left(rows)
        if weights is not None:
            ordered = [adapters[row] if adapters else 0 for row in layout.order]
            lengths = None if layout.segments is None else [part.tokens for part in layout.segments]
            stack.enter_context(adapted(model, weights, ordered, lengths=lengths))
        if noise is not None:
            stack.enter_context(_noisy(model, layout, noise))
        positions = layout.answer_positions().to(rows.tokens.device)
        yield logits_at(model, positions, **layout.inputs())


@contextmanager
def _noisy(model: PreTrainedModel, layout: Layout, noise: Noise) -> Iterator[None]:
    """Noise on the input embeddings of every row's own tokens."""

    def add_noise(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        embeddings = output.flatten(0, 1)
        added = torch.zeros_like(embeddings)
        for number, place in enumerate(layout.places):
            added[place] = noise(number, embeddings[place])
        return output + added.view_as(output)

    handle = model.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()


def split_by_tokens(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Split rows into lists of like length whose tokens, with padding, are within a limit.

    lengths: of the rows, in tokens; limit: in tokens; a longer row is a list of its own
    Gives the rows' places, the longest rows first.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        count = max(1, limit // lengths[order[start]])
        yield order[start : start + count]
        start += count


def split_in_order(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Split rows into lists of neighbours whose tokens are within a limit.

    lengths, limit: as for `split_by_tokens`; gives the rows' places
    """
    places: list[int] = []
    tokens = 0
    for place, length in enumerate(lengths):
        if places and tokens + length > limit:
            yield places
            places, tokens = [], 0
        places.append(place)
        tokens += length
    if places:
        yield places


def logits_at(
    model: PreTrainedModel, positions: Tensor, input_ids: Tensor, **options: Any
) -> Tensor:
    """Run a model and give its logits at some positions, in this order, [positions, vocab].

    positions: places in the flattened input, [positions]; input_ids: [batch, seq]
    options: of the model's forward pass; `position_ids` and `use_cache` are left out where the
        model does not take them

    The hidden states of other positions never reach the model's output embeddings, and those that
    do are contiguous: from a slice of the columns, which is what `logits_to_keep` gives, torch
    makes a batched product that copies the matrix of the vocabulary once for every row.
    """
    seq = input_ids.shape[1]
    rows, columns = positions // seq, positions % seq
    width = seq - int(columns.min())
    places = rows * width + columns - (seq - width)  # among the last `width` columns
    accepted = inspect.signature(model.forward).parameters
    options["logits_to_keep"] = width
    for name in ("position_ids", "use_cache", "logits_to_keep"):
        if name not in accepted:
            options.pop(name, None)
    selected = False

    def select(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal selected
        selected = True
        states = args[0][:, -width:].flatten(0, 1).index_select(0, places)
        return (states[None], *args[1:])

    with _before_head(model, select):
        logits: Tensor = model(input_ids=input_ids, **options).logits
    if selected:
        return logits[0]
    return logits[:, -width:].flatten(0, 1).index_select(0, places)


@contextmanager
def contiguous_head(model: PreTrainedModel) -> Iterator[None]:
    """Hand the model's output embeddings contiguous hidden states; see `logits_at`."""

    def copy(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].contiguous(), *args[1:])

    with _before_head(model, copy):
        yield


@contextmanager
def _before_head(
    model: PreTrainedModel, change: Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]
) -> Iterator[None]:
    """Change what reaches the module that makes logits, where a model has one."""
    get_head: Callable[[], nn.Module | None] = model.get_output_embeddings
    head = get_head()
    handle = None if head is None else head.register_forward_pre_hook(change)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
