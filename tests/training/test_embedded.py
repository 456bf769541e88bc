"""The way from a data folder to the shipped weights, with everything tiny."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from text_to_lora.errors import ConfigError
from text_to_lora.files import read_json
from text_to_lora.lora.peft_format import load_adapter
from text_to_lora.serving.generator import TextToLora
from text_to_lora.training import embedded
from text_to_lora.training.base import BasePlan
from text_to_lora.training.card import render_card

PLAN = BasePlan(text_steps=2, instruction_steps=2, text_rows=2, instruction_rows=4, window=16)
SETTINGS = (
    "encoder.name=hash",
    "hypernet.latent_size=8",
    "hypernet.head_in_size=8",
    "adapter.rank=2",
    "data.family_tasks=20",
    "data.validation_family_tasks=12",
    "data.tasks_per_batch=4",
    "data.eval_rows=8",
    "data.max_prompt_tokens=24",
    "data.max_answer_tokens=8",
    "data.max_description_tokens=16",
    "run.steps=2",
)


def silent(line: str) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty training tasks of as many groups, four unseen ones, a page of text."""
    root = tmp_path_factory.mktemp("data")
    rng = Random(0)
    letters = "abcdefghilmnoprstu"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 8))) for _ in range(300)]

    def sentence() -> str:
        return " ".join(rng.choices(words, k=6))

    tasks: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    splits: dict[str, list[str]] = {"train": [], "dev_heldout": []}
    for place in range(64):
        name, labels = f"task{place}", [f"{words[2 * place]}", f"{words[2 * place + 1]}"]
        splits["train" if place < 60 else "dev_heldout"].append(name)
        tasks.append(
            {
                "id": name,
                "descriptions": [
                    f"Say {labels[0]} or {labels[1]}.",
                    f"Which: {', '.join(labels)}?",
                ],
                "metric": {"kind": "classification", "labels": labels},
                "group": f"group{place}",
                "license": "CC0",
            }
        )
        rows += [
            {"task_id": name, "idx": i, "input": sentence(), "outputs": [rng.choice(labels)]}
            for i in range(20)
        ]
    (root / "tasks").mkdir()
    (root / "tasks" / "tasks.json").write_text(json.dumps(tasks))
    (root / "tasks" / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "splits.json").write_text(json.dumps(splits))
    (root / "pretrain").mkdir()
    page = pa.Table.from_pylist([{"text": " ".join(sentence() for _ in range(100))}])
    for part in ("train", "valid"):
        pq.write_table(page, root / "pretrain" / f"{part}.parquet")
    return root


@pytest.fixture(scope="module")
def output(data: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its base."""
    output = tmp_path_factory.mktemp("run")
    embedded.build_base(
        data, encoder_folder, output, PLAN, num_family_tasks=20, vocab_size=120, report=silent
    )
    return output


def test_the_base_loads_in_bfloat16_and_says_how_it_was_made(output: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(output / "base")
    assert base.dtype == torch.bfloat16 and base.config.is_decoder
    facts = read_json(output / "base" / "training.json")
    assert facts["steps"] == 4 and facts["bits_per_character"] > 0
    assert facts["num_tasks"] < 60  # whole groups are set aside


def test_a_base_that_does_not_use_its_prompt_fails_the_gate(data: Path, output: Path) -> None:
    with pytest.raises(ConfigError, match=r"changes the base's answer NLL by .* train the base"):
        embedded.check_gate(data, output, report=silent)
    report = read_json(output / "gate" / "report.json")
    trained = {f"task{place}" for place in range(60)}
    assert set(report["tasks"]) < trained  # the unseen tasks are not looked at


def test_adapters_are_trained_on_validated_rates_then_packed_and_reported(
    data: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"embedded": (1e-3, 1e-2), "embedded-multitask": (1e-3,)}
    monkeypatch.setattr(embedded, "RATES", rates)
    embedded.train_adapters(data, output, settings=SETTINGS, trial_steps=1, report=silent)
    tried = read_json(output / "rates.json")
    for recipe, of_recipe in rates.items():
        losses = {rate: tried["losses"][f"{recipe}-{rate:g}"] for rate in of_recipe}
        best = tried["best"][recipe]
        assert losses[best] == min(losses.values())
        assert read_json(output / recipe / "config.json")["optimizer"]["lr"] == best

    package = embedded.gather_package(output)
    t2l = TextToLora.from_pretrained(package / "hypernet")
    assert t2l.spec.base.name == "text-to-lora-embedded"
    base = AutoModelForCausalLM.from_pretrained(package / "base")
    multitask = load_adapter(package / "multitask", base_config=base.config)
    assert multitask.num_adapters == 1 and multitask.dtype == torch.bfloat16

    embedded.report_heldout(data, output, report=silent)
    report = read_json(output / "heldout" / "report.json")
    assert sorted(report["tasks"]) == ["task60", "task61", "task62", "task63"]
    assert {"base", "in_prompt", "multitask", "matched", "shuffled", "junk"} <= {
        *report["conditions"]
    }

    with suppress(ConfigError):  # so tiny a base fails it, which its report says all the same
        embedded.check_gate(data, output, report=silent)
    facts = embedded.write_facts(data, output)
    card = render_card(output)
    for figure in (f"{facts['hypernet_parameters']:,} parameters", "| matched |", "CC0"):
        assert figure in card
