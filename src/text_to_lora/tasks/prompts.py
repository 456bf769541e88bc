"""How an input, an answer and perhaps a description become tokens.

The base model's chat template is rendered once with marks in place of the texts and cut at the
marks; every row then costs tokenising alone. A tokenizer without a template gets a plain format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DESCRIPTION_MARK, INPUT_MARK, ANSWER_MARK = "D3SCRIPTION", "1NPUT", "4NSWER"
NEXT_INPUT_MARK = "N3XT"

TEMPLATE_OPTIONS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""Qwen 3 writes an empty thought block at once; Llama 3 does not put today's date in the prompt."""


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
class Frame:
    """The fixed text of a conversation.

    The prompt is head + description + middle + input + header (without a description: middle +
    input + header); the answer is lead + answer + end.
    """

    head: str
    middle: str
    header: str
    lead: str
    end: str


@dataclass(frozen=True)
class PromptFormat:
    """The frame with the description in the prompt (`told`) and the one without (`untold`).

    shot: fixed text of a solved example before the row's own input: from its input to its answer,
        and from its answer to the next input; None where the chat template takes no earlier turns

    Departures from the paper: without a description there is no system turn, where the reference
    code writes an empty one; solved examples are turns of their own, where it writes them into the
    user turn of the question.
    """

    told: Frame
    untold: Frame
    shot: tuple[str, str] | None

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

        Raises ConfigError when the template does not give back the texts that it is given, or when
        nothing tells how an answer ends.
        Source: Text-to-LoRA's reference code, which puts the definition into the user turn.
        """
        if description_in not in ("system", "user"):
            raise ConfigError(f"description_in is {description_in!r}; choose 'system' or 'user'")
        if not tokenizer.chat_template:
            end, start = _eos(tokenizer), str(tokenizer.bos_token or "")
            return cls(
                Frame(start, "\n\n", "\n", "", end), Frame("", start, "\n", "", end), PLAIN_SHOT
            )
        untold = _frame(tokenizer, [{"role": "user", "content": INPUT_MARK}], told=False)
        told = None
        if description_in == "system":
            told = _system_frame(tokenizer)
        if told is None:
            content = f"{DESCRIPTION_MARK}\n\n{INPUT_MARK}"
            told = _frame(tokenizer, [{"role": "user", "content": content}], told=True)
        if untold is None or told is None:
            raise ConfigError(
                "the tokenizer's chat template drops, repeats or reorders the user's text; "
                "set another chat_template"
            )
        return cls(told, untold, _shot(tokenizer))

    def prompt(
        self,
        input: str,
        description: str | None = None,
        shots: Sequence[tuple[str, str]] = (),
    ) -> str:
        """Give the prompt as text, up to where the answer begins.

        shots: inputs and answers that stand before the input

        Raises ConfigError when there are shots, and the chat template takes no earlier turns.
        """
        frame = self._frame(description)
        before = frame.head + (description or "").strip() + frame.middle
        for shown, answer in shots:
            if self.shot is None:
                raise ConfigError(
                    "the tokenizer's chat template takes no turns before the last; leave the "
                    "examples out of the prompt, or set another chat_template"
                )
            before += shown.strip() + self.shot[0] + answer.strip() + self.shot[1]
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

        shots: inputs and answers that stand before the input

        Texts are stripped. A row that is too long loses its shots, the longest first, and only
        then the left of its input, never the description, the answer or the header before it. The
        ids are those of the whole conversation; only where a token would span header and answer
        are they tokenised apart.

        Raises ConfigError when the row is too long even without its input.
        """
        shown = list(shots)
        prompt = self.prompt(input, description, shown)
        prompt_ids = _tokenize(tokenizer, prompt)
        answer_ids: list[int] = []
        if answer is not None:
            frame = self._frame(description)
            answer_text = frame.lead + answer.strip() + frame.end
            whole = _tokenize(tokenizer, prompt + answer_text)
            if whole[: len(prompt_ids)] == prompt_ids:
                answer_ids = whole[len(prompt_ids) :]
            else:
                answer_ids = _tokenize(tokenizer, answer_text)
        room = max_length - len(answer_ids)
        cut = len(prompt_ids) > room
        while len(prompt_ids) > room and shown:
            shown.remove(max(shown, key=lambda shot: len(shot[0]) + len(shot[1])))
            prompt_ids = _tokenize(tokenizer, self.prompt(input, description, shown))
        if len(prompt_ids) > room:
            prompt_ids = self._cut(tokenizer, input.strip(), description, room, max_length)
        return Encoded(prompt_ids, answer_ids, cut, len(shown))

    def _frame(self, description: str | None) -> Frame:
        return self.untold if description is None else self.told

    def _cut(
        self,
        tokenizer: PreTrainedTokenizerBase,
        input: str,
        description: str | None,
        room: int,
        max_length: int,
    ) -> list[int]:
        """Find the longest right part of the input with which the prompt fits, by bisection."""
        low, high = 0, len(input)
        best = _tokenize(tokenizer, self.prompt("", description))
        if len(best) > room:
            raise ConfigError(
                f"a row has room for {room} prompt tokens of max_length {max_length}, but needs "
                f"{len(best)} without its input; raise max_length or shorten the description"
            )
        while low < high:
            kept = (low + high + 1) // 2
            ids = _tokenize(tokenizer, self.prompt(input[-kept:], description))
            if len(ids) <= room:
                low, best = kept, ids
            else:
                high = kept - 1
        return best


