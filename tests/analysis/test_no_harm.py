"""Harm is what a loop finds: other tasks' rows, their own description in the prompt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from text_to_lora.analysis.no_harm import Judged, choose_other_rows, run_harm
from text_to_lora.analysis.plots import plot_harm
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.generate import TextToLora
from text_to_lora.lora.apply import adapted
from text_to_lora.models.base import load_base
from text_to_lora.tasks.task import Example, Metric, Task

PLAIN = "The old dog sleeps by the door and dreams."


def make_task(name: str) -> Task:
    examples = tuple(Example(f"{name} {idx}", (name,), idx) for idx in range(20))
    return Task(name, f"Say {name}.", (), examples, Metric("exact_match"), group=name[0])


TASKS = [make_task(name) for name in ("red", "green", "blue")]


@pytest.fixture(scope="module")
def parts(base_folder: Path, hypernet_folder: Path) -> dict[str, Any]:
    t2l = TextToLora.from_pretrained(hypernet_folder)
    base, tokenizer = load_base(base_folder, spec=t2l.spec)
    rows = choose_other_rows(TASKS, num_tasks=3, rows_per_task=2, seed=0, examples=Task.validation)
    return {
        "base": base,
        "tokenizer": tokenizer,
        "adapters": [Judged("one", {"of": 1}, "r"), Judged("two", {"of": 2})],
        "weights": t2l.generate(["Say red.", "Shout."]).weights.unbind(),
        "rows": rows,
        "texts": [PLAIN, PLAIN[::-1]],
        "max_length": 128,
    }


def test_harm_is_the_difference_of_told_likelihoods_on_other_groups(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    result = run_harm(**parts, output_dir=tmp_path)
    assert sorted(result["adapters"]["one"]["by_task"]) == ["blue", "green"]  # not its own group
    assert sorted(result["adapters"]["two"]["by_task"]) == ["blue", "green", "red"]
    scorer = Scorer(parts["base"], parts["tokenizer"], max_new_tokens=0, max_length=128)
    rows = [row for row in parts["rows"] if row.task.name == "blue"]
    definitions = ["Say blue."] * len(rows)
    after = scorer.score(rows, weights=parts["weights"][1], prompt_texts=definitions)
    before = scorer.score(rows, prompt_texts=definitions)
    expected = sum(a.nll - b.nll for a, b in zip(after, before, strict=True)) / len(rows)
    assert result["adapters"]["two"]["by_task"]["blue"] == pytest.approx(expected, abs=1e-4)
    for entry in result["adapters"].values():
        worst = max(entry["by_task"].items(), key=lambda item: item[1])
        assert (entry["worst_task"]["task"], entry["worst_task"]["harm"]) == worst
    plot_harm(result, tmp_path / "harm.png")
    assert (tmp_path / "harm.png").read_bytes()[:4] == b"\x89PNG"
    assert "| two |" in (tmp_path / "harm.md").read_text()


def test_kl_and_perplexity_are_those_of_torch(parts: dict[str, Any], tmp_path: Path) -> None:
    one_text = parts | {"texts": [PLAIN]}
    entry = run_harm(**one_text, output_dir=tmp_path)["adapters"]["two"]
    ids = torch.tensor([parts["tokenizer"](PLAIN, add_special_tokens=False).input_ids])
    with torch.no_grad():
        before = log_softmax(parts["base"](ids).logits[:, :-1], -1)
        with adapted(parts["base"], parts["weights"][1]):
            after = log_softmax(parts["base"](ids).logits[:, :-1], -1)
    expected = kl_div(after[0], before[0], log_target=True, reduction="batchmean")
    assert entry["kl"] == pytest.approx(float(expected), rel=1e-4)
    nlls = [-float(p.gather(-1, ids[:, 1:, None]).mean()) for p in (before, after)]
    assert entry["perplexity_ratio"] == pytest.approx(math.exp(nlls[1] - nlls[0]), rel=1e-4)


def test_an_adapter_that_changes_nothing_does_no_harm(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    idle = [parts["weights"][0].scale(0.0)]
    given = parts | {"adapters": parts["adapters"][:1], "weights": idle}
    result = run_harm(**given, output_dir=tmp_path)
    assert result["overall"]["harm"]["mean"] == pytest.approx(0, abs=1e-5)
    assert result["overall"]["kl"]["mean"] == pytest.approx(0, abs=1e-5)


def test_finished_adapters_are_not_measured_again(parts: dict[str, Any], tmp_path: Path) -> None:
    lines: list[str] = []
    first = run_harm(**parts, output_dir=tmp_path)
    (tmp_path / "adapters" / "002.json").unlink()
    again = run_harm(**parts, output_dir=tmp_path, progress=lines.append)
    assert again == first
    assert lines == ["1/2 one: finished before", "2/2 two"]
    with pytest.raises(
        ConfigError, match=r"001\.json' has identity .*; delete it or choose another"
    ):
        run_harm(**parts | {"texts": [PLAIN]}, output_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": ["ab"]}, "the plain text 'ab' has 2 tokens; give 8 or more"),
        ({"adapters": [Judged("one", {}), Judged("one", {})]}, "two adapters have the same name"),
        ({"adapters": [Judged("one", {})]}, "1 names for 2 adapters"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    parts: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_harm(**parts | change, output_dir=tmp_path)


def test_other_tasks_are_of_unlike_groups() -> None:
    tasks = [*TASKS, make_task("ruby"), make_task("rose")]
    rows = choose_other_rows(tasks, num_tasks=9, rows_per_task=1, seed=1, examples=Task.validation)
    assert sorted(row.task.name[0] for row in rows) == ["b", "g", "r"]
    with pytest.raises(ConfigError, match="1 tasks of unlike source groups"):
        choose_other_rows(tasks[:1], num_tasks=9, rows_per_task=1, seed=1, examples=Task.validation)
