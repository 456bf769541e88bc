"""The guide to own tasks: its example loads, its recipe builds, its table is the script's."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.speed import training_cost
from text_to_lora.tasks.folder import load_folder
from text_to_lora.training.config import load_recipe

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "own-tasks.md").read_text(encoding="utf-8")


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    return str(block)


def test_the_example_folder_loads(tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(_block("json"), encoding="utf-8")
    (tmp_path / "data.jsonl").write_text(_block("jsonl"), encoding="utf-8")
    refund, product = load_folder(tmp_path)
    assert (refund.name, product.name) == ("refund", "product")
    assert refund.metric.labels == ("yes", "no")
    assert {refund.group, product.group} == {"support-mails"}
    assert [example.outputs[0] for example in refund.examples] == ["yes", "no"]
    assert product.examples[0].outputs == ("kettle", "the kettle")


def test_the_example_recipe_builds(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(_block("yaml"), encoding="utf-8")
    config = load_recipe(tmp_path / "my.yaml")
    assert config.base.name == "my-org/my-base"
    assert config.data.folders == (Path("my-tasks"),)
    assert not config.data.in_prompt


def test_the_table_of_costs_is_what_the_script_computes() -> None:
    (written,) = re.findall(
        r"<!-- training_cost -->\n(.*?)\n<!-- /training_cost -->", GUIDE, re.DOTALL
    )
    assert written == training_cost.table()
