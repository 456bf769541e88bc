"""The guide to own tasks: its commands run, its example loads, its recipe builds, its table is right."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import training_cost
from chat_server import serve
from made_up_tasks import make_tasks
from text_to_lora.cli import main
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


def test_the_table_of_costs_is_what_the_script_computes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (written,) = re.findall(
        r"<!-- training_cost -->\n(.*?)\n<!-- /training_cost -->", GUIDE, re.DOTALL
    )
    monkeypatch.setattr(sys, "argv", ["training_cost"])
    training_cost.main()
    assert written == capsys.readouterr().out.strip()


TEXTS = [row.input.rstrip(".?") for row in make_tasks()[0].examples][:60]
ROWS = {
    "reviews.csv": lambda i, text: f'"A film like ""{text}"", {i}",{i % 2}',
    "headlines.csv": lambda i, text: f"{text};Number {i};{('sport', 'politics')[i % 2]}",
    "questions.tsv": lambda i, text: f"{text}\t{('place', 'person')[i % 2]}",
    "pairs.csv": lambda i, text: f"{text},Somebody sees that {text},{i % 3}",
    "products.csv": lambda i, text: f"{text},{text.split()[-1]};thing {i}",
}
TINY = (
    *("encoder.name=hash", "adapter.rank=2", "hypernet.latent_size=8", "hypernet.head_in_size=8"),
    *("tokens.attention_size=8", "tokens.layer_stride=1", "base.dtype=float32"),
    *("data.family_tasks=6", "data.validation_family_tasks=0", "data.tasks_per_batch=2"),
    *("data.eval_rows=4", "optimizer.accumulation=1", "data.max_prompt_tokens=120"),
    *("run.steps=12", "run.eval_every=12", "run.save_every=12"),
)


def _answer(request: dict[str, Any]) -> str:
    """A model that writes three descriptions of a task, and knows each task again by its name."""
    text = request["messages"][1]["content"]
    if text.startswith("Description: "):
        name = text.split()[1]
        (number,) = re.findall(rf"^(\d+)\. [^\n]*{name}", text, re.MULTILINE) or [0]
        return json.dumps({"candidate": int(number)})
    definition = text.split("Definition: ")[1].split("\n")[0]
    word = next(
        word for word in re.findall(r"\w{4,}", definition)[::-1] if word not in "Answer with"
    )
    forms = ("what is it", "as short as you can", "for someone who has never seen one")
    return json.dumps({"descriptions": [f"{word} {form}" for form in forms]})


def _commands() -> list[list[str]]:
    section = GUIDE.split("## From five CSV files to a hypernetwork")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("t2l ")]


def test_the_commands_lead_from_five_files_to_a_trained_and_evaluated_hypernetwork(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, header in re.findall(r"^(?:```csv\n)?(\w+\.[ct]sv): +(\S.*)$", GUIDE, re.MULTILINE):
        lines = [header, *(ROWS[name](i, text) for i, text in enumerate(TEXTS))]
        (tmp_path / name).write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    settings = [
        part for change in (f"base.name={base_folder}", *TINY) for part in ("--set", change)
    ]
    with serve(_answer) as server:
        more = {
            "describe": ["--api-base", server.url, "--encoder", "hash", "-n", "3"],
            "check": settings,
            "train": settings,
            "eval": ["--rows", "1", "--max-new-tokens", "2"],
            "run": ["--max-new-tokens", "2"],
        }
        for command in _commands():
            key = command[1] if command[0] == "tasks" else command[0]
            monkeypatch.setattr(sys, "argv", ["t2l", *command, *more.get(key, [])])
            with pytest.raises(SystemExit) as left:
                main()
            assert not left.value.code, command
    tasks = load_folder("mine")
    assert [task.name for task in tasks] == [name.partition(".")[0] for name in ROWS]
    assert tasks[1].definition.endswith("Answer with one of: politics, sport.")
    assert tasks[4].examples[0].outputs == (TEXTS[0].split()[-1], "thing 0")
    assert min(len(task.descriptions) for task in tasks) >= 2
    assert "matched" in Path("results/report.md").read_text()
    assert Path("check.html").is_file() and Path("runs/mine/hypernet/model.safetensors").is_file()
