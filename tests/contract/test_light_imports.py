"""What a process imports for what it does; each heavy library costs seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from text_to_lora.encoders import load_encoder
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.lora import LoraSpec
from text_to_lora.models.cache import cached_base

Check = Callable[..., None]


def test_importing_the_package_imports_no_model_library(assert_light: Check) -> None:
    code = "import text_to_lora; assert text_to_lora.__version__; dir(text_to_lora)"
    assert_light(code, also=("torch", "transformers", "numpy", "safetensors", "tokenizers"))


def test_the_help_imports_no_model_library(assert_light: Check) -> None:
    code = (
        "import sys; sys.argv = ['t2l', 'generate', '--help']\n"
        "from text_to_lora.cli import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code"
    )
    assert_light(code, also=("torch", "transformers", "numpy", "safetensors", "tokenizers"))


@pytest.fixture(scope="module")
def minilm_hypernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small hypernetwork with the text encoder and the kind of base of the embedded default."""
    base = LlamaConfig(
        vocab_size=99,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    spec = LoraSpec.from_config(base, targets="all-linear", rank=2)
    config = HypernetConfig(head="joint", embedding_dim=384, latent_size=8, head_in_size=8)
    hypernet = Hypernetwork.from_config(config, spec, torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("light") / "hypernet"
    return save_hypernet(folder, hypernet, load_encoder("minilm").config, training={})


@pytest.fixture(params=["sentence", "embedded"])
def hypernet(request: pytest.FixtureRequest, minilm_hypernet: Path) -> str:
    """One that reads the sentence alone, and the default, which reads with its base."""
    if request.param == "sentence":
        return str(minilm_hypernet)
    if cached_base() is None:
        pytest.skip("the default base is not in the cache; run `t2l models fetch`")
    return "embedded"


def test_generating_with_what_is_embedded_imports_torch_alone(
    assert_light: Check, hypernet: str, tmp_path: Path
) -> None:
    arguments = ["t2l", "generate", "Say yes", "-o", str(tmp_path / "out"), "-m", hypernet]
    code = (
        f"import sys; sys.argv = {arguments}\n"
        "from text_to_lora.cli import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code"
    )
    # torch._dynamo alone would double the time
    assert_light(code, also=("transformers", "huggingface_hub", "torch._dynamo", "sympy"))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
