"""Obedience: descriptions of the kind that first users try, scored by rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.identity import base_identity, check_signature, signature_of
from text_to_lora.evaluation.rules import RULES, SENTENCES, WORD_RULES, Rule
from text_to_lora.evaluation.scoring import Row, Scorer
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.files import (
    check_format,
    check_results,
    content_hash,
    one_job,
    read_json,
    write_file,
    write_json,
    write_text,
)
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Metric, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT, VERSION = "text-to-lora obedience", 1
"""Of the result and of the files of answers."""

CONDITIONS = ("base", "in_prompt", "adapter")
DPI = 110


def run_obedience(
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generate: Callable[[Sequence[str]], LoraWeights],
    output_dir: Path | str,
    rules: Sequence[Rule] = RULES,
    word_rules: Sequence[Rule] = WORD_RULES,
    sentences: Sequence[str] = SENTENCES,
    max_new_tokens: int = 32,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score base, description in the prompt, and adapters by rule; give the result.

    generate: one adapter for each description
    rules, word_rules: two sets with a mean of their own; `word_rules` may be empty
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
        every_rule = (*rules, *word_rules)
        _open_run(
            folder,
            {
                "base": base_identity(base),
                **_described(rules, word_rules),
                "sentences": list(sentences),
                "max_new_tokens": max_new_tokens,
                "provenance": dict(provenance or {}),
            },
        )
        descriptions = [rule.description for rule in every_rule]
        with torch.no_grad():
            weights = generate(descriptions).detach()
        weights.check_finite()
        rows = [row for rule in every_rule for row in _rows(rule, sentences)]
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
                answers = scorer.score(rows[: len(sentences)]) * len(every_rule)
            elif name == "in_prompt":
                texts = [text for text in descriptions for _ in sentences]
                answers = scorer.score(rows, prompt_texts=texts)
            else:
                places = [place for place, _ in enumerate(every_rule) for _ in sentences]
                answers = scorer.score(rows, weights=weights, adapters=places)
            seconds = round(time.perf_counter() - started, 1)
            by_rule: dict[str, list[str]] = {rule.name: [] for rule in every_rule}
            for row, answer in zip(rows, answers, strict=True):
                by_rule[row.task.name].append(answer.text)
            _write_ours(path, {"signature": signature, "seconds": seconds, "answers": by_rule})
            report_progress(f"{name}: scored in {seconds} s")
        return build_obedience(folder, rules=rules, word_rules=word_rules)


def build_obedience(
    folder: Path | str,
    *,
    rules: Sequence[Rule] = RULES,
    word_rules: Sequence[Rule] = WORD_RULES,
) -> dict[str, Any]:
    """Make `obedience.json`, `obedience.md` and `obedience.png` from the answers in a folder.

    No model is needed. The JSON has every answer, means and differences of `rules`, those of
    `word_rules` under that name, and the seconds that scoring took.

    Raises ConfigError when a condition is missing, or the answers are to other rules.
    """
    folder = Path(folder)
    settings = _read_ours(_run_path(folder))["settings"]
    described = _described(rules, word_rules)
    if {name: settings.get(name) for name in described} != described:
        raise ConfigError(
            f"{str(_run_path(folder).parent)!r} has answers to other rules; score again into "
            "another folder"
        )
    conditions = {name: _read_ours(_answers_path(folder, name)) for name in CONDITIONS}
    answers = {name: condition["answers"] for name, condition in conditions.items()}
    sentences = settings["sentences"]
    result = {
        "format": FORMAT,
        "version": VERSION,
        "sentences": sentences,
        **_tally(rules, sentences, answers),
        "word_rules": _tally(word_rules, sentences, answers) if word_rules else None,
        "seconds": round(sum(condition["seconds"] for condition in conditions.values()), 1),
    }
    write_json(folder / "obedience.json", result)
    text = render_obedience(result)
    write_text(folder / "obedience.md", text)
    plot_obedience(result, folder / "obedience.png")
    return result


def plot_obedience(result: Mapping[str, Any], path: Path) -> None:
    """Draw the share of answers that obey each description, a dot for each condition.

    Each set of rules has a panel, whose last line has the means with their 95% intervals.
    """
    from matplotlib.figure import Figure

    tallies = list(_titled(result).values())
    heights = [1.8 + 0.28 * len(tally["rules"]) for tally in tallies]
    figure: Figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    panels = figure.subplots(len(tallies), squeeze=False, height_ratios=heights)
    for tally, axes in zip(tallies, panels[:, 0], strict=True):
        _plot_rules(tally, axes)
    write_file(
        path,
        lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}),
    )


def _plot_rules(tally: Mapping[str, Any], axes: Any) -> None:
    rules = list(tally["rules"].values())
    for shift, (name, mean) in zip((-0.2, 0.0, 0.2), tally["mean"].items(), strict=True):
        shares = [rule["obeyed"][name] for rule in rules]
        places = [place + shift for place, _ in enumerate(rules)]
        (dots,) = axes.plot(shares, places, "o", label=f"{name}, mean {mean:.0%}", markersize=5)
        ends = tally["intervals"][name]
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


def render_obedience(result: Mapping[str, Any]) -> str:
    """Give a result as Markdown: for each set of rules, the share of answers that obey each."""
    return (
        f"# Obedience\n\nShare of {len(result['sentences'])} everyday inputs whose answer obeys, "
        "by rule; means with 95% intervals, bootstrap over descriptions.\n"
    ) + "".join(
        f"\n## {title}\n\n{_render_rules(tally)}" for title, tally in _titled(result).items()
    )


def _titled(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Give the tally of each set of rules, by its title."""
    tallies = {
        "What first users try": result,
        "Words that training never had": result["word_rules"],
    }
    return {title: tally for title, tally in tallies.items() if tally is not None}


