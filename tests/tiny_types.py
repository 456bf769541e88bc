"""Tiny random configurations of the causal language models of the installed transformers."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

# Small values for the names that configurations give to widths, depths and counts.
_NAMES: dict[Any, str] = {
    32: "hidden_size n_embd d_model dim embed_dim emb_dim model_dim",
    48: "intermediate_size ffn_dim n_inner d_ff encoder_ffn_dim decoder_ffn_dim ffn_hidden_size dff",
    2: (
        "num_hidden_layers n_layer num_layers encoder_layers decoder_layers n_layers "
        "num_encoder_layers num_decoder_layers num_key_value_heads num_experts_per_tok moe_topk "
        "moe_k num_experts_per_token linear_num_key_heads eos_token_id"
    ),
    4: (
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "num_experts num_local_experts n_routed_experts moe_num_experts num_moe_experts "
        "linear_num_value_heads"
    ),
    8: (
        "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim "
        "linear_value_head_dim mamba_n_heads mamba_d_head mamba_num_heads mamba_head_dim "
        "ssm_state_size state_size rotary_dim"
    ),
    1: "n_groups bos_token_id",
    0: "pad_token_id",
    12: "q_lora_rank",
    14: "patch_size",
    16: "moe_intermediate_size expert_ffn_hidden_size kv_lora_rank",
    20: "pronunciation_vocab_size shape_vocab_size",
    24: "shared_expert_intermediate_size",
    28: "image_size",
    61: "vocab_size vocab_size_per_layer_input",
    64: "max_position_embeddings n_positions n_ctx",
}
_SMALL = {name: value for value, names in _NAMES.items() for name in names.split()}
# None says that there is no such part.
_NONE_IS_MEANT = {"q_lora_rank", "n_inner", "shared_expert_intermediate_size"}

_DEFAULT = object()  # leaves a field at its default
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_CONV = {"layer_types": ["conv", "full_attention"]}
_LATENT = {"head_dim": _DEFAULT, "num_key_value_heads": 4}  # multi-head latent attention
_LATENT_TYPES = (
    "axk2",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "minicpm3",
    "sarvam_mla",
    "youtu",
)

_CHANGES: dict[str, dict[str, Any]] = {
    **{name: _LATENT for name in _LATENT_TYPES},
    **{name: _LINEAR for name in ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")},
    **{name: {"text_config": _LINEAR} for name in ("qwen3_5", "qwen3_5_moe")},
    "axk1": _LATENT | {"n_group": 2, "topk_group": 1},
    "bailing_hybrid": _LATENT | _LINEAR,
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": _SLIDING
    | {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]},
    "git": {"vision_config": {"num_hidden_layers": 3}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "kimi_linear": _LATENT | _LINEAR,
    "lfm2_moe": _CONV,
    "lfm3": _CONV,
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "mllama": {"text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]}},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True,
        "hidden_size": _DEFAULT,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [64, 192],
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid"],
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "num_mem_blocks": 1,
        "layers_block_type": ["hybrid", "mamba", "hybrid", "mamba"],
    },
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(model_type: str) -> PreTrainedConfig:
    """Configuration of a tiny model of a type; parts of it that are configurations are tiny too."""
    cls = CONFIG_MAPPING[model_type]
    fields = _reduce(cls().to_dict())
    for key, value in _CHANGES.get(model_type, {}).items():
        fields[key] = fields.get(key, {}) | value if isinstance(value, dict) else value
    return cls(**{key: value for key, value in fields.items() if value is not _DEFAULT})


def _reduce(fields: dict[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict) and "model_type" in value:
            small[key] = {"model_type": value["model_type"]} | _reduce(value)
        elif key in _SMALL and not (value is None and key in _NONE_IS_MEANT):
            small[key] = _SMALL[key]
    return small
