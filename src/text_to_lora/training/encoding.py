"""Texts as a run uses them: rows as token ids, and the embeddings that adapters are made from."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from text_to_lora.errors import ConfigError
from text_to_lora.inference.rows import Rows
from text_to_lora.tasks.prompts import PromptFormat, paper_definition
from text_to_lora.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptRow = tuple[str, str, str | None]
"""Input, answer, and the description that the prompt holds, None where it holds none."""


class RowEncoder:
    """Turns rows into token ids; each is tokenised when it first comes, and remembered.

    description_in: the turn that holds a description, as for PromptFormat
    in_prompt: share of rows whose prompt holds the definition of their task
    max_prompt_tokens, max_description_tokens, max_answer_tokens: as in DataSection
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        description_in: Literal["system", "user"] = "system",
        in_prompt: float = 0.0,
        max_prompt_tokens: int,
        max_description_tokens: int = 0,
        max_answer_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._description_in = description_in
        self._in_prompt = in_prompt
        self._format = PromptFormat.for_tokenizer(tokenizer, description_in=description_in)
        self._max_prompt = max_prompt_tokens
        self._max_description = max_description_tokens
        self._max_answer = max_answer_tokens
        self._rows: dict[PromptRow, tuple[array[int], array[int]]] = {}

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
            encode = self._format.encode
            prompt = encode(self._tokenizer, input, None, description, max_length=limit).prompt_ids
            row = encode(self._tokenizer, input, answer, description, max_length=10**9)
            self._rows[key] = array("l", prompt), array("l", row.answer_ids[: self._max_answer])
        return self._rows[key]

    def length(self, row: PromptRow) -> int:
        """Tokens of a row."""
        return sum(map(len, self.encode(*row)))

    def join(self, rows: Iterable[PromptRow]) -> Rows:
        """Encode rows, one after another."""
        encoded = [self.encode(*row) for row in rows]
        return Rows.join([prompt for prompt, _ in encoded], [answer for _, answer in encoded])

    def prompt_row(self, input: str, answer: str, task: Task, draw: float = 1.0) -> PromptRow:
        """A row with what its prompt says of the task: nothing, or the definition.

        In the user's turn a definition has the paper's form.

        draw: above 0 and at most 1; the prompt holds the definition where `in_prompt` is no less
        """
        if draw > self._in_prompt:
            return input, answer, None
        user = self._description_in == "user"
        return input, answer, paper_definition(task.definition) if user else task.definition

    def _cut(self, description: str) -> str:
        ids = self._tokenizer(description, add_special_tokens=False, verbose=False).input_ids
        if len(ids) <= self._max_description:
            return description
        return str(self._tokenizer.decode(ids[: self._max_description]))


class TextEmbeddings:
    """The embeddings that adapters are made from, by text.

    texts: each text once; embeddings: [texts, embedding_dim]
    reads: whether a row's adapter is made from its task's description or from its input
    """

    def __init__(
        self,
        texts: Sequence[str],
        embeddings: Tensor,
        reads: Literal["description", "input"] = "description",
    ) -> None:
        self._places = {text: place for place, text in enumerate(texts)}
        self._embeddings = embeddings
        self.reads = reads

    def text(self, input: str, description: str) -> str:
        """The text that a row's adapter is made from."""
        return input if self.reads == "input" else description

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Embeddings of the distinct texts, and for each text the place of its embedding."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        places = [self._places[text] for text in distinct]
        return self._embeddings[places], tuple(distinct[text] for text in texts)


def check_positions(parts: Sequence[int], config: Any) -> None:
    """Check that rows made of parts of up to so many tokens fit the positions of a base model.

    config: of the base model

    Raises ConfigError when they do not.
    """
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is not None and sum(parts) > limit:
        raise ConfigError(
            f"rows of up to {sum(parts)} tokens ({' + '.join(map(str, parts))}) do not fit the "
            f"base's {limit} positions; lower data.max_prompt_tokens"
        )
