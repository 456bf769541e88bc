"""The check of tasks as lines for a terminal, and as one page of HTML that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from text_to_lora.tasks.checking.check import Lengths, Report, TaskCheck

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100% } th { text-align: left; vertical-align: bottom }
td, th { padding: .3em .6em; border-bottom: 1px solid #8884 }
td:not(:first-child) { font-variant-numeric: tabular-nums }
.bad { color: #c0392b; font-weight: 600 } .scroll { overflow-x: auto }
meter { width: 5em; vertical-align: middle }
"""
_COLUMNS = (
    "task", "group", "rows", "descriptions", "metric", "label balance", "prompt tokens",
    "answer tokens", "answer in input", "shared inputs", "task guessed from input", "in evaluation sets",
)  # fmt: skip


def report_lines(report: Report) -> list[str]:
    """The report for a terminal: sums, a line for each task, findings."""
    lines = [_sums(report)]
    for check in report.tasks:
        parts = [f"{check.rows:,} rows, {check.descriptions} descriptions, {check.metric}"]
        if check.labels:
            parts.append(_balance(check))
        if check.prompt_tokens is not None and check.answer_tokens is not None:
            parts.append(
                f"tokens {_lengths(check.prompt_tokens)} in, {_lengths(check.answer_tokens)} out"
            )
        parts.append(f"answer in input {check.answer_in_input:.0%}")
        if check.shared:
            parts.append(f"{check.shared:,} inputs in other tasks")
        if check.guessed is not None:
            parts.append(f"guessed {check.guessed:.0%}")
        if check.held_out:
            parts.append(f"{check.held_out:,} rows in evaluation sets")
        lines.append(f"{check.name}  {'; '.join(parts)}")
    lines.append("")
    lines += [f"- {finding}" for finding in report.findings] or [
        "- nothing speaks against these tasks"
    ]
    return lines


def report_page(report: Report) -> str:
    """The report as HTML: no script, no file from elsewhere."""
    findings = "".join(f"<li>{escape(line)}</li>" for line in report.findings)
    heads = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    rows = "".join(f"<tr>{''.join(_cells(check))}</tr>\n" for check in report.tasks)
    groups = ", ".join(
        f"{escape(name or '(none)')} ({count})" for name, count in report.groups.items()
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Check of tasks</title>\n'
        f"<style>{_STYLE}</style>\n<h1>Check of tasks</h1>\n<p>{escape(_sums(report))}</p>\n"
        f"<h2>What to look at</h2>\n<ul>{findings or '<li>nothing speaks against these tasks</li>'}</ul>\n"
        f'<h2>Tasks</h2>\n<div class="scroll"><table><tr>{heads}</tr>\n{rows}</table></div>\n'
        f"<p>Tokens are the median and the most of the base's, with the chat template and without a "
        f"description; the percentage is the share that the limit cuts.</p>\n"
        f"<h2>Groups</h2>\n<p>{groups}</p>\n</html>\n"
    )


def _sums(report: Report) -> str:
    rows = sum(check.rows for check in report.tasks)
    descriptions = sum(check.descriptions for check in report.tasks)
    text = f"{len(report.tasks)} tasks in {len(report.groups)} groups, {rows:,} rows, "
    text += f"{descriptions:,} descriptions"
    if report.guessed is not None:
        text += f"; the input alone tells the task in {report.guessed:.0%}"
        text += f" (by chance {report.chance:.0%})"
    return text


def _cells(check: TaskCheck) -> Iterable[str]:
    def cell(text: str, *, bad: bool = False) -> str:
        return f'<td class="bad">{text}</td>' if bad else f"<td>{text}</td>"

    def length(lengths: Lengths | None) -> str:
        return cell("" if lengths is None else _lengths(lengths), bad=bool(lengths and lengths.cut))

    yield cell(escape(check.name))
    yield cell(escape(check.group))
    yield cell(f"{check.rows:,}", bad=check.rows < 10)
    yield cell(f"{check.descriptions:,}", bad=check.descriptions < 2)
    yield cell(check.metric)
    yield cell(escape(_balance(check)) if check.labels else "", bad=check.no_label > 0)
    yield length(check.prompt_tokens)
    yield length(check.answer_tokens)
    yield cell(_meter(check.answer_in_input))
    yield cell(f"{check.shared:,}")
    yield cell("" if check.guessed is None else _meter(check.guessed))
    yield cell("" if check.held_out is None else f"{check.held_out:,}", bad=bool(check.held_out))


def _meter(share: float) -> str:
    return f'<meter min="0" max="1" value="{share:.3f}"></meter> {share:.0%}'


def _lengths(lengths: Lengths) -> str:
    cut = f", {lengths.cut:.0%} cut" if lengths.cut else ""
    return f"{lengths.median} to {lengths.most}{cut}"


def _balance(check: TaskCheck) -> str:
    ordered = sorted(check.labels.items(), key=lambda item: -item[1])
    shown = [f"{label} {count / check.rows:.0%}" for label, count in ordered[:4]]
    more = f", {len(ordered) - 4} more" if len(ordered) > 4 else ""
    other = f", no label {check.no_label / check.rows:.0%}" if check.no_label else ""
    return ", ".join(shown) + more + other
