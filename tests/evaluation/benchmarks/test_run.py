from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytest.importorskip("lm_eval")

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.catalogue import BENCHMARKS, choose_benchmarks, donors
from text_to_lora.evaluation.benchmarks.harness import HFEngine
from text_to_lora.evaluation.benchmarks.questions import question_path, read_questions
from text_to_lora.evaluation.benchmarks.results import build_results
from text_to_lora.evaluation.benchmarks.run import evaluate_benchmarks, plan_task
from text_to_lora.evaluation.conditions import JUNK

from .conftest import ROWS, adapters_of

(EASY,) = choose_benchmarks(["arc_easy"])[0].tasks


@pytest.fixture
def run(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., list[str]]:
    """Score two rows of ARC-e; gives the lines of progress."""
    engine = HFEngine(base, tokenizer, batch_size=8)

    def call(**options: Any) -> list[str]:
        lines: list[str] = []
        given: dict[str, Any] = {
            "benchmarks": choose_benchmarks(["arc_easy"]),
            "output_dir": tmp_path / "out",
            "generate": lambda texts: adapters_of(base, texts),
            "conditions": ["base", "matched"],
            "rows_dir": ROWS,
            "limit": 2,
            "num_descriptions": 2,
        }
        evaluate_benchmarks(engine=engine, progress=lines.append, **(given | options))
        return lines

    return call


def test_texts_of_every_condition() -> None:
    plan = plan_task(EASY, ["junk", "base", "in_prompt", "matched", "shuffled"], count=2)
    first, second = EASY.descriptions[:2]
    assert [(c.name, c.adapter_text, c.system) for c in plan] == [
        ("base", "", ""),
        ("in_prompt", "", first),
        ("matched.1", first, ""),
        ("matched.2", second, ""),
        ("shuffled.1", donors(EASY)[0].descriptions[0], ""),
        ("shuffled.2", donors(EASY)[1].descriptions[0], ""),
        ("junk.1", JUNK[0], ""),
        ("junk.2", JUNK[1], ""),
    ]
    own = plan_task(EASY, ["in_prompt", "matched"], description="Pick one.")
    assert [(c.name, c.adapter_text, c.system) for c in own] == [
        ("in_prompt", "", "Pick one."),
        ("matched.1", "Pick one.", ""),
    ]


def test_finished_conditions_are_not_scored_again_and_new_ones_are(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert [line.split(":")[0] for line in run()] == [
        "arc_easy, base",
        "arc_easy, matched.1",
        "arc_easy, matched.2",
    ]
    assert run() == ["arc_easy: 3 of 3 finished before"]
    question_path(tmp_path / "out", "arc_easy", "matched.1").unlink()
    assert [line.split(":")[0] for line in run(conditions=["base", "matched", "junk"])] == [
        "arc_easy",
        "arc_easy, matched.1",
        "arc_easy, junk.1",
        "arc_easy, junk.2",
    ]


def test_tables_are_remade_without_a_model(run: Callable[..., list[str]], tmp_path: Path) -> None:
    run()
    out = tmp_path / "out"
    before = {name: (out / name).read_text() for name in ("benchmarks.json", "benchmarks.md")}
    for name in before:
        (out / name).unlink()
    build_results(out)
    assert {name: (out / name).read_text() for name in before} == before
    results = json.loads(before["benchmarks.json"])
    easy = results["benchmarks"]["arc_easy"]
    logged = easy["tasks"]["arc_easy"]["conditions"]["matched.1"]
    questions, _ = read_questions(question_path(out, "arc_easy", "matched.1"))
    assert logged["value"] == logged["scores"]["acc,none"]["value"]
    assert logged["value"] == sum(q.value for q in questions) / 2
    assert results["settings"]["lm_eval"] and results["settings"]["prompt_form"] == "chat"
    assert results["status"] == "verified"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 1}, "holds benchmarks with another 'limit': 2, not 1"),
        ({"shots": 0}, "another 'shots'"),
        ({"description": "Pick."}, "'arc_easy', 'matched.1' of another description"),
        ({"rows_dir": None}, "another 'rows'"),
        ({"provenance": {"hypernet": "x"}}, "another 'provenance'"),
    ],
)
def test_another_evaluation_does_not_mix_with_this_one(
    run: Callable[..., list[str]], options: dict[str, Any], message: str
) -> None:
    run(conditions=["base", "matched"], num_descriptions=1)
    with pytest.raises(ConfigError, match=message):
        run(**options)


def test_changed_rows_do_not_mix_with_earlier_ones(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    run(conditions=["base"])
    changed = tmp_path / "rows"
    changed.mkdir()
    rows = json.loads((ROWS / "arc_easy.test.json").read_text())
    (changed / "arc_easy.test.json").write_text(json.dumps(rows[1:]))
    with pytest.raises(ConfigError, match="holds 'arc_easy' on other rows"):
        run(conditions=["base"], rows_dir=changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditions": ["oracle"]}, "unknown condition 'oracle'; choose among base, in_prompt"),
        ({"conditions": ["multitask"]}, "condition 'multitask' needs --multitask"),
        ({"generate": None, "conditions": ["junk"]}, "condition 'junk' needs a hypernetwork"),
        ({"num_descriptions": 4}, "number of descriptions is 4; give 1 to 3"),
        ({"description": " "}, "the description is empty"),
        ({"limit": 0}, "limit is 0; give at least 1"),
        ({"shots": -1}, "number of examples is -1; give at least 0"),
        (
            {"benchmarks": [b for b in BENCHMARKS if b.runs_code]},
            "humaneval and mbpp run programs that the model wrote; pass --allow-code-execution",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_written(
    run: Callable[..., list[str]], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**options)
    assert not (tmp_path / "out").exists()
