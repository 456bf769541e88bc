"""A library under add, remove, export and kill -9: it is always as it was before or after a command."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from benchmarks.studies.crash import run_in_child
from text_to_lora.library.export import export_library
from text_to_lora.library.folders import find_adapters
from text_to_lora.library.import_adapters import import_adapters
from text_to_lora.library.library import load_library, save_library
from text_to_lora.lora import LoraSpec, LoraWeights, load_adapter, save_adapter
from tiny_models import make_config

CONFIG = make_config()
SPEC = LoraSpec.from_config(CONFIG, targets=["q_proj"], rank=1, name="base")
NAMES = ("one", "two", "three", "four")
KILL = st.none() | st.integers(1, 40)
"""Number of the write before which a command is killed; None lets it end."""


def make_adapter(value: int) -> LoraWeights:
    """An adapter whose numbers are all the same."""
    (group,) = SPEC.groups
    layers = len(group.layers)
    a = torch.full((1, layers, 1, group.in_features), float(value))
    return LoraWeights(
        SPEC, {group.key: a}, {group.key: torch.ones(1, layers, group.out_features, 1)}
    )


def value_of(weights: LoraWeights) -> int:
    (values,) = weights.delta(SPEC.groups[0].key).unique().tolist()
    return round(values / SPEC.scaling)


class LibraryMachine(RuleBasedStateMachine):
    """Commands on one library, some of which are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Path(tempfile.mkdtemp())
        self.library, self.exported = self.work / "out" / "library", self.work / "out" / "exported"
        self.expected: dict[str, int] = {}
        self.num_sources = 0

    def teardown(self) -> None:
        shutil.rmtree(self.work)

    def read(self) -> dict[str, int]:
        """The tasks of the library and the values of their adapters."""
        if not self.library.exists():
            return {}
        library = load_library(self.library, base_config=CONFIG)
        return {name: value_of(library.adapter(name)) for name in library.names}

    def run(
        self, command: Callable[[], object], after: Mapping[str, int], kill: int | None
    ) -> None:
        """Run a command that makes the library `after`, or is killed: then it is that or as it was."""
        if kill is None:
            command()
        else:
            log = self.work / "log"
            ending = run_in_child(command, self.work / "out", log=log, kill_at_write=kill)
            assert ending.status in (0, -9), log.read_text()
            if self.read() == self.expected and ending.status == -9:
                return
        self.expected = dict(after)

    @rule(values=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 99), min_size=1), kill=KILL)
    def add(self, values: dict[str, int], kill: int | None) -> None:
        self.num_sources += 1
        source = self.work / f"source{self.num_sources}"
        for name, value in values.items():
            save_adapter(make_adapter(value), source / name)

        def command() -> None:
            read_base: Any = lambda name, revision: CONFIG  # noqa: E731
            texts = {name: [f"Do {name}."] for name in values}
            options: dict[str, Any] = {
                "read_base": read_base,
                "descriptions": texts,
                "overwrite": True,
            }
            import_adapters(find_adapters(source), self.library, **options)

        self.run(command, self.expected | values, kill)

    @precondition(lambda self: len(self.expected) > 1)
    @rule(data=st.data(), kill=KILL)
    def remove(self, data: st.DataObject, kill: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        rest = {other: value for other, value in self.expected.items() if other != name}

        def command() -> None:
            selected = load_library(self.library).select(list(rest))
            save_library(selected, self.library, overwrite=True)

        self.run(command, rest, kill)

    @precondition(lambda self: bool(self.expected))
    @rule(kill=KILL)
    def export(self, kill: int | None) -> None:
        def command() -> None:
            export_library(load_library(self.library), self.exported, overwrite=True)

        self.run(command, self.expected, kill)
        if kill is None:
            for name, value in self.expected.items():
                assert value_of(load_adapter(self.exported / name, base_config=CONFIG)) == value

    @invariant()
    def is_what_is_expected(self) -> None:
        assert self.read() == self.expected

    @invariant()
    def no_exported_folder_is_half_written(self) -> None:
        for folder in self.exported.glob("[!.]*/"):
            load_adapter(folder, base_config=CONFIG)


TestLibraryMachine = pytest.mark.skipif(sys.platform != "linux", reason="forks processes")(
    LibraryMachine.TestCase
)
TestLibraryMachine.settings = settings(
    max_examples=8,
    stateful_step_count=8,
    phases=[Phase.generate],  # a failure takes minutes to shrink
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
