"""The embedded default as it is committed. Skipped only where its weights are not there yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from text_to_lora_embedded import BASE, HYPERNET, MULTITASK, ROOT

from text_to_lora import TextToLora, load_adapter, load_base
from text_to_lora.inference.answers import SMALL_EFFECT, effect

pytestmark = pytest.mark.skipif(
    not HYPERNET.is_dir(), reason="the embedded weights are not in this checkout"
)

CHECKOUT = Path(__file__).parents[2]
LARGEST = 48_000_000  # bytes of base and hypernetwork together


def test_base_and_hypernetwork_are_small() -> None:
    files = [file for folder in (BASE, HYPERNET) for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LARGEST


def test_the_base_is_a_decoder_of_7_to_20_million_parameters_and_context_512() -> None:
    model, tokenizer = load_base("embedded")
    assert 7e6 <= model.num_parameters() <= 20e6
    assert model.config.max_position_embeddings >= 512
    ids = tokenizer("the sun is warm", return_tensors="pt").input_ids
    with torch.no_grad():
        whole, start = model(ids).logits, model(ids[:, :-1]).logits
    # a decoder: what comes later changes nothing
    torch.testing.assert_close(whole[:, :-1], start, rtol=1e-3, atol=1e-3)


def test_its_adapters_fit_and_move_the_base() -> None:
    t2l = TextToLora.from_pretrained()
    model, tokenizer = load_base(t2l.spec.base.name, spec=t2l.spec)
    weights = t2l.generate(["Answer in capitals", "Give the number of words"]).weights
    moved = effect(model, tokenizer, ["the sun"] * 2, ["THE SUN", "2"], weights, rows=[0, 1])
    assert bool((moved > SMALL_EFFECT).all())


def test_the_multi_task_adapter_fits() -> None:
    model, _ = load_base("embedded")
    assert load_adapter(MULTITASK, base_config=model.config).num_adapters == 1


def test_the_model_card_and_the_notice_are_there() -> None:
    card = (ROOT.parents[1] / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert (ROOT.parents[1] / "NOTICE").is_file()


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "capitals" / "adapter_model.safetensors").is_file()
