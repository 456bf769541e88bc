"""What mkdocs writes into the page of the command line: its verbs, conditions and recipes.

A section `## t2l VERB` of `cli.md` holds notes, which follow the help of that verb; verbs without notes
get a section too. `<!-- conditions -->` and `<!-- recipes -->` become tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import takewhile
from typing import Any

import typer


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return render_page(markdown) if page.file.src_uri == "cli.md" else markdown


def render_page(markdown: str) -> str:
    """The page of the command line with everything that the program says of itself.

    Raises ValueError for notes on a verb that does not exist.
    """
    intro, *sections = re.split(r"^## t2l (.+)\n", markdown, flags=re.MULTILINE)
    notes = dict(zip(sections[::2], sections[1::2], strict=True))
    commands = verbs()
    if unknown := notes.keys() - commands.keys():
        raise ValueError(f"docs/cli.md has notes on verbs that do not exist: {sorted(unknown)}")
    parts = [render_verb(verb, commands[verb]) + notes.get(verb, "") for verb in commands]
    text = "\n\n".join([intro.rstrip(), *map(str.rstrip, parts)]) + "\n"
    return text.replace("<!-- conditions -->", conditions()).replace(
        "<!-- recipes -->", recipe_table()
    )


def verbs() -> dict[str, Any]:
    """Every verb by its words, such as "eval suite", and the command behind it."""
    from text_to_lora.cli.app import app

    commands: dict[str, Any] = {}
    groups: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    for prefix, group in groups:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                groups.append((f"{prefix}{name} ", command))
            else:
                commands[prefix + name] = command
    return commands


def render_verb(verb: str, command: Any) -> str:
    """The help of a verb as a section: sentences, examples, arguments and options."""
    parts = [f"## t2l {verb}"]
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):  # examples, which the help does not wrap
            lines = [line.strip() for line in paragraph.splitlines()[2:]]
            parts.append("\n".join(["```sh", *lines, "```"]))
        else:
            parts.append(paragraph)
    context = command.make_context(f"t2l {verb}", [], resilient_parsing=True)
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [(f"`{names}`", text.replace("  [", " [")) for names, text in filter(None, records)]
    parts.append(table(("argument or option", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def conditions() -> str:
    """The conditions of an evaluation, in the order of its report."""
    from text_to_lora.evaluation.conditions import CONDITIONS

    rows = [
        (f"`{condition.kind}`", condition.title, re.sub(r"\(?Sources\.\w+\)?", "", condition.needs))
        for condition in CONDITIONS
    ]
    return table(("condition", "who answers", "needs"), rows)


def recipe_table() -> str:
    """The recipes of the package, with the first sentence of the comment that each begins with."""
    from text_to_lora.training.config import recipes

    rows = []
    for verb in ("sft", "adapters", "reconstruct"):
        for name in recipes(verb):
            text = files("text_to_lora.recipes").joinpath(f"{name}.yaml").read_text("utf-8")
            comments = takewhile(lambda line: line.startswith("#"), text.splitlines())
            sentence, _, _ = " ".join(line[1:].strip() for line in comments).partition(". ")
            rows.append((f"`{name}`", f"`t2l train {verb}`", sentence.rstrip(".")))
    return table(("recipe", "verb", "what it trains"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
