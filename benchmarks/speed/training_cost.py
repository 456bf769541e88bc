"""Memory and time of one SFT run, computed from shapes; nothing is measured and no weights are read.

    python -m benchmarks.speed.training_cost [--rate 400] [--tokens 512]

The base is frozen in bfloat16, the hypernetwork fp32 with AdamW, both as the recipes have them.

- base: 2 bytes a parameter
- hypernetwork: 16 bytes a parameter (weight, gradient, two moments)
- activations, a token and layer, bfloat16: 2 * (4 hidden + 3 heads * head_dim
  + 4 kv_heads * head_dim + 4 intermediate) bytes (norms in fp32, q, k, v before and after rotation,
  attention's output, gate, up and their products); attention itself keeps no square
- logits of answer positions: 10 bytes a vocabulary entry (bfloat16, fp32, gradient)
- with gradient checkpointing: 2 * hidden bytes a token and layer, and one layer in full
- operations: 4 a base parameter and token (forward 2, backward 2, since the base takes no gradient
  itself), 6 with gradient checkpointing
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, PreTrainedConfig

from text_to_lora.evaluation.tables import table
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.lora import LoraSpec
from text_to_lora.training.config import load_recipe

EMBEDDING_DIM = 1024  # gte-large-en-v1.5
PEAK = 989  # TFLOP/s of one H100 SXM in bfloat16 without sparsity, by its data sheet

BASES: dict[str, PreTrainedConfig] = {
    "gemma-2-2b-it": Gemma2Config(
        vocab_size=256_000,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
    ),
    "mistral-7b": MistralConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    ),
}


def cost(name: str, tokens: int, rate: float) -> list[str]:
    """One row of the table, for the recipe of this name.

    tokens: of a row, prompt and answer; rate: sustained TFLOP/s
    """
    recipe, config = load_recipe(name), BASES[name]
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        base: int = make(config).num_parameters()
    adapter, network, data = recipe.adapter, recipe.hypernet, recipe.data
    spec = LoraSpec.from_config(config, targets=list(adapter.targets), rank=adapter.rank)
    sizes = HypernetConfig(
        head=network.head,
        embedding_dim=EMBEDDING_DIM,
        latent_size=network.latent_size,
        head_in_size=network.head_in_size,
    )
    hypernet = Hypernetwork.empty(sizes, spec).num_parameters
    rows = data.tasks_per_batch * data.examples_per_task
    batch, layers = rows * tokens, config.num_hidden_layers
    heads = config.num_attention_heads * config.head_dim
    kv_heads = config.num_key_value_heads * config.head_dim
    widths = 4 * config.hidden_size + 3 * heads + 4 * kv_heads + 4 * config.intermediate_size
    layer = 2 * batch * widths
    logits = 10 * rows * data.max_answer_tokens * config.vocab_size
    fixed = 2 * base + 16 * hypernet + logits
    lean = fixed + layers * 2 * batch * config.hidden_size + layer
    figures = [2 * base, 16 * hypernet, layers * layer, logits, fixed + layers * layer, lean]
    seconds = 4 * base * batch / (rate * 1e12)
    return [
        f"`{name}`",
        f"{base / 1e9:.1f} B",
        f"{hypernet / 1e6:.1f} M",
        *(f"{figure / 1e9:.1f}" for figure in figures),
        f"{seconds:.2f}",
        f"{seconds * recipe.run.steps / 86_400:.1f}",
    ]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a row (default 512)")
    rate_help = f"sustained TFLOP/s (default 400, about 40%% of an H100's {PEAK})"
    parser.add_argument("--rate", type=float, default=400.0, help=rate_help)
    options = parser.parse_args()
    head = [
        "recipe",
        "base",
        "hypernetwork",
        "base, GB",
        "hypernetwork, GB",
        "activations, GB",
        "logits, GB",
        "all, GB",
        "all, checkpointed, GB",
        "s a step",
        "days for the recipe's steps",
    ]
    print(table(head, (cost(name, options.tokens, options.rate) for name in BASES)))


if __name__ == "__main__":
    main()
