"""A tiny base model, tokenizer and hypernetworks in folders, for tests of serving and of the CLI."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from text_to_lora.encoders import load_encoder
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.lora import LoraSpec, LoraWeights

SPECIAL = ("<pad>", "</s>", "<unk>")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}Task: {{ message['content'] }}\n"
    "{% elif message['role'] == 'user' %}Input: {{ message['content'] }}\n"
    "{% else %}Answer: {{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that every text comes back as it was."""
    alphabet = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
        padding_side="left",
    )


def make_config(hidden_size: int = 32) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )


def save_base(folder: Path, hidden_size: int = 32) -> Path:
    """Write a random base model with its tokenizer."""
    torch.manual_seed(0)
    LlamaForCausalLM(make_config(hidden_size)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def random_adapters(spec: LoraSpec, count: int, generator: torch.Generator) -> LoraWeights:
    """Draw unlike adapters for a spec."""

    def draw(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(count, *shape, generator=generator)

    return LoraWeights(
        spec,
        {g.key: draw(len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: draw(len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )


def save_tiny_hypernet(folder: Path, base: Path, *, strength: float = 0.3) -> Path:
    """Write a random hypernetwork for a base; with strength 0 its adapters change nothing."""
    generator = torch.Generator().manual_seed(1)
    spec = LoraSpec.from_config(
        LlamaConfig.from_pretrained(base), targets=["q_proj", "v_proj"], rank=4, name=str(base)
    )
    config = HypernetConfig(head="joint", embedding_dim=32, latent_size=16, head_in_size=24)
    hypernet = Hypernetwork.from_config(config, spec, generator)
    with torch.no_grad():
        for name, parameter in hypernet.named_parameters():
            if name.startswith("head"):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += strength * noise
    encoder = load_encoder("hash").config
    return save_hypernet(folder, hypernet, encoder, training={"steps": 3})


def adapters_of_texts(spec: LoraSpec, texts: Sequence[str]) -> LoraWeights:
    """One strong adapter a text; equal texts give equal adapters."""
    seeds = [int(sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return LoraWeights.stack([random_adapters(spec, 1, g) for g in generators]).scale(2.0)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def hypernet_folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    return save_tiny_hypernet(tmp_path_factory.mktemp("tiny") / "hypernet", base_folder)


@pytest.fixture(scope="session")
def described_hypernet_folder(
    tmp_path_factory: pytest.TempPathFactory, hypernet_folder: Path
) -> Path:
    """The same hypernetwork with two training descriptions beside it."""
    loaded = load_hypernet(hypernet_folder)
    texts = ("Answer in capitals", "Say yes or no")
    return save_hypernet(
        tmp_path_factory.mktemp("tiny") / "described",
        loaded.hypernet,
        loaded.encoder,
        training=loaded.training,
        descriptions=TrainingDescriptions.make(texts, load_encoder("hash").encode(texts)),
    )


@pytest.fixture(scope="session")
def idle_hypernet_folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """A hypernetwork whose adapters change nothing."""
    folder = tmp_path_factory.mktemp("tiny") / "idle"
    return save_tiny_hypernet(folder, base_folder, strength=0.0)