def _render_rules(tally: Mapping[str, Any]) -> str:
    names = list(tally["mean"])
    lines = [["description", *names], ["---"] * (1 + len(names))]
    lines += [
        [rule["description"], *(f"{rule['obeyed'][name]:.0%}" for name in names)]
        for rule in tally["rules"].values()
    ]
    lines.append(["**mean**", *(_show_mean(tally, name) for name in names)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    differences = "".join(
        f"- {name}: {d['mean']:+.3f}"
        + ("" if d["low"] is None else f" [{d['low']:+.3f}, {d['high']:+.3f}]")
        + "\n"
        for name, d in tally["differences"].items()
    )
    return f"{table}\n\nPaired differences, 95% bootstrap over descriptions:\n\n{differences}"


def _show_mean(tally: Mapping[str, Any], name: str) -> str:
    mean, ends = tally["mean"][name], tally["intervals"][name]
    known = ends["low"] is not None
    return f"**{mean:.1%}**" + (f" [{ends['low']:.1%}, {ends['high']:.1%}]" if known else "")


def _rows(rule: Rule, sentences: Sequence[str]) -> list[Row]:
    examples = tuple(Example(text, (text,), place) for place, text in enumerate(sentences))
    # ROUGE-L: an answer's length is then not limited by that of a right one.
    task = Task(rule.name, rule.description, (), examples, Metric("rougeL"))
    return [Row(task, example) for example in examples]


def _described(rules: Sequence[Rule], word_rules: Sequence[Rule]) -> dict[str, list[list[str]]]:
    """Give the names and descriptions of both sets of rules, as they stand in the settings."""
    return {
        "rules": [[rule.name, rule.description] for rule in rules],
        "word_rules": [[rule.name, rule.description] for rule in word_rules],
    }


def _tally(
    rules: Sequence[Rule],
    sentences: Sequence[str],
    answers: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, Any]:
    """Give the shares of answers that obey, their means with intervals, and paired differences."""
    by_name: dict[str, Any] = {}
    for rule in rules:
        answers_to_rule = {name: by_rule[rule.name] for name, by_rule in answers.items()}
        obeyed = {
            name: sum(map(rule.obeys, sentences, texts)) / len(sentences)
            for name, texts in answers_to_rule.items()
        }
        by_name[rule.name] = {
            "description": rule.description,
            "obeyed": obeyed,
            "answers": answers_to_rule,
        }
    shares = {
        name: {rule: entry["obeyed"][name] for rule, entry in by_name.items()} for name in answers
    }
    bootstrap = GroupBootstrap({rule.name: rule.name for rule in rules})
    intervals = {name: bootstrap.mean(by_rule) for name, by_rule in shares.items()}
    return {
        "rules": by_name,
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
