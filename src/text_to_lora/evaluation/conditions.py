"""Which conditions there are, what each needs, and who is given whose description."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from text_to_lora.baselines.described import JUNK, Junk, Matched, Paraphrase, Shuffled
from text_to_lora.baselines.fixed import Mean, Multitask
from text_to_lora.baselines.inputs import Hyperdecoder
from text_to_lora.baselines.library import Encode, Oracle, Retrieval
from text_to_lora.baselines.prompting import SHOTS, Base, InContext, InPrompt
from text_to_lora.baselines.protocol import Baseline, Generate
from text_to_lora.baselines.routing import Arrow
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.metrics import normalise
from text_to_lora.evaluation.samples import KINDS, Kind
from text_to_lora.lora.library import AdapterLibrary
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Task

__all__ = [
    "JUNK",
    "KINDS",
    "Kind",
    "Sources",
    "check_kinds",
    "derangements",
    "group_of",
    "plan_conditions",
]

PARAPHRASES = 3
DERANGEMENTS = 3


@dataclass(frozen=True)
class Sources:
    """What conditions are made of; a condition whose own is None cannot be.

    generate: one adapter for each description: matched, paraphrase, shuffled, junk
    encode: embeds descriptions: retrieval; encoder: its name
    multitask: the multi-task adapter
    library: adapters of training tasks: mean, retrieval, arrow
    hyperdecoder: one adapter for each input; hyperdecoder_about: which hypernetwork makes them
    oracle: adapters of the scored tasks' own
    shots: examples of `icl`
    paraphrases: descriptions beside the definition that `paraphrase` takes
    experts: library adapters that `arrow` routes over, from the first; None: all
    """

    generate: Generate | None = None
    encode: Encode | None = None
    encoder: str = ""
    multitask: LoraWeights | None = None
    library: AdapterLibrary | None = None
    hyperdecoder: Generate | None = None
    hyperdecoder_about: Mapping[str, Any] = field(default_factory=dict)
    oracle: AdapterLibrary | None = None
    shots: int = SHOTS
    paraphrases: int = PARAPHRASES
    experts: int | None = None


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ConfigError for a kind that there is not, with the nearest that there is."""
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0)
            raise ConfigError(
                f"unknown condition {kind!r}, nearest {near[0]!r}; choose among {', '.join(KINDS)}"
            )


def plan_conditions(
    kinds: Sequence[str] | None, tasks: Sequence[Task], sources: Sources, *, seed: int
) -> list[Baseline]:
    """Make the conditions of these kinds, in the order of KINDS.

    kinds: None for all that the sources allow

    paraphrase.1 and so on: the descriptions after the definition, as far as a task has them;
    shuffled.1 to .3: definitions of other tasks, by three derangements.

    Raises ConfigError for an unknown kind, one whose source is missing, or when 'shuffled' is named
    and no derangement exists; where it is not named, a T2LWarning says so.
    """
    makers = _makers(sources, tasks, seed)
    if kinds is None:
        kinds = [kind for kind in KINDS if makers[kind] is not None]
        if "shuffled" in kinds:
            try:
                derangements(tasks, seed=seed)
            except ConfigError as error:
                warnings.warn(f"'shuffled' is left out: {error}", T2LWarning, stacklevel=2)
                kinds.remove("shuffled")
    check_kinds(kinds)
    plan: list[Baseline] = []
    for kind in (kind for kind in KINDS if kind in kinds):
        make = makers[kind]
        if make is None:
            raise ConfigError(f"condition {kind!r} needs {_NEEDS[kind]}; or leave {kind!r} out")
        plan += make()
    return plan


_DESCRIBED = "a hypernetwork (--model; Sources.generate)"
_LIBRARY = "a library of adapters; give --library (Sources.library)"
_NEEDS: dict[str, str] = {
    "mean": _LIBRARY,
    "retrieval": f"{_LIBRARY} and an encoder (Sources.encode)",
    "arrow": _LIBRARY,
    "multitask": "a multi-task adapter; give --multitask (Sources.multitask)",
    "hyperdecoder": "a hypernetwork for inputs; give --hyperdecoder (Sources.hyperdecoder)",
    "matched": _DESCRIBED,
    "paraphrase": _DESCRIBED,
    "shuffled": _DESCRIBED,
    "junk": _DESCRIBED,
    "oracle": "a library of the tasks' own adapters; give --oracle (Sources.oracle)",
}


