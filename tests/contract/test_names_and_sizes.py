"""Names say what a value holds; functions and files are short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from docs.hooks import verbs

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "benchmarks", "examples", "tests", "packages")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
SOURCES = [file for file in FILES if file.is_relative_to(ROOT / "src")]

# Words that say nothing of what a value holds. `_teller` and `Sight` were names of this project.
EMPTY_WORDS = frozenset(
    [
        "found",
        "own",
        "made",
        "told",
        "taught",
        "kept",
        "sure",
        "aside",
        "several",
        "teller",
        "sight",
    ]
)

MOST_FUNCTION_LINES = 60
MOST_ARGUMENTS = 12
MOST_FILE_LINES = 500
MOST_MEDIAN_LINES = 140

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of what a file defines; the name of a test is a sentence, and left out."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not name.startswith("test_"):
                    yield node.lineno, name
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


@cache
def _words(name: str) -> frozenset[str]:
    """The words of a name in snake_case or CamelCase, in lower case."""
    return frozenset(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def _empty_names(files: list[Path]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in files
        for line, name in sorted(_names(_tree(file)))
        if _words(name) & EMPTY_WORDS
    ]


@cache
def _entry_points() -> frozenset[str]:
    """Names of the functions behind the verbs, whose arguments are the options of the verb."""
    return frozenset(command.callback.__name__ for command in verbs().values())


def _functions(file: Path) -> Iterator[tuple[Function, int, int]]:
    """Functions with their lines and arguments; an entry point of typer counts without its signature."""
    is_verb = file.parent.name == "cli"
    for node in ast.walk(_tree(file)):
        if not isinstance(node, Function):
            continue
        lines = node.end_lineno - node.lineno + 1
        inputs = node.args
        named = [*inputs.posonlyargs, *inputs.args, *inputs.kwonlyargs]
        count = len(named) + (inputs.vararg is not None) + (inputs.kwarg is not None)
        if is_verb and node.name in _entry_points():
            lines, count = node.end_lineno - node.body[0].end_lineno, 0
        yield node, lines, count


def test_names_hold_no_word_that_says_nothing() -> None:
    names = _empty_names(FILES)
    assert not names, "\n".join(names)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def own_tasks(): pass", "own_tasks"),
        ("class FirstSight: pass", "FirstSight"),
        ("def load(*, kept=1): pass", "kept"),
        ("for row, found in rows: pass", "found"),
        ("self.is_told = 1", "is_told"),
        ("import rows as made", "made"),
        ("with x as several: pass", "several"),
    ],
)
def test_a_name_that_says_nothing_is_named(code: str, name: str) -> None:
    assert [word for _, word in _names(ast.parse(code)) if _words(word) & EMPTY_WORDS] == [name]
    assert not _words("owner_foundation") & EMPTY_WORDS


def test_functions_are_short_and_take_few_arguments() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines, {count} arguments"
        for file in SOURCES
        for node, lines, count in _functions(file)
        if lines > MOST_FUNCTION_LINES or count > MOST_ARGUMENTS
    ]
    assert not long, "\n".join(long)


def test_files_are_short() -> None:
    sizes = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert not [f for f, size in sizes.items() if size > MOST_FILE_LINES]
    assert median(sizes.values()) <= MOST_MEDIAN_LINES
