"""Measured gain of adapters by description: real ones, scrambled ones and junk."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.scoring import Row, Scorer, choose_rows
from text_to_lora.files import content_hash, read_json, write_json
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Task

Generate = Callable[[Sequence[str]], LoraWeights]
Kind = Literal["real", "scrambled", "junk"]

ADAPTERS_AT_ONCE = 32
TASKS_AT_ONCE = 8  # of one file
SEPARATORS = (";", ",", " / ", " ", "\n")
KEYBOARD_ROWS = ("qwertyuiop", "asdfghjkl;", "zxcvbnm,.")
SYLLABLES = (
    "lo", "rem", "ip", "sum", "do", "la", "si", "te", "qua", "men", "tu", "ras", "vel", "ni", "que",
    "no", "pos",
)  # fmt: skip
SENTENCES = (
    ("My neighbour", "The old dog", "A red car", "Our teacher", "Her brother", "The river",
     "That tall man", "Nobody", "The baker"),
    ("painted", "forgot", "crossed", "carried", "found", "lost", "followed", "watched", "liked"),
    ("the fence", "a small boat", "the garden", "an umbrella", "the last train", "two apples",
     "her coat", "a song", "the window"),
    ("on Tuesday", "in the rain", "last summer", "before noon", "near the sea", "by accident",
     "after dinner", "for years", "at night"),
)  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """A text that is given as the description of a task.

    kind: "real" describes the task; "scrambled" has its words in another order; "junk" describes
        nothing
    """

    task: str
    group: str
    kind: Kind
    text: str


@dataclass(frozen=True)
class Gain:
    """What the adapter of a probe does to the answers of its task.

    base_nll, nll: nats a token without and with the adapter, mean over the same rows
    rows: how many
    """

    probe: Probe
    base_nll: float
    nll: float
    rows: int

    @property
    def gain(self) -> float:
        """Nats a token that the adapter takes off; negative where it does harm."""
        return self.base_nll - self.nll

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        own = {"base_nll": self.base_nll, "nll": self.nll, "rows": self.rows}
        return asdict(self.probe) | own

    @classmethod
    def from_dict(cls, payload: dict[str, Any]) -> Gain:
        """Read what `to_dict` gave."""
        names = ("task", "group", "kind", "text")
        probe = Probe(**{name: payload[name] for name in names})
        return cls(probe, payload["base_nll"], payload["nll"], payload["rows"])


def plan_probes(
    tasks: Sequence[Task],
    *,
    seed: int,
    real: int = 4,
    scrambled: int = 2,
    junk: int = 2,
    junk_texts: Sequence[str] | None = None,
) -> list[Probe]:
    """Give each task real descriptions, scrambled ones, and junk.

    real: most descriptions of a task, its definition first; scrambled: of these, with the words in
        another order; junk: texts of `junk_texts`, which the tasks take in turn
    junk_texts: None makes them with `make_junk`
    """
    rng = Random(f"probes/{seed}")
    made = make_junk(tasks, junk * len(tasks), seed=seed) if junk_texts is None else junk_texts
    probes = []
    for place, task in enumerate(tasks):
        told = list(task.descriptions[:1])
        told += rng.sample(task.descriptions[1:], min(real - 1, len(task.descriptions) - 1))
        turned = [scramble(told[turn % len(told)], rng) for turn in range(scrambled)]
        empty = [made[(place * junk + turn) % len(made)] for turn in range(junk)]
        kinds: dict[Kind, list[str]] = {"real": told, "scrambled": turned, "junk": empty}
        for kind, texts in kinds.items():
            probes += [Probe(task.name, group_of(task), kind, text) for text in texts]
    return probes


def scramble(text: str, rng: Random) -> str:
    """Give the words of a text in another order, at random."""
    words = text.split()
    return " ".join(rng.sample(words, len(words)))


def make_junk(tasks: Sequence[Task], count: int, *, seed: int, wide: bool = False) -> list[str]:
    """Make texts that describe no task: six kinds in turn, each text once.

    Keyboard mash, one sign again and again, word salad, lists of words, made-up syllables, and text
    that is an input of a task and asks for nothing. Words come from the tasks' descriptions.
    wide: four kinds more: one word again and again, single signs, clusters of signs, and sentences
        that ask for nothing
    """
    rng = Random(f"junk/{seed}")
    words = sorted({w for task in tasks for w in task.definition.split() if w.isalpha()})
    inputs = [task.examples[0].input for task in tasks]
    kinds: tuple[Callable[[], str], ...] = (
        lambda: _mash(rng),
        lambda: rng.choice(string.ascii_lowercase + "!?#") * rng.randint(3, 40),
        lambda: " ".join(rng.choices(words, k=rng.randint(4, 18))),
        lambda: rng.choice(SEPARATORS[:3]).join(rng.choices(words, k=rng.randint(2, 7))),
        lambda: " ".join(
            "".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(rng.randint(3, 12))
        ),
        lambda: " ".join(rng.choice(inputs).split()[: rng.randint(6, 24)]),
    )
    if wide:
        signs = string.ascii_letters + string.digits
        kinds += (
            lambda: " ".join([rng.choice(words)] * rng.randint(2, 15)),
            lambda: " ".join(rng.choices(signs, k=rng.randint(3, 20))),
            lambda: " ".join(
                "".join(rng.choices(signs + string.punctuation, k=rng.randint(2, 12)))
                for _ in range(rng.randint(1, 8))
            ),
            lambda: " ".join(_sentence(rng) for _ in range(rng.randint(1, 3))),
        )
    made: dict[str, None] = {}
    turn = 0
    while len(made) < count:
        text = kinds[turn % len(kinds)]().strip()
        turn += 1
        if text:
            made[text] = None
    return list(made)


def measure_gains(
    scorer: Scorer,
    generate: Generate,
    tasks: Sequence[Task],
    probes: Sequence[Probe],
    *,
    rows_per_task: int,
    seed: int,
    examples: Callable[[Task], Sequence[Example]],
) -> list[Gain]:
    """Score the rows of each probe's task with the adapter of its text, and without one.

    scorer: with max_new_tokens=0 nothing is generated, which is all that is needed
    generate: one adapter for each description
    examples: rows that may be drawn

    Raises TaskDataError naming a task without rows; what Scorer.score raises.
    """
    rows: dict[str, list[Row]] = {task.name: [] for task in tasks}
    for row in choose_rows(tasks, rows_per_task=rows_per_task, seed=seed, examples=examples):
        rows[row.task.name].append(row)
    every = [row for several in rows.values() for row in several]
    base = _means(every, [row.task.name for row in every], scorer, None, None)
    gains = []
    for start in range(0, len(probes), ADAPTERS_AT_ONCE):
        chunk = probes[start : start + ADAPTERS_AT_ONCE]
        texts = list(dict.fromkeys(probe.text for probe in chunk))
        with torch.no_grad():
            weights = generate(texts).detach()
        asked = [(row, probe) for probe in chunk for row in rows[probe.task]]
        places = [texts.index(probe.text) for _, probe in asked]
        nlls = _means([row for row, _ in asked], [p for _, p in asked], scorer, weights, places)
        gains += [
            Gain(probe, base[probe.task], nlls[probe], len(rows[probe.task])) for probe in chunk
        ]
    return gains


def _means(
    rows: Sequence[Row],
    keys: Sequence[Any],
    scorer: Scorer,
    weights: LoraWeights | None,
    adapters: Sequence[int] | None,
) -> dict[Any, float]:
    """Mean likelihood of the rows of each key."""
    summed: dict[Any, list[float]] = {}
    for key, answer in zip(
        keys, scorer.score(rows, weights=weights, adapters=adapters), strict=True
    ):
        summed.setdefault(key, []).append(answer.nll)
    return {key: sum(values) / len(values) for key, values in summed.items()}


def _mash(rng: Random) -> str:
    row = rng.choice(KEYBOARD_ROWS)
    lengths = [rng.randint(2, 10) for _ in range(rng.randint(1, 6))]
    return " ".join("".join(rng.choices(row + "abc", k=length)) for length in lengths)


def _sentence(rng: Random) -> str:
    return " ".join(rng.choice(part) for part in SENTENCES) + "."


def measure_in_parts(
    folder: Path,
    name: str,
    scorer: Scorer,
    generate: Generate,
    tasks: Sequence[Task],
    probes: Sequence[Probe],
    *,
    hypernet: str,
    rows_per_task: int,
    seed: int,
    examples: Callable[[Task], Sequence[Example]],
    progress: Callable[[str], None],
) -> list[Gain]:
    """Do as `measure_gains`, a few tasks at a time, and keep each part in a file.

    folder: receives `NAME-0000.json` and so on; a part that is there is not measured again
    hypernet: fingerprint, so that gains of another one are not taken for those of this one

    Raises ConfigError when a part is of another hypernetwork, of other texts or of other rows.
    """
    gains: list[Gain] = []
    for start in range(0, len(tasks), TASKS_AT_ONCE):
        some = tasks[start : start + TASKS_AT_ONCE]
        names = {task.name for task in some}
        own = [probe for probe in probes if probe.task in names]
        identity = {
            "hypernet": hypernet,
            "texts": content_hash([asdict(probe) for probe in own]),
            "rows_per_task": rows_per_task,
            "seed": seed,
        }
        path = folder / f"{name}-{start // TASKS_AT_ONCE:04}.json"
        if path.exists():
            part = read_json(path)
            if part.get("identity") != identity:
                raise ConfigError(
                    f"{str(path)!r} has gains of another hypernetwork or of other texts; delete "
                    f"{str(folder)!r} or choose another folder"
                )
        else:
            found = measure_gains(
                scorer,
                generate,
                some,
                own,
                rows_per_task=rows_per_task,
                seed=seed,
                examples=examples,
            )
            part = {"identity": identity, "gains": [gain.to_dict() for gain in found]}
            write_json(path, part)
            progress(f"{name}: {min(start + TASKS_AT_ONCE, len(tasks))} of {len(tasks)} tasks")
        gains += [Gain.from_dict(payload) for payload in part["gains"]]
    return gains
