"""Obedience: descriptions of the kind that first users try, scored by rule."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from text_to_lora.evaluation.metrics import normalise
from text_to_lora.evaluation.scoring import Row, Scorer
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.files import write_file, write_json
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Metric, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTENCES: tuple[str, ...] = (
    "The old dog sleeps by the door.",
    "Where did you put my keys?",
    "We bought six red apples at the market.",
    "Does your sister play the piano every evening?",
    "It rained all day.",
    "Can a fish swim backwards?",
    "Does the train to the coast leave at 9?",
    "Anna fed the cat before breakfast.",
    "Please close the window.",
    "Who let the horse out of the barn?",
    "A small bird built its nest on our roof.",
    "Is that your goat?",
)
"""Inputs of every description, written for this file.

Half are questions, half name an animal, half have more than six words: one answer for all gives 50%
on the rules with two outcomes.
"""

DPI = 110
ANIMALS = frozenset({"dog", "fish", "cat", "horse", "bird", "goat"})


@dataclass(frozen=True)
class Rule:
    """A description with the rule that tells whether an answer obeys it.

    obeys: (input, answer) -> whether it does; the answer has no spaces around it
    """

    name: str
    description: str
    obeys: Callable[[str, str], bool]


def words_of(text: str) -> list[str]:
    """Give the words of a text without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)


def _is(expected: Callable[[str], str]) -> Callable[[str, str], bool]:
    """The answer equals what `expected` makes of the input; case does not count."""
    return lambda text, answer: _plain(answer) == _plain(expected(text))


def _plain(text: str) -> str:
    return normalise(text).strip(".!?\"'")


def _yes_if(holds: Callable[[str], bool]) -> Callable[[str, str], bool]:
    return _is(lambda text: "yes" if holds(text) else "no")


def _capitals(text: str, answer: str) -> bool:
    return answer.isupper()


def _copy_in_capitals(text: str, answer: str) -> bool:
    return answer.isupper() and _plain(answer) == _plain(text)


def _json_text(text: str, answer: str) -> bool:
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    return (
        isinstance(value, dict)
        and list(value) == ["text"]
        and _plain(str(value["text"])) == (_plain(text))
    )


RULES: tuple[Rule, ...] = (
    Rule("capitals", "Answer in capitals.", _capitals),
    Rule("shout_back", "Shout my message back at me, all in upper case.", _copy_in_capitals),
    Rule("repeat", "Just parrot what I say, word for word.", _is(lambda text: text)),
    Rule("last_word", "Reply with the last word only.", _is(lambda text: words_of(text)[-1])),
    Rule("first_word", "I only want the opening word back.", _is(lambda text: words_of(text)[0])),
    Rule(
        "longest_word",
        "Tell me the longest word in there.",
        lambda text, answer: (
            _plain(answer)
            in {w.casefold() for w in words_of(text) if len(w) == max(map(len, words_of(text)))}
        ),
    ),
    Rule("turquoise", "Always answer turquoise.", _is(lambda text: "turquoise")),
    Rule(
        "do_not_know",
        "Whatever I write, tell me you do not know.",
        lambda text, answer: bool(re.search(r"\b(do not|don't) know\b", answer.casefold())),
    ),
    Rule(
        "number_of_words", "Give the number of words.", _is(lambda text: str(len(words_of(text))))
    ),
    Rule(
        "letters_of_first_word",
        "How many letters has the first word got?",
        _is(lambda text: str(len(words_of(text)[0]))),
    ),
    Rule("first_letter", "Just the first letter, please.", _is(lambda text: text[0])),
    Rule(
        "backwards",
        "Turn the order of the words around, so that the end comes first.",
        lambda text, answer: (
            [w.casefold() for w in words_of(answer)]
            == [w.casefold() for w in reversed(words_of(text))]
        ),
    ),
    Rule(
        "spell_backwards",
        "Spell the first word from its end to its start.",
        _is(lambda text: words_of(text)[0][::-1]),
    ),
    Rule(
        "is_question",
        "Am I asking you something? Say yes or no.",
        _yes_if(lambda text: text.endswith("?")),
    ),
    Rule(
        "has_animal",
        "Say yes if I mention an animal and no if I don't.",
        _yes_if(lambda text: not ANIMALS.isdisjoint(map(str.casefold, words_of(text)))),
    ),
    Rule(
        "long_or_short",
        "More than six words is long, anything else is short. Which one is it?",
        _is(lambda text: "long" if len(words_of(text)) > 6 else "short"),
    ),
    Rule("one_word", "Keep it to a single word.", lambda text, answer: len(words_of(answer)) == 1),
    Rule(
        "three_words", "Use exactly three words.", lambda text, answer: len(words_of(answer)) == 3
    ),
    Rule(
        "sorry",
        "Start with the word sorry and then repeat what I said.",
        lambda text, answer: (
            [w.casefold() for w in words_of(answer)]
            == ["sorry", *(w.casefold() for w in words_of(text))]
        ),
    ),
    Rule("json", 'Send my message back as JSON with one key called "text".', _json_text),
)


