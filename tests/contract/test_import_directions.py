"""Who may import whom, read from the source: also what stands inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import text_to_lora

ROOT = Path(text_to_lora.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Part -> parts that it may import beside itself, errors, files, fields, choices and plots.
ALLOWED = {
    part: set(names.split())
    for part, names in {
        "errors": "",
        "files": "",
        "fields": "",
        "choices": "",
        "plots": "",
        "lora": "",
        "encoders": "",
        "tasks": "",
        "hypernet": "encoders lora",
        "models": "hypernet lora",
        "inspection": "hypernet lora",
        "inference": "lora tasks",
        "library": "lora",
        "evaluation": "inference library lora tasks",
        "generate": "__init__ encoders hypernet lora models refinement",
        "training": "encoders evaluation generate hypernet inference library lora models tasks",
        "refinement": "generate tasks training",
        "analysis": "encoders evaluation hypernet library lora tasks",
        "demo": "generate inference refinement",
        "export": "lora",
        "serving": "__init__ export generate inference lora models refinement tasks",
        "recipes": "",
        "cli": (
            "__init__ analysis demo encoders evaluation export generate hypernet "
            "inference inspection library lora models refinement serving tasks training"
        ),
        "__init__": "encoders generate hypernet lora models refinement",
    }.items()
}


def _part(path: Path) -> str:
    """The package or module of ours that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def _imports(path: Path, *, with_types: bool = True) -> frozenset[str]:
    """Full names of what a file imports; perhaps without what is for type checking alone."""
    return frozenset(_find_imports(path, with_types))


def _find_imports(path: Path, with_types: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {below for statement in node.body for below in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped and not with_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _parts_imported(path: Path) -> set[str]:
    """Parts of this package that a file imports."""
    parts = set()
    for name in _imports(path):
        first, _, rest = name.partition(".")
        if first == "text_to_lora":
            part = rest.partition(".")[0]
            exists = (ROOT / part).is_dir() or (ROOT / f"{part}.py").is_file()
            parts.add(part if part and exists else "__init__")
    return parts


@pytest.mark.parametrize("part", sorted({_part(path) for path in FILES}))
def test_a_part_imports_only_what_stands_below_it(part: str) -> None:
    allowed = ALLOWED[part] | {part, "errors", "files", "fields", "choices", "plots"}
    for path in FILES:
        if _part(path) == part:
            assert _parts_imported(path) <= allowed, path


def test_the_adapter_code_needs_torch_and_safetensors_alone() -> None:
    heavy = {"transformers", "peft", "datasets", "huggingface_hub", "accelerate"}
    for path in FILES:
        if _part(path) == "lora" and path.name != "outline.py":
            names = {name.partition(".")[0] for name in _imports(path, with_types=False)}
            assert not names & heavy, path


@pytest.mark.parametrize(
    "engine", ["vllm", "lm_eval", "fastapi", "starlette", "uvicorn", "gradio", "datasets", "mlx"]
)
def test_an_engine_of_others_is_imported_in_one_file(engine: str) -> None:
    users = [
        path
        for path in FILES
        if engine in {name.partition(".")[0] for name in _imports(path, with_types=False)}
    ]
    assert len(users) <= 1, users


def test_gguf_files_are_read_in_one_file_and_written_in_another() -> None:
    users = {
        f"{_part(path)}/{path.name}"
        for path in FILES
        if "gguf" in {name.partition(".")[0] for name in _imports(path, with_types=False)}
    }
    assert users == {"models/llama_gguf.py", "export/gguf.py"}


def test_peft_is_not_needed() -> None:
    for path in FILES:
        names = {name.partition(".")[0] for name in _imports(path, with_types=False)}
        assert "peft" not in names, path
