"""A tiny base, a library of random adapters for it, and tasks with support and scored rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from text_to_lora.library.library import AdapterLibrary, LibraryEntry
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Metric, Row, Task
from tiny_models import adapters_of_texts, make_config, random_adapters

TOPICS = ("rivers", "poems", "prices", "birds", "engines", "letters")


@pytest.fixture(scope="session")
def base() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(make_config()).eval()


@pytest.fixture(scope="session")
def spec(base: PreTrainedModel) -> LoraSpec:
    targets = ["q_proj", "v_proj", "down_proj"]
    return LoraSpec.from_config(base.config, targets=targets, rank=3, alpha=6, rslora=True)


@pytest.fixture(scope="session")
def draw(spec: LoraSpec) -> Callable[..., LoraWeights]:
    """Give `count` random adapters, strong enough to change every logit."""

    def make(count: int, seed: int = 0) -> LoraWeights:
        return random_adapters(spec, count, torch.Generator().manual_seed(seed)).scale(2.0)

    return make


@pytest.fixture(scope="session")
def generate(spec: LoraSpec) -> Callable[[Sequence[str]], LoraWeights]:
    """Adapters of texts: equal texts give equal adapters."""
    return partial(adapters_of_texts, spec)


@pytest.fixture(scope="session")
def library(draw: Callable[..., LoraWeights]) -> AdapterLibrary:
    """Six adapters; those after the first have two descriptions."""
    entries = [
        LibraryEntry(topic, (f"Sort {topic}.", f"Tell what {topic} there are.")[: 1 + (i > 0)])
        for i, topic in enumerate(TOPICS)
    ]
    return AdapterLibrary(draw(len(TOPICS), seed=7), entries)


def make_task(name: str, definition: str, *, split: str = "dev", rows: int = 20) -> Task:
    examples = tuple(
        Example(f"{name} {idx}?", (f"answer {idx}", "other"), idx) for idx in range(rows)
    )
    descriptions = (f"{definition} Briefly.", f"{definition} Now.")
    return Task(name, definition, descriptions, examples, Metric("exact_match"), split=split)


@pytest.fixture(name="make_task")
def make_task_fixture() -> Callable[..., Task]:
    return make_task


@pytest.fixture
def tasks() -> list[Task]:
    return [
        make_task("poems", "Tell which poems rhyme."),
        make_task("coins", "Add up the prices of coins."),
        make_task("birds", "Name birds that sing."),
    ]


@pytest.fixture
def rows(tasks: list[Task]) -> list[Row]:
    """The scored rows of the tasks, in order."""
    return [Row(task, example) for task in tasks for example in task.scored()]


def same(one: LoraWeights, other: LoraWeights) -> bool:
    """Whether two batches of adapters are equal to the last bit."""
    return one.spec == other.spec and all(
        torch.equal(left[key], right[key])
        for left, right in ((one.a, other.a), (one.b, other.b))
        for key in left
    )


@pytest.fixture(name="same")
def same_fixture() -> Callable[[LoraWeights, LoraWeights], bool]:
    return same
