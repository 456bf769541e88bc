"""Every command, recipe, link and Python block in the documentation is one that works."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import text_to_lora
from docs.hooks import render_page, verbs
from text_to_lora.cli.app import app
from text_to_lora.evaluation.conditions import KINDS
from text_to_lora.training.adapters import LibraryConfig
from text_to_lora.training.config import Recipe, RunConfig, load_recipe, recipes
from text_to_lora.training.reconstruction_config import ReconstructionConfig

ROOT = Path(__file__).parents[2]
TOP_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP_PAGES, *sorted((ROOT / "docs").rglob("*.md"))]
# The log tells what was run at the time; its files and scripts may be gone since.
PRESENT_PAGES = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND: Any = typer.main.get_command(app)
CLI_PAGE = render_page((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))


def _blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def _commands(page: Path, program: str) -> list[str]:
    """Lines of shell blocks that call a program."""
    lines: list[str] = []
    for block in _blocks(page, "sh", "bash", "console"):
        lines += block.replace("\\\n", " ").splitlines()
    commands = (line.strip().removeprefix("$ ") for line in lines)
    return [line for line in commands if line.split(" ")[0] == program]


def _mentions(page: Path, program: str) -> list[str]:
    """Code spans in sentences and tables that begin with a program."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(rf"`({program} [^`\n]+)`", prose)


def _examples() -> list[str]:
    """Commands in the help of every verb."""
    helps = [COMMAND.help, *(verb.help for verb in verbs().values())]
    return [line.strip() for text in helps for line in text.splitlines() if " t2l " in f" {line}"]


def _find(words: list[str]) -> Any:
    """Take the verb off the front of the words and give its command."""
    command = COMMAND
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    return command


def _parse(line: str) -> None:
    """Read a command as typer does, without running it; its recipe and settings are read too."""
    program, *words = shlex.split(line, comments=True)
    assert program == "t2l", line
    words = words[: words.index("|")] if "|" in words else words
    command = _find(words)
    if words in (["--help"], ["--version"]):
        return
    with command.make_context("t2l", words) as context:
        values = context.params
    if command.name == "sft" and not values["recipe"].endswith(".yaml"):
        load_recipe(values["recipe"], values["settings"] or [])


def test_every_example_in_the_help_parses() -> None:
    examples = _examples()
    assert len(examples) >= 15
    for line in examples:
        _parse(line)


def test_a_wrong_command_would_be_found() -> None:
    for line in ("t2l genrate x", "t2l generate x --strnght 2", "t2l train sft mistral -o x"):
        with pytest.raises((KeyError, typer.TyperException, ValueError)):
            _parse(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_link_and_python_name_on_a_page_exists(page: Path) -> None:
    for line in _commands(page, "t2l"):
        _parse(line)
    for line in _mentions(page, "t2l"):
        words = shlex.split(line)[1:]
        if words[0] != "VERB":  # stands for any
            known = {option for parameter in _find(words).params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= known | {"--help"}, line
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in _commands(page, "make") + _mentions(page, "make"):
        words = shlex.split(line, comments=True)
        goals = {word for word in words[1:] if "=" not in word}
        assert goals and goals <= targets, line
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
    for block in _blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "text_to_lora":
                assert {alias.name for alias in node.names} <= set(text_to_lora.__all__), block


@pytest.mark.parametrize("page", PRESENT_PAGES, ids=lambda page: page.name)
def test_every_script_file_and_test_named_on_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = r"`((?:src|tests|docs|benchmarks|packages|examples)/[\w./-]+\.\w+)(?:::\w+)?`"
    names = set(re.findall(files, text))
    for line in _commands(page, "python") + _mentions(page, "python"):
        words = shlex.split(line)
        names |= {words[1]} if words[1].endswith(".py") else set()
        if words[1] == "-m" and words[2].startswith("benchmarks.") and "NAME" not in words[2]:
            names.add(f"{words[2].replace('.', '/')}.py")
    assert not {name for name in names if not (ROOT / name).is_file()}
    for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, test


def test_every_recipe_builds_and_is_documented() -> None:
    kinds: tuple[type[Recipe], ...] = (RunConfig, LibraryConfig, ReconstructionConfig)
    assert sum(len(recipes(kind.verb)) for kind in kinds) == len(recipes())
    for kind in kinds:
        for name in recipes(kind.verb):
            assert load_recipe(name, kind=kind).to_dict()["run"]["seed"] is not None
            assert f"\n| `{name}` | `t2l train {kind.verb}` | " in CLI_PAGE


def test_the_page_of_the_command_line_is_rendered_from_the_program() -> None:
    assert [line for line in CLI_PAGE.splitlines() if line.startswith("## ")] == [
        f"## t2l {verb}" for verb in verbs()
    ]
    for command in verbs().values():
        assert command.help.split("\n")[0] in CLI_PAGE
        options = [option for parameter in command.params for option in parameter.opts]
        assert all(option in CLI_PAGE for option in options if option.startswith("-"))
    with pytest.raises(ValueError, match=r"notes on verbs that do not exist: \['genrate'\]"):
        render_page("# Page\n\n## t2l genrate\n")


def test_the_site_lists_every_page_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [page for part in site["nav"] for entry in part.values() for page in entry]
    names = [name for page in pages for name in page.values()]
    assert sorted(names) == sorted(page.name for page in (ROOT / "docs").rglob("*.md"))


def test_every_public_name_is_on_the_page_of_the_python_interface() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE)
    for path in documented:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path
    names = {path.rpartition(".")[2] for path in documented}
    assert set(text_to_lora.__all__) - {"__version__"} <= names


def test_every_condition_is_in_the_glossary_and_in_the_table_of_the_command_line() -> None:
    glossary = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert re.search(rf"^{kind}\n:   A condition|\*{kind}\* is", glossary, re.MULTILINE), kind
        assert f"\n| `{kind}` | " in CLI_PAGE
