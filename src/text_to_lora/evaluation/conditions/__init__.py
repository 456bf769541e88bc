"""The conditions under which tasks are scored; a new one is a class and a line of `CONDITIONS`."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.conditions import described, given, prompting, routing
from text_to_lora.evaluation.conditions.condition import Condition, Setup, Sources
from text_to_lora.evaluation.conditions.described import JUNK
from text_to_lora.evaluation.conditions.donors import derangements, group_of

__all__ = [
    "CONDITIONS",
    "JUNK",
    "KINDS",
    "Condition",
    "Setup",
    "Sources",
    "check_kinds",
    "derangements",
    "group_of",
    "plan_conditions",
]

CONDITIONS: tuple[type[Condition], ...] = (
    prompting.Base,
    prompting.InPrompt,
    prompting.InContext,
    given.Mean,
    given.Retrieval,
    routing.Arrow,
    given.Multitask,
    given.MultitaskInPrompt,
    described.Hyperdecoder,
    described.Matched,
    described.MatchedInPrompt,
    described.Paraphrase,
    described.Shuffled,
    described.Junk,
    given.Oracle,
)
"""All conditions, in the order of tables."""

KINDS: tuple[str, ...] = tuple(condition.kind for condition in CONDITIONS)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ConfigError for a kind that there is not, with the nearest that there is."""
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0)
            raise ConfigError(
                f"unknown condition {kind!r}, nearest {near[0]!r}; choose among {', '.join(KINDS)}"
            )


def plan_conditions(kinds: Sequence[str] | None, sources: Sources) -> list[Condition]:
    """Make the conditions of these kinds, in the order of CONDITIONS.

    kinds: None for all that the sources allow

    paraphrase.1 and so on: the descriptions after the definition, as far as a task has them;
    shuffled.1 to .3: definitions of other tasks, by three derangements.

    Raises ConfigError for an unknown kind, one whose source is missing, or when 'shuffled' is named
    and no derangement exists; where it is not named, a T2LWarning says so.
    """
    check_kinds(kinds or ())
    plan: list[Condition] = []
    for condition in CONDITIONS:
        if kinds is not None and condition.kind not in kinds:
            continue
        try:
            members = condition.from_sources(sources)
        except ConfigError as error:
            if kinds is not None:
                raise
            warnings.warn(f"{condition.kind!r} is left out: {error}", T2LWarning, stacklevel=2)
            continue
        if members is None and kinds is not None:
            raise ConfigError(
                f"condition {condition.kind!r} needs {condition.needs}; "
                f"or leave {condition.kind!r} out"
            )
        plan += members or []
    return plan
