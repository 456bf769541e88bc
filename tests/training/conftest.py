"""A tiny base, a few tasks in our own folder form, and settings of runs on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from text_to_lora.training import reconstruction, sft
from text_to_lora.training.config import RunConfig
from tiny_runs import merge


@pytest.fixture(autouse=True)
def plots(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Leave out what takes most of the time of a tiny run; counts how often it is asked for."""
    asked: list[int] = []
    for module, name in ((sft, "plot_history"), (reconstruction, "plot_reconstruction")):
        monkeypatch.setattr(module, name, lambda history, path: asked.append(len(history)))
    return asked


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny uncased text encoder in BERT's form, its vocabulary single characters."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[SEP]", *letters, *(f"##{x}" for x in letters), *".,:!?"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=256,
    )
    config.save_pretrained(folder)
    torch.manual_seed(0)
    save_file(BertModel(config, add_pooling_layer=False).state_dict(), folder / "model.safetensors")
    return folder


ANSWERS = ("red", "green", "blue", "grey", "pink", "brown")


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tasks of twenty rows; every answer of task i is the i-th colour."""
    folder = tmp_path_factory.mktemp("tasks")
    tasks = [
        {
            "id": f"say-{answer}",
            "descriptions": [f"Say {answer}.", f"The answer is always {answer}."],
            "metric": {"kind": "classification", "labels": [answer, "black"]},
            "group": f"{answer}s",
        }
        for answer in ANSWERS
    ]
    rows = [
        {"task_id": f"say-{answer}", "idx": i, "input": "x" * (3 * i % 20 + 1), "outputs": [answer]}
        for answer in ANSWERS
        for i in range(20)
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="session")
def settings(base_folder: Path, task_folder: Path) -> Callable[..., RunConfig]:
    """Settings of a run of seconds; `changes` are sections over them."""

    def make(**changes: dict[str, Any]) -> RunConfig:
        sections: dict[str, dict[str, Any]] = {
            "base": {"name": str(base_folder), "dtype": "float32"},
            "adapter": {"targets": "all-linear", "rank": 2, "alpha": 4},
            "encoder": {"name": "hash"},
            "hypernet": {"latent_size": 8, "head_in_size": 16, "dropout": 0.2},
            "data": {
                "folders": [str(task_folder)],
                "validation_one_in": 3,
                "family_tasks": 0,
                "family_share": 0,
                "tasks_per_batch": 3,
                "examples_per_task": 2,
                "max_prompt_tokens": 64,
                "max_answer_tokens": 16,
                "max_description_tokens": 64,
                "eval_rows": 8,
            },
            "optimizer": {"lr": 0.01, "accumulation": 2},
            "run": {
                "steps": 6,
                "log_every": 2,
                "eval_every": 2,
                "save_every": 2,
                "device": "cpu",
                "select_by": "mean",
            },
        }
        return RunConfig.from_dict(merge(sections, changes))

    return make
