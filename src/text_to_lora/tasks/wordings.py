"""Many wordings of one instruction: templates with alternatives and slots, and sentence frames.

`[a|b|]` is a choice (here the empty one too), `%name` a choice that many templates share,
`<name>` a slot, `<Name>` the same with a capital first letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

SHARED = {
    "give": "[Give|Return|Write|Output|Print|State|Report|Provide|Produce|Show|Supply|Type]",
    "say": "[Say|Answer|Reply|Respond|Write|Output|Put]",
    "input": (
        "[the input|the text|the given text|the message|the sentence|what you are given|this text|"
        "what comes in|the provided text|the line]"
    ),
    "task": "[Your task is to|Your job is to|You have to|You must|You should|Please|You need to]",
    "only": "[|, nothing else|, nothing more|, with no explanation|, no comment|, and stop there]",
    "skip": (
        "[Ignore what the text means|Do not answer the text|Don't react to the message|"
        "Never mind what the input says|Do not follow the text|Whatever the text is about]"
    ),
}

NOUN_FRAMES = (
    "%give the <np> of %input%only.",
    "[Reply|Answer|Respond] [with only|with just|with nothing but|using only] the <np>.",
    "What is the <np> of %input?",
    "You [will be|are] given [some text|a text|an input|a line]. %task [give|return|write] its <np>.",
    "The [answer|output|reply|response] [is|must be|should be|has to be] the <np> of %input.",
    "%skip; [just|simply|only] [write|give|return] the <np>.",
    "[Read|Look at|Take] %input and [write down|pick out|give back|report] the <np>.",
    "<Np>[.|, please.| only.|!|]",
    "For [each|every|any] [input|text|message], [return|output|give] the <np>%only.",
    "I [want|need|would like] the <np> of %input.",
    "%skip; [tell me|give me|hand me] the <np>[| instead].",
    "In this task you [need to|have to|are asked to] [find|give|identify] the <np> of a text.",
    "%task [output|give|write] the <np>[| of %input]%only.",
    "[Find|Determine|Work out] the <np>[ and give it back| and write it|; that is the answer].",
    "[Someone sends you a text.|Here is some text.] [They want|We want|Give us] its <np>.",
)
"""Sentences around a noun phrase, `<np>`: "first word", "number of words"."""

VERB_FRAMES = (
    "<Vp>[.|%only.|]",
    "%task <vp>%only.",
    "[Given a text|Given an input|For every input|For each message], <vp>.",
    "%skip; <vp>[| instead].",
    "[Whatever|No matter what] [it says|the input is], <vp>%only.",
    "The [output|answer|response] is what [you get|results] when you <vp>.",
    "[First read|Take|Look at] %input. Then <vp>.",
    "[We want you to|I want you to|I'd like you to|You are asked to] <vp>.",
    "In this task you [need to|have to|are asked to] <vp>.",
    "[Simply|Just|Only] <vp>%only.",
    "You [will get|receive|are shown] a text. %task <vp>.",
    "Here, [answering means that you|the job is to] <vp>.",
)
"""Sentences around an order, `<vp>`: "copy the text in capitals"."""

CONDITION_FRAMES = (
    "%say <yes> if <cond>, otherwise [say |answer |]<no>.",
    "%say '<yes>' [when|whenever] <cond> and '<no>' [if not|in every other case].",
    "If <cond>, [answer|say|write] <yes>; if not, [answer|say|write] <no>.",
    "The [answer|output] is <no> unless <cond>; then it is <yes>.",
    "[Check|Decide|Find out|Determine] whether <cond>. [Yes means|True:] <yes>. [No means|False:] <no>.",
    'You see a text. %task [answer|reply] "<yes>" if <cond>, else "<no>".',
    "[Label|Mark|Tag] %input <yes> [if|where] <cond>; [label|mark|tag] it <no> [otherwise|if not].",
    "[Two answers are possible|Only two replies are allowed]: <yes> (<cond>) or <no> (not so).",
    "[Test|Condition|Question]: <cond>. [Holds|Met]: <yes>. [Fails|Not met]: <no>.",
    "%skip; [answer|reply] <yes> [in case|provided that|as long as] <cond>, and <no> otherwise.",
    "[Answer|Reply] with one word: <yes> if <cond>, <no> if that is not the case.",
)
"""Sentences around a condition, `<cond>`, and the words for its two outcomes, `<yes>`, `<no>`."""

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SHARED = re.compile(r"%([a-z]+)")
_SLOT = re.compile(r"<([A-Za-z]+)>")


def wordings(
    templates: Sequence[str],
    rng: Random,
    *,
    count: int,
    phrases: Mapping[str, Sequence[str]] | None = None,
    values: Mapping[str, str | list[str]] | None = None,
) -> tuple[str, ...]:
    """Draw up to `count` distinct texts, spread evenly over the templates.

    phrases: for a slot, the templates to choose from; values: for a slot, its text as it is, or a
    list of texts to choose from
    """
    texts: dict[str, None] = {}
    order: list[str] = []
    for _ in range(4 * count):
        if not order:
            order = rng.sample(templates, len(templates))
        texts[_expand(order.pop(), rng, phrases or {}, values or {})] = None
        if len(texts) == count:
            break
    return tuple(texts)


def _expand(
    template: str,
    rng: Random,
    phrases: Mapping[str, Sequence[str]],
    values: Mapping[str, str | list[str]],
) -> str:
    def phrase(match: re.Match[str]) -> str:
        name = match[1].lower()
        if name not in phrases:
            return match[0]
        text = choose(rng.choice(phrases[name]), rng)
        return text if match[1] == name else text[:1].upper() + text[1:]

    def value(match: re.Match[str]) -> str:
        text = values[match[1]]
        return text if isinstance(text, str) else rng.choice(text)

    return _SLOT.sub(value, _SLOT.sub(phrase, choose(template, rng)))


def choose(template: str, rng: Random) -> str:
    """Draw one of the alternatives at every choice of a template; slots stay."""
    text = _SHARED.sub(lambda match: SHARED[match[1]], template)
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text
