"""What all tests share: markers that are off unless asked for, one thread, seeded randomness."""

from __future__ import annotations

import pytest
import torch

MARKERS = {
    "gpu": "needs an accelerator",
    "network": "reaches a model hub or a package index",
    "slow": "takes more than a few seconds",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, reason in MARKERS.items():
        parser.addoption(f"--run-{name}", action="store_true", help=f"run tests that: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    for name, reason in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {reason}; runs with --run-{name}")
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name in MARKERS:
            if item.get_closest_marker(name) and not config.getoption(f"--run-{name}"):
                item.add_marker(pytest.mark.skip(reason=f"runs with --run-{name}"))


@pytest.fixture
def generator() -> torch.Generator:
    """A random number generator of its own, seeded alike in every test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the global generator, which the random models of transformers draw from."""
    torch.manual_seed(0)
