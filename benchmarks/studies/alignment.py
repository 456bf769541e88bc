"""Table 5's form: descriptions of one hypernetwork by source, by form and by length.

    python -m benchmarks.studies.alignment --data DIR --model embedded

Seen tasks: the descriptions that training used, paraphrases that it did not, those of other tasks,
junk. Unseen tasks: the definition, its paraphrases, descriptions of other unseen tasks, those of
random training tasks, junk. For both: the definition in five forms (`forms.py`).
Each is answer NLL, paired with that of the definition as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from benchmarks.lib import make_cell
from benchmarks.studies.forms import FORMS, takes
from benchmarks.studies.judge import Judge, Texts, parser
from text_to_lora.evaluation.conditions import JUNK, derangements
from text_to_lora.generate import TextToLora
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task
from text_to_lora.training.split import split_by_group

TURNS = 3  # descriptions of a task that its rows take in turn, as in the paper's table
OTHERS = 5  # random training descriptions of an unseen task


def sources(
    tasks: Sequence[Task], trained: Sequence[Task], *, used: int, seen: bool, seed: int
) -> dict[str, Mapping[str, Sequence[str]]]:
    """The texts of every source by task; a task that has none is left out.

    used: descriptions of each task that training used, from the first
    """
    definitions = {task.name: task.definition for task in tasks}
    draw = Random(f"alignment/{seed}")
    (donors,) = derangements(tasks, seed=seed, count=1)
    texts_by_source: dict[str, Mapping[str, Sequence[str]]] = {
        "definition": {name: [text] for name, text in definitions.items()},
        "other tasks' definitions": {name: [definitions[donors[name]]] for name in definitions},
        "junk": dict.fromkeys(definitions, JUNK),
    }
    if seen:
        texts_by_source["training descriptions"] = {
            t.name: t.descriptions[1 : 1 + TURNS] for t in tasks
        }
        texts_by_source["unseen paraphrases"] = {
            t.name: t.descriptions[used : used + TURNS]
            for t in tasks
            if len(t.descriptions) >= used + TURNS
        }
    else:
        texts_by_source["unseen paraphrases"] = {
            t.name: t.descriptions[1 : 1 + TURNS] for t in tasks if len(t.descriptions) > TURNS
        }
        texts_by_source["descriptions of training tasks"] = {
            t.name: [draw.choice(draw.choice(trained).descriptions[:used]) for _ in range(OTHERS)]
            for t in tasks
        }
    return texts_by_source


def forms(tasks: Sequence[Task]) -> dict[str, Mapping[str, Sequence[str]]]:
    """The texts of every form by task."""
    return {
        form: {task.name: [write(task)] for task in tasks if takes(form, task)}
        for form, write in FORMS.items()
    }


def measure(
    judge: Judge,
    generate: Callable[[Sequence[str]], Any],
    texts: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, Any]:
    """Mean NLL of each set of texts, its paired differences, and the number of words."""
    conditions = [Texts(name, generate, of_tasks) for name, of_tasks in texts.items()]
    nll = judge.nll([*judge.plan(["base", "in_prompt"]), *conditions])
    definition = nll["definition"]
    return {
        name: {
            "nll": judge.mean(means),
            "minus_definition": judge.difference(means, definition),
            "minus_base": judge.difference(means, nll["base"]),
            "words": words(texts[name]) if name in texts else None,
        }
        for name, means in nll.items()
    }


def words(texts: Mapping[str, Sequence[str]]) -> float:
    """Mean number of words of the texts."""
    counts = [len(text.split()) for texts_of_task in texts.values() for text in texts_of_task]
    return round(sum(counts) / len(counts), 1)


def main() -> None:
    """Measure one model."""
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("--model", default="embedded", help="hypernetwork (default: embedded)")
    add("--name", default="alignment", help="of the cell (default: alignment)")
    add("--seen", type=int, default=40, help="seen tasks, of those with 200 descriptions")
    options = arguments.parse_args()
    t2l = TextToLora.from_pretrained(options.model, device=options.device)
    data = t2l.training["data"]
    used = data["descriptions_per_task"]
    training_tasks, _ = split_by_group(
        load_data_dir(options.data, "train"), data["validation_one_in"]
    )
    rich = [t for t in training_tasks if len(t.descriptions) >= used + TURNS and t.validation()]
    seen = Random(f"seen/{options.row_seed}").sample(rich, min(options.seen, len(rich)))

    def generate(texts: Sequence[str]) -> Any:
        return t2l.generate(texts).weights

    def make() -> dict[str, Any]:
        figures = {}
        for title, chosen in (("unseen", ()), ("seen", tuple(seen))):
            judge = Judge(options, t2l.spec.base.name, chosen)
            texts = sources(
                judge.tasks, training_tasks, used=used, seen=bool(chosen), seed=options.row_seed
            ) | forms(judge.tasks)
            figures[title] = measure(judge, generate, texts)
        return {"tasks": figures}

    make_cell(
        options.out / f"{options.name}.json",
        make,
        identity={
            **Judge(options, "").identity(),
            "model": t2l.fingerprint,
            "seen_tasks": len(seen),
            "descriptions_used": used,
        },
        threads=options.threads,
    )


if __name__ == "__main__":
    main()