def _makers(
    sources: Sources, tasks: Sequence[Task], seed: int
) -> dict[str, Callable[[], Sequence[Baseline]] | None]:
    """For each kind what makes its conditions; None where the source is missing."""
    made: dict[str, Callable[[], Sequence[Baseline]] | None] = dict.fromkeys(KINDS)
    made["base"] = lambda: [Base()]
    made["in_prompt"] = lambda: [InPrompt()]
    made["icl"] = lambda: [InContext(shots=sources.shots, seed=seed)]
    if (library := sources.library) is not None:
        made["mean"] = lambda: [Mean(library)]
        made["arrow"] = lambda: [Arrow(library, experts=sources.experts, seed=seed)]
        if (encode := sources.encode) is not None:
            made["retrieval"] = lambda: [Retrieval(library, encode, encoder=sources.encoder)]
    if (multitask := sources.multitask) is not None:
        made["multitask"] = lambda: [Multitask(multitask)]
    if (decoder := sources.hyperdecoder) is not None:
        made["hyperdecoder"] = lambda: [Hyperdecoder(decoder, sources.hyperdecoder_about)]
    if (generate := sources.generate) is not None:
        made["matched"] = lambda: [Matched(generate)]
        made["paraphrase"] = lambda: [
            Paraphrase(place, generate)
            for place in range(1, sources.paraphrases + 1)
            if any(len(task.descriptions) > place for task in tasks)
        ]
        made["shuffled"] = lambda: _shuffled(tasks, generate, seed)
        made["junk"] = lambda: [Junk(generate)]
    if (oracle := sources.oracle) is not None:
        made["oracle"] = lambda: [Oracle(oracle)]
    return made


def _shuffled(tasks: Sequence[Task], generate: Generate, seed: int) -> list[Shuffled]:
    definitions = {task.name: task.definition for task in tasks}
    return [
        Shuffled(number, {name: definitions[donor] for name, donor in donors.items()}, generate)
        for number, donors in enumerate(derangements(tasks, seed=seed), start=1)
    ]


def derangements(
    tasks: Sequence[Task], *, seed: int, count: int = DERANGEMENTS
) -> list[dict[str, str]]:
    """Give each task the name of another one, `count` times; equal tasks and seed give equal ones.

    Each is a permutation of the tasks. A donor is of another group, shares no label and no wording
    of the definition with its task, and is never given to the same task twice.

    Raises ConfigError when the tasks are too alike for that.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    ordered = sorted(tasks, key=lambda task: task.name)
    free = {
        task.name: {donor.name for donor in ordered if _unlike(task, donor)} for task in ordered
    }
    rng = numpy.random.default_rng([seed, count])
    names = [task.name for task in ordered]
    derangements: list[dict[str, str]] = []
    for _ in range(count):
        rows, columns = rng.permutation(len(names)), rng.permutation(len(names))
        allowed = numpy.array([[names[d] in free[names[t]] for d in columns] for t in rows])
        matches = maximum_bipartite_matching(csr_array(allowed), perm_type="column")
        if (matches < 0).any():
            name = names[rows[int((matches < 0).argmax())]]
            raise ConfigError(
                f"task {name!r} cannot be given the descriptions of {count} other tasks "
                f"of another group with other labels (of {len(ordered)} tasks, "
                f"{len(free[name])} are free); add tasks, or leave out 'shuffled'"
            )
        assigned = {names[t]: names[columns[m]] for t, m in zip(rows, matches, strict=True)}
        for task_name, donor in assigned.items():
            free[task_name].remove(donor)
        derangements.append(dict(sorted(assigned.items())))
    return derangements


def group_of(task: Task) -> str:
    """Give the group that the task is resampled with: its own, or itself without one."""
    return task.group or task.name


def _unlike(task: Task, donor: Task) -> bool:
    labels, others = (set(map(normalise, t.metric.labels)) for t in (task, donor))
    return (
        group_of(task) != group_of(donor)
        and labels.isdisjoint(others)
        and normalise(task.definition) != normalise(donor.definition)
    )
