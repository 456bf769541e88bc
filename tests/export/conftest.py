"""Tiny random bases of every family that is exported, adapters for them, and llama.cpp itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from text_to_lora.lora import LoraSpec, LoraWeights

PLAIN: dict[str, Any] = {
    "vocab_size": 61,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
WIDE: dict[str, Any] = PLAIN | {"head_dim": 16}  # heads times head_dim is not the hidden size
GEMMA2: dict[str, Any] = WIDE | {"query_pre_attn_scalar": 16}
# mlx-lm asks for a layer that sees everything, which is the sixth, and rounds the square root of the
# hidden size to bfloat16, which is exact for 64
GEMMA3: dict[str, Any] = GEMMA2 | {"num_hidden_layers": 6, "hidden_size": 64}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**PLAIN),
    "mistral": lambda: transformers.MistralConfig(**WIDE),
    "qwen2": lambda: transformers.Qwen2Config(**PLAIN),
    "qwen3": lambda: transformers.Qwen3Config(**WIDE),
    "gemma2": lambda: transformers.Gemma2Config(**GEMMA2),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**GEMMA3),
    "gemma3": lambda: transformers.Gemma3Config(text_config=GEMMA3, vision_config=VISION),
    "phi3": lambda: transformers.Phi3Config(**PLAIN),
}
# Token ids of one prompt [1, seq].
IDS = torch.tensor([[5, 17, 3, 42, 8, 29, 11, 60, 23]])


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest) -> PreTrainedConfig:
    """Configuration of a tiny base of each family in turn."""
    return FAMILIES[request.param]()


@pytest.fixture
def llama_config() -> PreTrainedConfig:
    """Configuration of a tiny Llama."""
    return FAMILIES["llama"]()


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert isinstance(model, PreTrainedModel)
    return model.requires_grad_(False)


def make_weights(
    config: PreTrainedConfig, *, adapters: int = 1, scale: float = 0.2, **options: Any
) -> LoraWeights:
    """Random adapters under rsLoRA that change the logits clearly; neither A nor B is zero."""
    options = {"targets": "all-linear", "rank": 6, "alpha": 5.0, "rslora": True} | options
    spec = LoraSpec.from_config(config, **options)
    generator = torch.Generator().manual_seed(1)
    a, b = {}, {}
    for group in spec.groups:
        slots = (adapters, len(group.layers))
        a[group.key] = scale * torch.randn(
            *slots, spec.rank, group.in_features, generator=generator
        )
        b[group.key] = scale * torch.randn(
            *slots, group.out_features, spec.rank, generator=generator
        )
    return LoraWeights(spec, a, b)


class Kit:
    """The helpers above."""

    ids = IDS
    families = FAMILIES
    model = staticmethod(make_model)
    weights = staticmethod(make_weights)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    """Builders of tiny models and adapters."""
    return Kit


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
        pytest.skip(f"llama.cpp does not load here: {error}")


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