def _system_frame(tokenizer: PreTrainedTokenizerBase) -> Frame | None:
    from jinja2 import TemplateError

    turns = [
        {"role": "system", "content": DESCRIPTION_MARK},
        {"role": "user", "content": INPUT_MARK},
    ]
    try:
        return _frame(tokenizer, turns, told=True)
    except TemplateError:
        return None


def _frame(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, told: bool
) -> Frame | None:
    """Render the turns and cut at the marks; None unless each mark is there once, in order."""
    prompt = _render(tokenizer, turns, add_generation_prompt=True)
    whole = _render(tokenizer, [*turns, {"role": "assistant", "content": ANSWER_MARK}])
    marks = [*([DESCRIPTION_MARK] if told else []), INPUT_MARK, ANSWER_MARK]
    pieces = re.split("|".join(marks), whole)
    if re.findall("|".join(marks), whole) != marks:
        return None
    *front, before_answer, end = pieces
    header = prompt.rpartition(INPUT_MARK)[2]
    if not before_answer.startswith(header):
        header = before_answer
    return Frame(
        head=front[0] if told else "",
        middle=front[-1],
        header=header,
        lead=before_answer.removeprefix(header),
        end=end.rstrip() or _eos(tokenizer),
    )


def _shot(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """What stands around the answer of an earlier turn; None unless the template takes one."""
    from jinja2 import TemplateError

    turns = [
        {"role": "user", "content": INPUT_MARK},
        {"role": "assistant", "content": ANSWER_MARK},
        {"role": "user", "content": NEXT_INPUT_MARK},
    ]
    try:
        whole = _render(tokenizer, turns, add_generation_prompt=True)
    except TemplateError:
        return None
    marks = [INPUT_MARK, ANSWER_MARK, NEXT_INPUT_MARK]
    if re.findall("|".join(marks), whole) != marks:
        return None
    _, before_answer, after_answer, _ = re.split("|".join(marks), whole)
    return before_answer, after_answer


def _render(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict[str, str]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    return str(
        tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, **TEMPLATE_OPTIONS
        )
    )


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise text that holds its special tokens already."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _eos(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.eos_token is None:
        raise ConfigError(
            "nothing tells how an answer ends: the tokenizer has no EOS token and no chat template "
            "that writes one; set eos_token"
        )
    return str(tokenizer.eos_token)
