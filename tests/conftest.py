"""What all tests share: one thread, seeded randomness, a look at what a process imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

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


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """A random number generator of its own, seeded alike in every test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the global generator, which the random models of transformers draw from."""
    torch.manual_seed(0)


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
