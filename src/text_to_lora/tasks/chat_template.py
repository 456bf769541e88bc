"""A chat template, rendered once with marks in place of the texts and cut at the marks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.errors import ConfigError, first_line, list_some, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DESCRIPTION_MARK, INPUT_MARK, ANSWER_MARK = "D3SCRIPTION", "1NPUT", "4NSWER"
NEXT_INPUT_MARK = "N3XT"

TEMPLATE_OPTIONS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""Qwen 3 writes an empty thought block at once; Llama 3 does not put today's date in the prompt."""

_CLOCK: Final[Mapping[str, str]] = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%d": "26", "%e": "26", "%j": "208"},
    **{"%B": "July", "%b": "Jul", "%h": "Jul", "%A": "Friday", "%a": "Fri", "%u": "5", "%w": "5"},
    **{"%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM", "%f": "000000"},
    **{"%-d": "26", "%-m": "7", "%-H": "0", "%-I": "12", "%-M": "0", "%-S": "0"},
    **{"%F": "2024-07-26", "%D": "07/26/24", "%T": "00:00:00", "%R": "00:00"},
    **{"%c": "Fri Jul 26 00:00:00 2024", "%x": "07/26/24", "%X": "00:00:00"},
    **{"%Z": "", "%z": "", "%s": "1721952000"},
}
"""The same date, at midnight, for templates that read the clock (`strftime_now`)."""
_FIXED_CLOCK: Final = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace({sign!r}, {text!r})" for sign, text in _CLOCK.items())
    + " | replace('%%', '%') }}{% endmacro %}\n"
)
"""Before a template it hides the clock; its newline is left out by the options of transformers."""

# How a thought begins where a generation prompt ends, and how it ends.
_THOUGHTS: Final = (
    (re.compile(r"<([\w:]*(?:think|thought|reason)\w*)>\s*\Z", re.IGNORECASE), r"</\1>"),
    (re.compile(r"\[((?:THINK|REASON)\w*)\]\s*\Z", re.IGNORECASE), r"[/\1]"),
    (re.compile(r"<\|START_(THINKING)\|>\s*\Z"), r"<|END_\1|>"),
)


@dataclass(frozen=True)
class Frame:
    """The fixed text of a conversation.

    The prompt is head + description + middle + input + header (without a description: middle +
    input + header), just as the template writes it for generation; the answer is lead + answer +
    end. Where the prompt opens a thought, the lead closes it, empty.
    """

    head: str
    middle: str
    header: str
    lead: str
    end: str


class ChatTemplate:
    """A tokenizer's chat template, rendered and cut at the marks; its failures become ConfigErrors.

    Raises ConfigError when there are several templates and none is the default.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        if isinstance(template, dict):
            if "default" not in template:
                raise ConfigError(
                    f"the tokenizer has the chat templates {list_some(sorted(map(str, template)))} "
                    "and none named 'default'; set chat_template to the one to use"
                )
            template = template["default"]
        if not isinstance(template, str):
            raise ConfigError(
                f"the tokenizer's chat template is {shorten(template)}, no text; "
                "set another chat_template"
            )
        # a template that reads the clock always sees the date of TEMPLATE_OPTIONS
        self._text = _FIXED_CLOCK + template if "strftime_now" in template else template

    def frame(self, turns: list[dict[str, str]]) -> Frame | None:
        """Give the frame of a conversation; None unless its prompt has each mark once, in order.

        Raises ConfigError when the template fails, or when its prompt for generation ends with
        what no answer of it begins with.
        """
        prompt = self.render(turns, add_generation_prompt=True)
        whole = self.render([*turns, turn("assistant", ANSWER_MARK)])
        marks = re.findall(f"{DESCRIPTION_MARK}|{INPUT_MARK}", "".join(t["content"] for t in turns))
        # Of the conversation only the end counts; some templates drop a system turn before an answer.
        if _marks(prompt) != marks or _marks(whole)[-2:] != [INPUT_MARK, ANSWER_MARK]:
            return None
        before_answer, end = re.split(ANSWER_MARK, re.split(INPUT_MARK, whole)[-1])
        *front, header = re.split("|".join(marks), prompt)
        return Frame(
            head=front[0] if len(marks) > 1 else "",
            middle=front[-1],
            header=header,
            lead=_lead(header, before_answer),
            end=end.rstrip() or end_of_text(self._tokenizer),
        )

    def attempt(self, turns: list[dict[str, str]]) -> Frame | None:
        """Give the frame of a conversation; None also where the template refuses it."""
        try:
            return self.frame(turns)
        except ConfigError:
            return None

    def shot(self) -> tuple[str, str] | None:
        """What stands around the answer of an earlier turn; None unless the template takes one."""
        turns = [
            turn("user", INPUT_MARK),
            turn("assistant", ANSWER_MARK),
            turn("user", NEXT_INPUT_MARK),
        ]
        try:
            whole = self.render(turns, add_generation_prompt=True)
        except ConfigError:
            return None
        marks = [INPUT_MARK, ANSWER_MARK, NEXT_INPUT_MARK]
        if _marks(whole) != marks:
            return None
        _, before_answer, after_answer, _ = re.split("|".join(marks), whole)
        return before_answer, after_answer

    def render(self, turns: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        """Give a conversation as text.

        Raises ConfigError when the template fails.
        """
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    chat_template=self._text,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **TEMPLATE_OPTIONS,
                )
            )
        except Exception as error:  # a template is a program of somebody else's
            roles = ", ".join(each["role"] for each in turns)
            raise ConfigError(
                f"the tokenizer's chat template fails for turns of {roles} "
                f"({type(error).__name__}: {first_line(error)[:200]}); set another chat_template"
            ) from error


def _lead(header: str, before_answer: str) -> str:
    """Give the text between the prompt for generation and the answer, as a conversation has it.

    Raises ConfigError when the prompt ends with what conversations do not have, and that is no
    thought, which can be closed.
    """
    if before_answer.startswith(header):
        return before_answer.removeprefix(header)
    for begin, end in _THOUGHTS:
        if match := begin.search(header):
            return "\n" + match.expand(end) + "\n\n"
    raise ConfigError(
        f"the tokenizer's chat template ends a prompt with {shorten(header)}, but writes "
        f"{shorten(before_answer)} before an answer; set another chat_template"
    )


def _marks(text: str) -> list[str]:
    marks = (DESCRIPTION_MARK, INPUT_MARK, ANSWER_MARK, NEXT_INPUT_MARK)
    return re.findall("|".join(marks), text)


def turn(role: str, content: str) -> dict[str, str]:
    """Give one turn of a conversation."""
    return {"role": role, "content": content}


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the text of the token that ends a text.

    Raises ConfigError when the tokenizer has none.
    """
    if tokenizer.eos_token is None:
        raise ConfigError(
            "nothing tells how an answer ends: the tokenizer has no EOS token and no chat template "
            "that writes one; set eos_token"
        )
    return str(tokenizer.eos_token)
