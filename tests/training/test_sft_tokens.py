"""Runs in which the hypernetwork reads the base's token states of the descriptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora import TextToLora, load_base
from text_to_lora.hypernet import load_hypernet
from text_to_lora.training import sft as trainer_module
from text_to_lora.training.config import RunConfig
from text_to_lora.training.sft import train_sft

Settings = Callable[..., RunConfig]
TOKENS: dict[str, Any] = {
    "read": True,
    "attention_size": 8,
    "layer_stride": 1,
    "direct": ["self_attn.o_proj", "mlp.down_proj"],
}
TEXTS = ["Say red.", "The answer is always brown."]


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "plot_history", lambda history, path: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """A run of six steps with a checkpoint after every second."""
    config = settings(tokens=TOKENS, run={"steps": 6, "eval_every": 3, "save_every": 2})
    return train_sft(config, output_dir=tmp_path_factory.mktemp("run") / "run").parent


def test_a_run_trains_every_part_that_reads_tokens(
    trained: Path, settings: Settings, tmp_path: Path
) -> None:
    config = settings(tokens=TOKENS, run={"steps": 1, "eval_every": 1, "save_every": 1})
    early = train_sft(config, output_dir=tmp_path / "run").parent
    first = load_hypernet(early / "last").hypernet.state_dict()
    last = load_hypernet(trained / "last").hypernet.state_dict()
    parts = [name for name in last if name.startswith(("attention.", "memory."))]
    assert parts
    assert [name for name in parts if torch.equal(first[name], last[name])] == []


def test_an_interrupted_run_ends_with_the_same_bytes(
    trained: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tokens=TOKENS, run={"steps": 6, "eval_every": 3, "save_every": 2})
    batches = trainer_module.TrainingBatches.__getitem__

    def stop(self: Any, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return batches(self, step)

    with monkeypatch.context() as context:
        context.setattr(trainer_module.TrainingBatches, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            train_sft(config, output_dir=tmp_path / "run")
    train_sft(config, output_dir=tmp_path / "run")
    for part in ("hypernet", "last"):
        name = Path(part) / "model.safetensors"
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


def test_generating_loads_the_base_or_takes_the_one_that_is_there(
    trained: Path, base_folder: Path
) -> None:
    t2l = TextToLora.from_pretrained(trained / "hypernet")
    expected = t2l.generate(TEXTS).weights
    base = load_base(base_folder)
    for other in (
        TextToLora.from_pretrained(trained / "hypernet", base=base),
        TextToLora.from_pretrained(trained / "hypernet"),
    ):
        other.attach_base(*base)
        weights = other.generate(TEXTS).weights
        for key in expected.a:  # the base that is loaded here is in fp32, the other as is fast
            torch.testing.assert_close(weights.a[key], expected.a[key], rtol=0.02, atol=1e-3)
            torch.testing.assert_close(weights.b[key], expected.b[key], rtol=0.02, atol=1e-3)


def test_a_sentence_network_goes_on_as_one_that_reads_tokens(
    settings: Settings, tmp_path: Path
) -> None:
    start = train_sft(settings(run={"steps": 2}), output_dir=tmp_path / "sentence")
    config = settings(
        tokens=TOKENS | {"direct": []},
        hypernet={"start_from": str(start), "dropout": 0.0},
        optimizer={"lr": 1e-12, "schedule": "constant", "warmup": 0.0},
        run={"steps": 1},
    )
    folder = train_sft(config, output_dir=tmp_path / "tokens")
    before = TextToLora.from_pretrained(start).generate(TEXTS).weights
    after = TextToLora.from_pretrained(folder).generate(TEXTS).weights
    for key in before.a:  # the attention starts as the identity
        torch.testing.assert_close(after.a[key], before.a[key], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(after.b[key], before.b[key], rtol=1e-4, atol=1e-6)
