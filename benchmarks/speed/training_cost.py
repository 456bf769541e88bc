"""Memory and time of one SFT run, computed from shapes; nothing is measured and no weights are read.

    python -m benchmarks.speed.training_cost

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

from typing import Any

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, PreTrainedConfig

from text_to_lora.evaluation.tables import table
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.lora import LoraSpec
from text_to_lora.training.config import load_recipe

EMBEDDING_DIM = 1024  # gte-large-en-v1.5
TOKENS = 512  # of a row, prompt and answer
RATE = 400e12  # operations a second, sustained: about 40% of what an H100 SXM's data sheet says

# transformers has the shapes of these models as its defaults.
BASES: dict[str, PreTrainedConfig] = {
    "gemma-2-2b-it": Gemma2Config(),
    "mistral-7b": MistralConfig(),
}


def cost(name: str) -> dict[str, str]:
    """One row of the table by column, for the recipe of this name."""
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
    batch, layers = rows * TOKENS, config.num_hidden_layers
    heads = config.num_attention_heads * config.head_dim
    kv_heads = config.num_key_value_heads * config.head_dim
    widths = 4 * config.hidden_size + 3 * heads + 4 * kv_heads + 4 * config.intermediate_size
    layer = 2 * batch * widths
    logits = 10 * rows * data.max_answer_tokens * config.vocab_size
    fixed = 2 * base + 16 * hypernet + logits
    sizes_in_memory = {
        "base, GB": 2 * base,
        "hypernetwork, GB": 16 * hypernet,
        "activations, GB": layers * layer,
        "logits, GB": logits,
        "all, GB": fixed + layers * layer,
        "all, checkpointed, GB": fixed + layers * 2 * batch * config.hidden_size + layer,
    }
    seconds = 4 * base * batch / RATE
    return {
        "recipe": f"`{name}`",
        "base": f"{base / 1e9:.1f} B",
        "hypernetwork": f"{hypernet / 1e6:.1f} M",
        **{column: f"{size / 1e9:.1f}" for column, size in sizes_in_memory.items()},
        "s a step": f"{seconds:.2f}",
        "days for the recipe's steps": f"{seconds * recipe.run.steps / 86_400:.1f}",
    }


def main() -> None:
    """Print the table as Markdown."""
    rows = [cost(name) for name in BASES]
    print(table(list(rows[0]), (list(row.values()) for row in rows)))


if __name__ == "__main__":
    main()
