"""GteEncoder: published files of the remote-code form run in transformers' own class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from text_to_lora.encoders import load_encoder
from text_to_lora.encoders.gte import GTE_LARGE, native_fields
from text_to_lora.errors import ConfigError

HIDDEN, HEADS, LAYERS, INNER = 32, 2, 2, 48
THETA, FACTOR = 160000.0, 2.0
# The fields of gte-large-en-v1.5's config.json, at a tiny size.
CONFIG: dict[str, Any] = {
    "architectures": ["NewModel"],
    "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "max_position_embeddings": 64,
    "model_type": "new",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pack_qkv": True,
    "pad_token_id": 0,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": FACTOR, "type": "ntk"},
    "rope_theta": THETA,
    "type_vocab_size": 2,
    "vocab_size": 40,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "embeddings.word_embeddings.weight": (40, HIDDEN),
    "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    "embeddings.LayerNorm.weight": (HIDDEN,),
    "embeddings.LayerNorm.bias": (HIDDEN,),
} | {
    f"encoder.layer.{layer}.{name}": shape
    for layer in range(LAYERS)
    for name, shape in {
        "attention.qkv_proj.weight": (3 * HIDDEN, HIDDEN),
        "attention.qkv_proj.bias": (3 * HIDDEN,),
        "attention.o_proj.weight": (HIDDEN, HIDDEN),
        "attention.o_proj.bias": (HIDDEN,),
        "attn_ln.weight": (HIDDEN,),
        "attn_ln.bias": (HIDDEN,),
        "mlp.up_gate_proj.weight": (2 * INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
        "mlp.down_proj.bias": (HIDDEN,),
        "mlp_ln.weight": (HIDDEN,),
        "mlp_ln.bias": (HIDDEN,),
    }.items()
}


@pytest.fixture
def folder(tmp_path: Path, generator: torch.Generator, bert_tokenizer: Tokenizer) -> Path:
    weights = {name: torch.randn(shape, generator=generator) / 4 for name, shape in SHAPES.items()}
    path = tmp_path / "gte"
    path.mkdir()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(CONFIG))
    bert_tokenizer.save(str(path / "tokenizer.json"))
    return path


def reference(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The first token's last hidden state, after the published description of the model."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, (HIDDEN,), *parts, 1e-12)

    dim = HIDDEN // HEADS
    steps = torch.arange(0, dim, 2) / dim
    frequencies = 1 / (THETA * FACTOR) ** steps / FACTOR ** (2 / dim)
    turns = torch.polar(torch.ones(1), torch.outer(torch.arange(len(ids)), frequencies))

    def rotate(x: Tensor) -> Tensor:  # pairs (i, i + dim / 2) as complex numbers
        turned = torch.complex(*x.chunk(2, -1)) * turns
        return torch.cat([turned.real, turned.imag], -1)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = {k.split(".", 3)[3]: v for k, v in weights.items() if f"layer.{layer}." in k}
        qkv = x @ at["attention.qkv_proj.weight"].T + at["attention.qkv_proj.bias"]
        q, k, v = (part.view(-1, HEADS, dim).transpose(0, 1) for part in qkv.chunk(3, -1))
        scores = rotate(q) @ rotate(k).transpose(1, 2) / dim**0.5
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(ids), HIDDEN)
        mixed = mixed @ at["attention.o_proj.weight"].T + at["attention.o_proj.bias"]
        x = norm(x + mixed, f"encoder.layer.{layer}.attn_ln")
        up, gate = (x @ at["mlp.up_gate_proj.weight"].T).chunk(2, -1)
        inner = functional.gelu(gate) * up
        inner = inner @ at["mlp.down_proj.weight"].T + at["mlp.down_proj.bias"]
        x = norm(x + inner, f"encoder.layer.{layer}.mlp_ln")
    return x[0]


def test_published_files_give_the_published_models_vectors(
    folder: Path, bert_tokenizer: Tokenizer
) -> None:
    from safetensors.torch import load_file

    encoder = load_encoder(f"gte:{folder}")
    texts = ["sort the words", "answer in capitals classify the review as positive or negative"]
    weights = load_file(folder / "model.safetensors")
    ids = [bert_tokenizer.encode(text + ".").ids for text in texts]
    expected = torch.stack([reference(weights, row) for row in ids])
    expected = functional.normalize(expected, dim=-1) * HIDDEN**0.5
    # fp32 through two layers, summed in another order
    torch.testing.assert_close(encoder.encode(texts), expected, atol=1e-4, rtol=1e-4)
    assert encoder.config.pooling == "cls" and encoder.config.max_tokens == 64
    assert load_encoder(encoder.config).config == encoder.config


def test_the_stretched_positions_matter_at_the_published_size() -> None:
    fields = native_fields(CONFIG | {"hidden_size": 1024, "num_attention_heads": 16})
    assert fields["rope_parameters"] == {
        "rope_type": "linear",
        "rope_theta": 320000.0,
        "factor": 2 ** (2 / 64),
    }


def test_the_native_form_is_read_as_it_is() -> None:
    native = {"rope_type": "default", "rope_theta": 160000.0}
    stored = CONFIG | {"model_type": "gte", "rope_parameters": native}
    assert native_fields(stored)["rope_parameters"] == native
    assert native_fields(CONFIG | {"rope_scaling": None})["rope_parameters"]["rope_theta"] == THETA


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', not 'gte' or 'new'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_scaling is {'type': 'yarn'"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type is 'rms_norm'; GteModel runs 'layer_n"),
    ],
)
def test_a_model_that_gte_cannot_run_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        native_fields(CONFIG | change)


def test_the_papers_encoder_is_gte_under_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from text_to_lora.encoders import load

    asked: list[str] = []
    monkeypatch.setattr(load, "GteEncoder", lambda name, *args, **kw: asked.append(name))
    for which in ("gte", GTE_LARGE, f"gte:{GTE_LARGE}"):
        load_encoder(which)
    assert asked == [GTE_LARGE] * 3
