"""Table 5's form: descriptions of one hypernetwork by source, by form and by length.

    python -m benchmarks.studies.alignment --data DIR --model embedded

Seen tasks: the descriptions that training used, paraphrases that it did not, those of other tasks,
junk. Unseen tasks: the definition, its paraphrases, descriptions of other unseen tasks, those of
random training tasks, junk. For both: the definition in five forms.
Each is answer NLL, paired with that of the definition as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from benchmarks.lib import make_cell
from benchmarks.studies.judge import Generate, Judge, Texts, difference, parser
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import JUNK, derangements
from text_to_lora.generate import TextToLora
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task
from text_to_lora.training.split import split_by_group

TURNS = 3  # descriptions of a task that its rows take in turn, as in the paper's table
OTHERS = 5  # random training descriptions of an unseen task
KEYWORDS = 12  # at most, of the keyword form

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(\[])")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_STOP_WORDS = (
    "a an and any are as at be been but by can could do does each every for from given has have he "
    "her his how i if in into is it its may must need no not of on or our out should so some such "
    "task tasks than that the their them then there these they this those to up was we were what "
    "when where whether which while who will with would you your"
)
_MORE = (
    "Read the whole input carefully before you answer, and think about what it asks of you. "
    "Your answer should be given in the form that was asked for, on one line, with no explanation "
    "and with nothing before it or after it. Every input is to be treated alike, whatever it is "
    "about and however long it is."
)
Mapped = dict[str, Mapping[str, Sequence[str]]]
"""Texts of every source or form, by task."""


def keywords(task: Task) -> str:
    """The first words of the definition that are not stop words, each once, with commas.

    Raises ConfigError when there is none.
    """
    words = (word.casefold() for word in _WORD.findall(task.definition))
    stop = frozenset(_STOP_WORDS.split())
    keywords_in_order = list(dict.fromkeys(word for word in words if word not in stop))[:KEYWORDS]
    if not keywords_in_order:
        raise ConfigError(
            f"task {task.name!r} has no word for a list of keywords in its definition "
            f"{task.definition!r}; leave it out"
        )
    return ", ".join(keywords_in_order)


def without_labels(task: Task) -> str:
    """The definition with every label name struck out, and the quotes that stood around it."""
    text = task.definition
    for label in sorted(task.metric.labels, key=len, reverse=True):
        name = rf"(?<!\w){re.escape(label)}(?!\w)"
        text = re.sub(rf"(?:\"{name}\"|'{name}'|`{name}`|{name})", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,;:!?)])", r"\1", text).strip()
    return text or task.definition


def _closed(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


FORMS: Mapping[str, Callable[[Task], str]] = {
    "one line": lambda task: _SENTENCE_END.split(task.definition.strip())[0],
    # The definition, and four sentences that say nothing about the task: length alone.
    "paragraph": lambda task: f"{_closed(task.definition)} {_MORE}",
    "keywords": keywords,
    "label names listed": lambda task: (
        f"{_closed(without_labels(task))} Answer with one of: {', '.join(task.metric.labels)}."
    ),
    "no label names": without_labels,
}
"""Ways of writing a task's definition, made by rule: what is said stays as alike as they allow.

Source: Text-to-LoRA (arXiv 2506.06105), Table 5, varies where a description is from; forms are ours.
"""


def takes(form: str, task: Task) -> bool:
    """Tell whether a form makes sense of a task: those of labels need a set of up to 12 of them."""
    return "label names" not in form or 0 < len(task.metric.labels) <= 12


def forms(tasks: Sequence[Task]) -> Mapped:
    """The texts of every form by task."""
    return {
        form: {task.name: [write(task)] for task in tasks if takes(form, task)}
        for form, write in FORMS.items()
    }


def sources(
    tasks: Sequence[Task], trained: Sequence[Task], *, used: int, seen: bool, seed: int
) -> Mapped:
    """The texts of every source by task; a task that has none is left out.

    used: descriptions of each task that training used, from the first
    """
    definitions = {task.name: task.definition for task in tasks}
    (donors,) = derangements(tasks, seed=seed, count=1)
    draw, first = Random(f"alignment/{seed}"), used if seen else 1
    texts: Mapped = {
        "definition": {name: [text] for name, text in definitions.items()},
        "other tasks' definitions": {name: [definitions[donors[name]]] for name in definitions},
        "junk": dict.fromkeys(definitions, JUNK),
        "unseen paraphrases": {
            t.name: t.descriptions[first : first + TURNS]
            for t in tasks
            if len(t.descriptions) >= first + TURNS
        },
    }
    if seen:
        texts["training descriptions"] = {t.name: t.descriptions[1 : 1 + TURNS] for t in tasks}
    else:
        texts["descriptions of training tasks"] = {
            t.name: [draw.choice(draw.choice(trained).descriptions[:used]) for _ in range(OTHERS)]
            for t in tasks
        }
    return texts


def measure(judge: Judge, generate: Generate, texts: Mapped) -> dict[str, Any]:
    """Mean NLL of each set of texts, its paired differences, and the number of words."""
    conditions = [Texts(name, generate, of_tasks) for name, of_tasks in texts.items()]
    nll = judge.nll([*judge.plan(["base", "in_prompt"]), *conditions])
    return {
        name: {
            "nll": judge.bootstrap.mean(means).to_dict(),
            **{
                f"minus_{other}": difference(means, nll[other], judge.bootstrap).to_dict()
                for other in ("definition", "base")
            },
            "words": words(texts.get(name, {})),
        }
        for name, means in nll.items()
    }


def words(texts: Mapping[str, Sequence[str]]) -> float | None:
    """Mean number of words of the texts; None where there is none."""
    counts = [len(text.split()) for texts_of_task in texts.values() for text in texts_of_task]
    return round(sum(counts) / len(counts), 1) if counts else None


def main() -> None:
    """Measure one model."""
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("--model", default="embedded", help="hypernetwork (default: embedded)")
    add("--seen", type=int, default=40, help="seen tasks, of those with enough descriptions")
    options = arguments.parse_args()
    t2l = TextToLora.from_pretrained(options.model, device=options.device)
    data, seed = t2l.training["data"], options.row_seed
    used = data["descriptions_per_task"]
    trained, _ = split_by_group(load_data_dir(options.data, "train"), data["validation_one_in"])
    rich = [t for t in trained if len(t.descriptions) >= used + TURNS and t.validation()]
    seen = Random(f"seen/{seed}").sample(rich, min(options.seen, len(rich)))
    base = t2l.spec.base.name
    judges = {"unseen": Judge(options, base), "seen": Judge(options, base, seen)}

    def make() -> dict[str, Any]:
        figures = {}
        for name, judge in judges.items():
            texts = sources(judge.tasks, trained, used=used, seen=judge.seen, seed=seed)
            texts |= forms(judge.tasks)
            figures[name] = measure(judge, lambda lines: t2l.generate(lines).weights, texts)
        return {"tasks": figures}

    identity = {"model": t2l.fingerprint, "seen_tasks": len(seen), "descriptions_used": used}
    identity |= judges["unseen"].identity()
    make_cell(options.out / "alignment.json", make, identity=identity, threads=options.threads)


if __name__ == "__main__":
    main()
