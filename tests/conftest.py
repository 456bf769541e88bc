"""What all tests share: one thread, seeded randomness, the command line, a look at imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from text_to_lora.cli import main
from tiny_models import (
    base_folder,
    described_hypernet_folder,
    hypernet_folder,
    idle_hypernet_folder,
)

__all__ = ["base_folder", "described_hypernet_folder", "hypernet_folder", "idle_hypernet_folder"]

# What generating an adapter never imports; each costs seconds.
TRAINING_MODULES = (
    "transformers.trainer",
    "datasets",
    "peft",
    "pandas",
    "sklearn",
    "scipy",
    "sentence_transformers",
)


# Marks of tests that run only when asked for by name, as in `pytest -m network`.
MARKS = {
    "gpu": "needs a GPU",
    "network": "reaches the model hub",
    "slow": "takes more than half a minute",
}


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    config.addinivalue_line(
        "markers", "engines: needs what `make engines` installs, else is skipped"
    )
    for name, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}; off unless asked for by -m")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("-m")
    for item in items:
        for name in MARKS.keys() & {mark.name for mark in item.iter_markers()}:
            if name not in asked:
                item.add_marker(pytest.mark.skip(reason=f"asked for by -m {name}"))


@pytest.fixture
def generator() -> torch.Generator:
    """A random number generator of its own, seeded alike in every test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the global generator, which the random models of transformers draw from."""
    torch.manual_seed(0)


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def t2l(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `t2l` with these arguments in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["t2l", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code is None or isinstance(left.value.code, int)
        return Done(left.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def assert_light() -> Callable[..., None]:
    """Run Python code in a fresh process; fail if it imports training libraries or `also`."""

    def check(code: str, also: tuple[str, ...] = ()) -> None:
        names = TRAINING_MODULES + also
        code += f"\nimport sys; print([name for name in {names} if name in sys.modules])"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr

    return check
