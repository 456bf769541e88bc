from __future__ import annotations

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.catalogue import (
    BENCHMARKS,
    NAMES,
    choose_benchmarks,
    donors,
)

TASKS = [task for benchmark in BENCHMARKS for task in benchmark.tasks]


def test_the_papers_ten_and_three_domains_are_there_in_its_order() -> None:
    assert (
        *("arc_challenge", "arc_easy", "boolq", "gsm8k", "hellaswag", "openbookqa", "piqa"),
        *("winogrande", "humaneval", "mbpp", "medqa", "pubmedqa", "legalbench"),
    ) == NAMES


def test_every_task_has_three_descriptions_of_its_own() -> None:
    texts = [text for task in TASKS for text in task.descriptions]
    assert all(len(task.descriptions) == 3 for task in TASKS)
    assert len(set(texts)) == len(texts)
    assert all(6 <= len(text.split()) <= 40 for text in texts)


def test_donors_are_of_other_families_and_each_of_another_one() -> None:
    for task in TASKS:
        families = [donor.family for donor in donors(task)]
        assert task.family not in families
        assert len(set(families)) == len(families) >= 3


def test_benchmarks_are_chosen_by_name_in_the_order_of_the_catalogue() -> None:
    assert [b.name for b in choose_benchmarks(["mbpp", "boolq"])] == ["boolq", "mbpp"]
    assert choose_benchmarks(None) == list(BENCHMARKS)
    with pytest.raises(ConfigError, match="unknown benchmark 'glue'; choose among arc_challenge"):
        choose_benchmarks(["glue"])


def test_only_benchmarks_of_code_run_code() -> None:
    assert [b.name for b in BENCHMARKS if b.runs_code] == ["humaneval", "mbpp"]