def run_obedience(
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generate: Callable[[Sequence[str]], LoraWeights],
    output_dir: Path | str,
    rules: Sequence[Rule] = RULES,
    sentences: Sequence[str] = SENTENCES,
    max_new_tokens: int = 32,
) -> dict[str, Any]:
    """Score base, description in the prompt, and adapters by rule; give the result.

    generate: one adapter for each description
    Writes `obedience.json` with every answer and the seconds it took, `obedience.md` and
    `obedience.png` to `output_dir`.
    """
    started = time.perf_counter()
    scorer = Scorer(base, tokenizer, max_new_tokens=max_new_tokens)
    rows = [row for rule in rules for row in _rows(rule, sentences)]
    texts: list[str | None] = [rule.description for rule in rules for _ in sentences]
    places = [place for place, _ in enumerate(rules) for _ in sentences]
    with torch.no_grad():
        weights = generate([rule.description for rule in rules]).detach()
    weights.check_finite()
    plain = [answer.text for answer in scorer.score(rows[: len(sentences)])]
    answers = {
        "base": plain * len(rules),  # the base sees the input alone, whatever the rule
        "in_prompt": [answer.text for answer in scorer.score(rows, prompt_texts=texts)],
        "adapter": [answer.text for answer in scorer.score(rows, weights=weights, adapters=places)],
    }
    result = _tally(rules, sentences, answers)
    result["seconds"] = round(time.perf_counter() - started, 1)
    folder = Path(output_dir)
    write_json(folder / "obedience.json", result)
    text = render_obedience(result)
    write_file(folder / "obedience.md", lambda file: _write_text(file, text))
    plot_obedience(result, folder / "obedience.png")
    return result


def plot_obedience(result: Mapping[str, Any], path: Path) -> None:
    """Draw the share of answers that obey each description, a dot for each condition."""
    from matplotlib.figure import Figure

    rules = list(result["rules"].values())
    figure: Figure = Figure(figsize=(9, 1.5 + 0.28 * len(rules)), layout="constrained")
    axes = figure.subplots()
    for shift, (name, mean) in zip((-0.2, 0.0, 0.2), result["mean"].items(), strict=True):
        shares = [rule["obeyed"][name] for rule in rules]
        places = [place + shift for place, _ in enumerate(rules)]
        axes.plot(shares, places, "o", label=f"{name}, mean {mean:.0%}", markersize=5)
    axes.set_yticks(range(len(rules)), [rule["description"] for rule in rules], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share of answers that obey")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    write_file(
        path,
        lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}),
    )


def render_obedience(result: Mapping[str, Any]) -> str:
    """Give a result as a Markdown table: share of answers that obey each description."""
    names = list(result["mean"])
    lines = [["description", *names], ["---"] * (1 + len(names))]
    lines += [
        [rule["description"], *(f"{rule['obeyed'][name]:.0%}" for name in names)]
        for rule in result["rules"].values()
    ]
    lines.append(["**mean**", *(f"**{result['mean'][name]:.1%}**" for name in names)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    paired = "".join(
        f"- {name}: {d['mean']:+.3f}"
        + ("" if d["low"] is None else f" [{d['low']:+.3f}, {d['high']:+.3f}]")
        + "\n"
        for name, d in result["differences"].items()
    )
    return (
        f"# Obedience\n\nShare of {len(result['sentences'])} everyday inputs whose answer obeys, "
        f"by rule.\n\n{table}\n\nPaired differences, 95% bootstrap over descriptions:\n\n{paired}"
    )


def _rows(rule: Rule, sentences: Sequence[str]) -> list[Row]:
    examples = tuple(Example(text, (text,), place) for place, text in enumerate(sentences))
    # ROUGE-L: an answer's length is then not limited by that of a right one.
    task = Task(rule.name, rule.description, (), examples, Metric("rougeL"))
    return [Row(task, example) for example in examples]


def _tally(
    rules: Sequence[Rule], sentences: Sequence[str], answers: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    size = len(sentences)
    tallied: dict[str, Any] = {}
    for place, rule in enumerate(rules):
        own = {name: list(a[place * size : (place + 1) * size]) for name, a in answers.items()}
        obeyed = {
            name: sum(map(rule.obeys, sentences, several)) / size for name, several in own.items()
        }
        tallied[rule.name] = {"description": rule.description, "obeyed": obeyed, "answers": own}
    mean = {
        name: sum(rule["obeyed"][name] for rule in tallied.values()) / len(rules)
        for name in answers
    }
    bootstrap = GroupBootstrap({rule.name: rule.name for rule in rules})
    return {
        "format": "text-to-lora obedience",
        "version": 1,
        "sentences": list(sentences),
        "rules": tallied,
        "mean": mean,
        "differences": {
            f"adapter - {other}": asdict(
                bootstrap.mean(
                    {n: r["obeyed"]["adapter"] - r["obeyed"][other] for n, r in tallied.items()}
                )
            )
            for other in ("base", "in_prompt")
        },
    }


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
