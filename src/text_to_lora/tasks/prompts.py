"""How an input, an answer and perhaps a description become tokens.

The base model's chat template is rendered once with marks in place of the texts and cut at the
marks; every row then costs tokenising alone. A tokenizer without a template gets a plain format.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.chat_template import (
    DESCRIPTION_MARK,
    INPUT_MARK,
    ChatTemplate,
    Frame,
    end_of_text,
    turn,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_SHOT = ("\n", "\n\n")
"""Around the answer of an example before the input, where there is no chat template."""

PAPER_REQUEST = "Please complete the task without any explanation."


def paper_definition(definition: str) -> str:
    """Give a definition as the paper puts it into the prompt, with its closing request.

    Departure: a task with several references is not asked for all of them in one list.
    Source: Text-to-LoRA's reference code.
    """
    return f"{definition.strip()} {PAPER_REQUEST}"


@dataclass(frozen=True)
class Encoded:
    """A row as token ids; the loss is on `answer_ids`, which end with the end of the turn.

    cut: whether the prompt lost something to fit
    shots: solved examples that stand in the prompt
    """

    prompt_ids: list[int]
    answer_ids: list[int]
    cut: bool = False
    shots: int = 0


@dataclass(frozen=True)
class PromptFormat:
    """The frame of a prompt with a description (`described`), and of one without (`bare`).

    shot: fixed text of a solved example before the row's own input: from its input to its answer,
        and from its answer to the next input; None where the chat template takes no earlier turns
    shots_with_description: whether shots may stand with a description; some templates (Mistral's
        newer ones) write the system turn into the last user turn

    Departures from the paper: without a description there is no system turn, where the reference
    code writes an empty one; solved examples are turns of their own, where it writes them into the
    user turn of the question.
    """

    described: Frame
    bare: Frame
    shot: tuple[str, str] | None
    shots_with_description: bool = True

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        description_in: Literal["system", "user"] = "system",
    ) -> PromptFormat:
        """Take the format from the chat template, or the plain one if there is none.

        description_in: "system" is the system turn where the template takes one (found by trying),
        else as "user"; "user" is the head of the user turn, two newlines before the input

        Raises ConfigError when the template fails or does not give back the texts that it is given,
        when there are several and none is the default, or when nothing tells how an answer ends.
        Source: Text-to-LoRA's reference code, which puts the definition into the user turn.
        """
        if description_in not in ("system", "user"):
            raise ConfigError(f"description_in is {description_in!r}; choose 'system' or 'user'")
        if not tokenizer.chat_template:
            end, start = end_of_text(tokenizer), str(tokenizer.bos_token or "")
            described, bare = Frame(start, "\n\n", "\n", "", end), Frame("", start, "\n", "", end)
            return cls(described, bare, PLAIN_SHOT)
        template = ChatTemplate(tokenizer)
        without = template.frame([turn("user", INPUT_MARK)])
        with_one, in_system = None, description_in == "system"
        if in_system:
            with_one = template.attempt(
                [turn("system", DESCRIPTION_MARK), turn("user", INPUT_MARK)]
            )
        if with_one is None:
            in_system = False
            with_one = template.frame([turn("user", f"{DESCRIPTION_MARK}\n\n{INPUT_MARK}")])
        if without is None or with_one is None:
            raise ConfigError(
                "the tokenizer's chat template drops, repeats or reorders the user's text; "
                "set another chat_template"
            )
        return _checked(cls(with_one, without, template.shot()), template, in_system=in_system)

    def prompt(
        self, input: str, description: str | None = None, shots: Sequence[tuple[str, str]] = ()
    ) -> str:
        """Give the prompt as text, up to where the answer begins.

        shots: inputs and answers that stand before the input

        Raises ConfigError when there are shots, and the chat template takes no earlier turns, or
        none with a description.
        """
        frame = self._frame(description)
        before = frame.head + (description or "").strip() + frame.middle
        for text, answer in shots:
            if self.shot is None:
                raise ConfigError(
                    "the tokenizer's chat template takes no turns before the last; leave the "
                    "examples out of the prompt, or set another chat_template"
                )
            if description is not None and not self.shots_with_description:
                raise ConfigError(
                    "the tokenizer's chat template writes the description after earlier turns; leave "
                    "the examples or the description out of the prompt, or set another chat_template"
                )
            before += text.strip() + self.shot[0] + answer.strip() + self.shot[1]
        return before + input.strip() + frame.header

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        input: str,
        answer: str | None = None,
        description: str | None = None,
        max_length: int = 512,
        shots: Sequence[tuple[str, str]] = (),
    ) -> Encoded:
        """Give the token ids of one row, at most `max_length` for prompt and answer together.

        Texts are stripped. A row that is too long loses its shots, the longest first, and only
        then the left of its input, never the description, the answer or the header before it. The
        ids are those of the whole conversation; only where a token would span header and answer
        are they tokenised apart.

        Raises ConfigError when the row is too long even without its input.
        """
        remaining = list(shots)
        prompt = self.prompt(input, description, remaining)
        prompt_ids = _tokenize(tokenizer, prompt)
        answer_ids: list[int] = []
        if answer is not None:
            frame = self._frame(description)
            answer_text = frame.lead + answer.strip() + frame.end
            conversation = _tokenize(tokenizer, prompt + answer_text)
            if conversation[: len(prompt_ids)] == prompt_ids:
                answer_ids = conversation[len(prompt_ids) :]
            else:
                answer_ids = _tokenize(tokenizer, answer_text)
        room = max_length - len(answer_ids)
        cut = len(prompt_ids) > room
        while len(prompt_ids) > room and remaining:
            remaining.remove(max(remaining, key=lambda shot: len(shot[0]) + len(shot[1])))
            prompt_ids = _tokenize(tokenizer, self.prompt(input, description, remaining))
        if len(prompt_ids) > room:
            needed = len(_tokenize(tokenizer, self.prompt("", description)))
            if needed > room:
                raise ConfigError(
                    f"a row has room for {room} prompt tokens of max_length {max_length}, but needs "
                    f"{needed} without its input; raise max_length or shorten the description"
                )
            prompt_ids = self._cut(tokenizer, input.strip(), description, room)
        return Encoded(prompt_ids, answer_ids, cut, len(remaining))

    def read_answer(self, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
        """Give the answer in generated tokens: without special tokens, and without a thought.

        An answer that the lead of an answer announces begins after it.
        """
        lead, count, start = self.bare.lead.strip(), 0, ""

        def has_lead(count: int) -> bool:
            return lead in str(tokenizer.decode(ids[:count]))

        if lead and has_lead(len(ids)):
            count = bisect_left(range(len(ids)), True, key=has_lead)
            start = str(tokenizer.decode(ids[:count])).partition(lead)[2]
        return (start + str(tokenizer.decode(ids[count:], skip_special_tokens=True))).strip()

    def _frame(self, description: str | None) -> Frame:
        return self.bare if description is None else self.described

    def _cut(
        self, tokenizer: PreTrainedTokenizerBase, input: str, description: str | None, room: int
    ) -> list[int]:
        """Find the longest right part of the input with which the prompt fits, by bisection."""

        def ids(num_chars: int) -> list[int]:
            return _tokenize(tokenizer, self.prompt(input[len(input) - num_chars :], description))

        fitting, too_long = 0, len(input)
        while too_long - fitting > 1:
            middle = (fitting + too_long) // 2
            if len(ids(middle)) <= room:
                fitting = middle
            else:
                too_long = middle
        return ids(fitting)


def _checked(form: PromptFormat, template: ChatTemplate, *, in_system: bool) -> PromptFormat:
    """Compare the prompts of a format with the template's own, for ordinary texts.

    Gives the format, without shots where the template writes those otherwise.

    Raises ConfigError when the template changes the texts that it is given.
    """
    text, description = "Two lines:\n  a & b <c>, 1.5 or 'd'?", "Say it.\n\nIn short: No."
    shots = [("First\nquestion", "yes"), ("Second?", "no & 2")]
    earlier = [t for text, answer in shots for t in (turn("user", text), turn("assistant", answer))]
    last = [turn("user", text)]

    def is_same(turns: list[dict[str, str]], *parts: Any) -> bool:
        try:
            return form.prompt(*parts) == template.render(turns, add_generation_prompt=True)
        except ConfigError:
            return False

    def with_description(turns: list[dict[str, str]]) -> list[dict[str, str]]:
        if in_system:
            return [turn("system", description), *turns]
        return [turn("user", f"{description}\n\n{turns[0]['content']}"), *turns[1:]]

    if not is_same(last, text) or not is_same(with_description(last), text, description):
        raise ConfigError(
            "the tokenizer's chat template changes the texts that it is given; set another chat_template"
        )
    if form.shot is None or not is_same([*earlier, *last], text, None, shots):
        return replace(form, shot=None)
    together = is_same(with_description([*earlier, *last]), text, description, shots)
    return replace(form, shots_with_description=together)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise text that holds its special tokens already."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
