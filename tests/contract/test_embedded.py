"""The embedded defaults: the base that `t2l models fetch` put into the cache, and what is for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from text_to_lora_embedded import HYPERNET, MULTITASK, MULTITASK_IN_PROMPT, ROOT

from text_to_lora import TextToLora, load_adapter, load_base
from text_to_lora.inference.answers import SMALL_EFFECT, answer, effect
from text_to_lora.models.cache import cached_base
from text_to_lora.models.find import EMBEDDED_BASE

CHECKOUT = Path(__file__).parents[2]
LARGEST = 48_000_000  # bytes of the hypernetwork

needs_base = pytest.mark.skipif(
    cached_base() is None, reason="the default base is not in the cache; run `t2l models fetch`"
)


def _base_of_the_hypernetwork() -> str:
    config = HYPERNET / "config.json"
    return json.loads(config.read_text())["spec"]["base"]["name"] if config.is_file() else ""


needs_hypernet = pytest.mark.skipif(
    _base_of_the_hypernetwork() != EMBEDDED_BASE,
    reason=f"the package text-to-lora-embedded holds no hypernetwork for {EMBEDDED_BASE}",
)


@pytest.fixture(scope="module")
def base() -> Any:
    return load_base("embedded")


@needs_base
def test_the_base_is_smollm2_135m_instruct(base: Any) -> None:
    model, _ = base
    assert model.num_parameters() == 134_515_008
    assert model.config.max_position_embeddings == 8192
    assert model.dtype in (torch.bfloat16, torch.float32)  # what the machine multiplies fast


@needs_base
def test_the_base_answers_a_question(base: Any) -> None:
    text = answer(*base, ["What is the capital of France?"], max_new_tokens=12)
    assert text == ["The capital of France is Paris."]


@needs_base
def test_prompts_are_those_of_the_hubs_tokenizer(base: Any) -> None:
    _, tokenizer = base
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "In 1984"}], add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nIn 1984<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[:8] == [1, 9690, 198, 2683, 359, 253, 5356, 5646]
    assert tokenizer.tokenize("In 1984") == ["In", "Ġ", "1", "9", "8", "4"]


@needs_hypernet
def test_the_hypernetwork_is_small() -> None:
    files = [file for file in HYPERNET.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LARGEST


@needs_base
@needs_hypernet
def test_its_adapters_fit_and_move_the_base(base: Any) -> None:
    model, tokenizer = base
    t2l = TextToLora.from_pretrained()
    t2l.spec.check_base(model.config)
    assert not t2l.reads_with_transformers
    texts = ["Answer in capitals", "Give the number of words"]
    weights = t2l.generate(texts).weights
    same = TextToLora.from_pretrained(base=base).generate(texts).weights
    for key, b in same.b.items():
        torch.testing.assert_close(weights.b[key], b, rtol=0.02, atol=0.02)
    change = effect(model, tokenizer, ["the sun"] * 2, ["THE SUN", "2"], weights, rows=[0, 1])
    assert bool((change > SMALL_EFFECT).all())


@needs_base
@pytest.mark.parametrize("folder", [MULTITASK, MULTITASK_IN_PROMPT], ids=lambda path: path.name)
def test_the_multi_task_adapters_fit(folder: Path, base: Any) -> None:
    model, _ = base
    assert load_adapter(folder, base_config=model.config).num_adapters == 1


def test_the_model_card_and_the_notice_name_the_base_and_its_licence() -> None:
    card = (ROOT.parents[1] / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert f"base_model: {EMBEDDED_BASE}" in card
    notice = (ROOT.parents[1] / "NOTICE").read_text(encoding="utf-8")
    assert "SmolLM2-135M-Instruct (HuggingFaceTB), Apache-2.0" in notice


@needs_base
@needs_hypernet
def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert len(list((tmp_path / "two-adapters").glob("*/adapter_model.safetensors"))) == 2
