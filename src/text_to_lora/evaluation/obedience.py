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

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.identity import base_identity, check_signature, signature_of
from text_to_lora.evaluation.metrics import normalise
from text_to_lora.evaluation.scoring import Row, Scorer
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.files import check_format, content_hash, read_json, write_file, write_json
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.outputs import check_results, one_job
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

FORMAT, VERSION = "text-to-lora obedience", 1
"""Of the result and of the files of answers."""

CONDITIONS = ("base", "in_prompt", "adapter")
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
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score base, description in the prompt, and adapters by rule; give the result.

    generate: one adapter for each description
    output_dir: `obedience/` with every answer, a file for each condition, and what
        `build_obedience` writes. A condition whose answers are there already is not scored again.
    provenance: JSON of what is judged (names, hashes); it has to be equal on resuming
    progress: called with a line about each condition

    Raises ConfigError for an output folder of another base, other adapters or other settings.
    """
    folder = Path(output_dir)
    report_progress = progress or (lambda line: None)
    scorer = Scorer(base, tokenizer, max_new_tokens=max_new_tokens)
    with one_job(folder):
        _open_run(
            folder,
            {
                "base": base_identity(base),
                "rules": [[rule.name, rule.description] for rule in rules],
                "sentences": list(sentences),
                "max_new_tokens": max_new_tokens,
                "provenance": dict(provenance or {}),
            },
        )
        descriptions = [rule.description for rule in rules]
        with torch.no_grad():
            weights = generate(descriptions).detach()
        weights.check_finite()
        rows = [row for rule in rules for row in _rows(rule, sentences)]
        _score(folder, scorer, rules, sentences, rows, weights, report_progress)
    return build_obedience(folder, rules=rules)


def _score(
    folder: Path,
    scorer: Scorer,
    rules: Sequence[Rule],
    sentences: Sequence[str],
    rows: Sequence[Row],
    weights: LoraWeights,
    report_progress: Callable[[str], None],
) -> None:
    """Write the answers of every condition that the folder does not have yet.

    weights: one adapter for each rule
    """
    for name in CONDITIONS:
        path = _answers_path(folder, name)
        signature = signature_of(weights if name == "adapter" else None)
        if path.exists():
            check_signature(path, _read_ours(path)["signature"], signature)
            report_progress(f"{name}: finished before")
            continue
        started = time.perf_counter()
        if name == "base":
            # The base sees the input alone, whatever the rule.
            answers = scorer.score(rows[: len(sentences)]) * len(rules)
        elif name == "in_prompt":
            texts = [rule.description for rule in rules for _ in sentences]
            answers = scorer.score(rows, prompt_texts=texts)
        else:
            places = [place for place, _ in enumerate(rules) for _ in sentences]
            answers = scorer.score(rows, weights=weights, adapters=places)
        seconds = round(time.perf_counter() - started, 1)
        by_rule: dict[str, list[str]] = {rule.name: [] for rule in rules}
        for row, answer in zip(rows, answers, strict=True):
            by_rule[row.task.name].append(answer.text)
        _write_ours(path, {"signature": signature, "seconds": seconds, "answers": by_rule})
        report_progress(f"{name}: scored in {seconds} s")


def build_obedience(folder: Path | str, *, rules: Sequence[Rule] = RULES) -> dict[str, Any]:
    """Make `obedience.json`, `obedience.md` and `obedience.png` from the answers in a folder.

    No model is needed. The JSON has every answer, and the seconds that scoring took.

    Raises ConfigError when a condition is missing, or the answers are to other rules.
    """
    folder = Path(folder)
    settings = _read_ours(_run_path(folder))["settings"]
    if settings["rules"] != [[rule.name, rule.description] for rule in rules]:
        raise ConfigError(
            f"{str(_run_path(folder).parent)!r} has answers to other rules; score again into "
            "another folder"
        )
    found = {name: _read_ours(_answers_path(folder, name)) for name in CONDITIONS}
    answers = {name: condition["answers"] for name, condition in found.items()}
    result = _tally(rules, settings["sentences"], answers)
    result["seconds"] = round(sum(condition["seconds"] for condition in found.values()), 1)
    write_json(folder / "obedience.json", result)
    text = render_obedience(result)
    write_file(folder / "obedience.md", lambda file: _write_text(file, text))
    plot_obedience(result, folder / "obedience.png")
    return result


def plot_obedience(result: Mapping[str, Any], path: Path) -> None:
    """Draw the share of answers that obey each description, a dot for each condition.

    The last line has the means with their 95% intervals.
    """
    from matplotlib.figure import Figure

    rules = list(result["rules"].values())
    figure: Figure = Figure(figsize=(9, 1.8 + 0.28 * len(rules)), layout="constrained")
    axes = figure.subplots()
    for shift, (name, mean) in zip((-0.2, 0.0, 0.2), result["mean"].items(), strict=True):
        shares = [rule["obeyed"][name] for rule in rules]
        places = [place + shift for place, _ in enumerate(rules)]
        (dots,) = axes.plot(shares, places, "o", label=f"{name}, mean {mean:.0%}", markersize=5)
        ends = result["intervals"][name]
        axes.plot(
            [mean if end is None else end for end in (ends["low"], mean, ends["high"])],
            [len(rules) + shift] * 3,
            "-D",
            color=dots.get_color(),
            markersize=5,
            markevery=[1],
        )
    titles = [*(rule["description"] for rule in rules), "mean, 95% interval"]
    axes.axhline(len(rules) - 0.5, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(titles)), titles, fontsize="small")
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
    lines.append(["**mean**", *(_show_mean(result, name) for name in names)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    paired = "".join(
        f"- {name}: {d['mean']:+.3f}"
        + ("" if d["low"] is None else f" [{d['low']:+.3f}, {d['high']:+.3f}]")
        + "\n"
        for name, d in result["differences"].items()
    )
    return (
        f"# Obedience\n\nShare of {len(result['sentences'])} everyday inputs whose answer obeys, "
        f"by rule; means with 95% intervals, bootstrap over descriptions.\n\n{table}\n\n"
        f"Paired differences, 95% bootstrap over descriptions:\n\n{paired}"
    )


def _show_mean(result: Mapping[str, Any], name: str) -> str:
    mean, ends = result["mean"][name], result["intervals"][name]
    known = ends["low"] is not None
    return f"**{mean:.1%}**" + (f" [{ends['low']:.1%}, {ends['high']:.1%}]" if known else "")


def _rows(rule: Rule, sentences: Sequence[str]) -> list[Row]:
    examples = tuple(Example(text, (text,), place) for place, text in enumerate(sentences))
    # ROUGE-L: an answer's length is then not limited by that of a right one.
    task = Task(rule.name, rule.description, (), examples, Metric("rougeL"))
    return [Row(task, example) for example in examples]


def _tally(
    rules: Sequence[Rule],
    sentences: Sequence[str],
    answers: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, Any]:
    tallied: dict[str, Any] = {}
    for rule in rules:
        own = {name: by_rule[rule.name] for name, by_rule in answers.items()}
        obeyed = {
            name: sum(map(rule.obeys, sentences, several)) / len(sentences)
            for name, several in own.items()
        }
        tallied[rule.name] = {"description": rule.description, "obeyed": obeyed, "answers": own}
    shares = {
        name: {rule: found["obeyed"][name] for rule, found in tallied.items()} for name in answers
    }
    bootstrap = GroupBootstrap({rule.name: rule.name for rule in rules})
    intervals = {name: bootstrap.mean(by_rule) for name, by_rule in shares.items()}
    return {
        "format": FORMAT,
        "version": VERSION,
        "sentences": list(sentences),
        "rules": tallied,
        "mean": {name: interval.mean for name, interval in intervals.items()},
        "intervals": {
            name: {"low": interval.low, "high": interval.high}
            for name, interval in intervals.items()
        },
        "differences": {
            f"adapter - {other}": asdict(
                bootstrap.mean(
                    {rule: shares["adapter"][rule] - share for rule, share in shares[other].items()}
                )
            )
            for other in ("base", "in_prompt")
        },
    }


def _open_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or check that those in the folder are the same."""
    path = _run_path(folder)
    if not path.exists():
        marker = str(path.relative_to(folder))
        check_results(
            folder, marker=marker, names=("obedience.json", "obedience.md", "obedience.png")
        )
        _write_ours(path, {"settings": dict(settings)})
        return
    earlier = _read_ours(path)["settings"]
    for field, value in settings.items():
        if content_hash(earlier.get(field)) != content_hash(value):
            raise ConfigError(
                f"{str(path.parent)!r} has answers with another {field!r}; "
                "choose another output folder or delete it"
            )


def is_obedience(folder: Path) -> bool:
    """Whether a folder has answers of `run_obedience`."""
    return _run_path(folder).exists()


def _run_path(folder: Path) -> Path:
    # In a folder of their own: `t2l eval suite` may write its run.json beside the tables.
    return folder / "obedience" / "run.json"


def _answers_path(folder: Path, condition: str) -> Path:
    return folder / "obedience" / f"{condition}.json"


def _write_ours(path: Path, payload: Mapping[str, Any]) -> None:
    write_json(path, {"format": FORMAT, "version": VERSION, **payload})


def _read_ours(path: Path) -> dict[str, Any]:
    payload = read_json(path)
    check_format(payload, path, name=FORMAT, version=VERSION, error=ConfigError)
    return payload


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
