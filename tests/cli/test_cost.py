from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from text_to_lora.encoders import load_encoder
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.lora import LoraSpec
from tiny_models import make_config


@pytest.fixture
def config_folder(tmp_path: Path) -> Path:
    """A folder that holds config.json alone."""
    make_config().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_costs_follow_from_config_json_alone(t2l: Any, config_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    done = t2l(
        *("cost", "--base", config_folder, "--library-size", 50, "--rank", 4, "--head", "rank"),
        *("--targets", "q_proj", "--prompt-tokens", 20, "--answer-tokens", 3, "--shots", 2),
        *("--questions", 7, "--description-tokens", 5, "--json", file),
    )
    assert (done.code, done.err) == (0, "")
    facts = json.loads(file.read_text())
    assert facts["tokens"] == {"prompt": 20, "answer": 3, "shots": 2, "description": 5}
    assert facts["adapter"]["parameters"] == 2 * 4 * (32 + 32)
    assert facts["library"]["bytes"] == 50 * 2 * facts["adapter"]["parameters"]
    assert facts["hypernetwork"]["head"] == "rank"
    ours, zero = facts["ways"]["T2L"], facts["ways"]["zero-shot"]
    assert ours["flops_per_question"] - zero["flops_per_question"] == 2 * 512 * 22
    first = ours["flops_per_task"] + ours["flops_per_question"]
    assert ours["flops_first_question"] == first
    assert ours["flops_per_question_amortised"] == pytest.approx(
        ours["flops_per_task"] / 7 + ours["flops_per_question"]
    )
    for name in facts["ways"]:
        assert f"\n{name} " in done.out
    assert "library of 50: 51.2 kB" in done.out


def test_the_embedded_base_brings_its_hypernetwork(
    t2l: Any, config_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = LoraSpec.from_config(AutoConfig.from_pretrained(config_folder), targets=["q_proj"])
    sizes = HypernetConfig(head="shared", embedding_dim=32, latent_size=8, head_in_size=8)
    hypernet = Hypernetwork.from_config(sizes, spec, torch.Generator().manual_seed(0))
    encoder = replace(load_encoder("hash").config, kind="minilm")
    folder = save_hypernet(tmp_path / "hypernet", hypernet, encoder, training={})
    monkeypatch.setattr("text_to_lora.models.find.fetch_base", lambda: config_folder)
    monkeypatch.setattr("text_to_lora.models.find.embedded_folder", lambda part: folder)
    done = t2l("cost", "--base", "embedded", "--json", tmp_path / "cost.json")
    assert done.code == 0, done.err
    facts = json.loads((tmp_path / "cost.json").read_text())
    assert facts["hypernetwork"]["parameters"] == hypernet.num_parameters
    assert facts["adapter"]["parameters"] == spec.num_parameters
    assert facts["encoder"]["name"] == "all-MiniLM-L6-v2"
    assert facts["base"]["name"] == "embedded"


def test_mean_lengths_come_from_tasks(t2l: Any, base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    task = {"id": "red", "descriptions": ["Say red."], "metric": {"kind": "exact_match"}}
    rows = [
        {"task_id": "red", "idx": i, "input": "x" * n, "outputs": ["red"]}
        for i, n in enumerate((4, 10))
    ]
    (folder / "tasks.json").write_text(json.dumps([task]))
    (folder / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = t2l("cost", "--base", base_folder, "--data", folder)
    assert done.code == 0, done.err  # the tokenizer has one token a byte
    assert "7 a question, 3 an answer, 3 shots, 8 a description" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--base", "BASE", "--targets", "q_pro"],
            "no target module 'q_pro' (did you mean 'q_proj'",
        ),
        (["--base", "no-such"], "unknown base model 'no-such'"),
        (["--base", "BASE", "--model", "nowhere"], "unknown hypernetwork 'nowhere'"),
        (["--base", "BASE", "--shots", "0"], "Invalid value for '--shots'"),
        (["--base", "BASE", "--data", "no-such"], "no-such"),
    ],
)
def test_wrong_arguments_are_one_line(
    t2l: Any, config_folder: Path, arguments: list[str], message: str
) -> None:
    done = t2l("cost", *(str(config_folder) if text == "BASE" else text for text in arguments))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and message in done.err
    assert done.err.count("\n") == 1


def test_a_folder_without_tokenizer_measures_no_tasks(
    t2l: Any, config_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tasks.json").write_text(
        json.dumps([{"id": "a", "descriptions": ["Say a."], "metric": {"kind": "exact_match"}}])
    )
    row = {"task_id": "a", "idx": 0, "input": "x", "outputs": ["a"]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    done = t2l("cost", "--base", config_folder, "--data", tmp_path)
    assert done.code == 2 and "give the numbers of tokens instead of --data" in done.err
    assert done.err.count("\n") == 1


def test_a_name_that_the_hub_does_not_give_is_one_line(
    t2l: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    done = t2l("cost", "--base", "nobody/nothing")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "cannot get base model 'nobody/nothing' from the hub: no network" in done.err
