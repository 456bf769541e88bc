"""PEFT folders: bytes, PEFT in both directions, and everything that is refused."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError
from text_to_lora.lora import LoraSpec, adapted, load_adapter, save_adapter

# peft 0.21 asks transformers 5.23 for a property that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    file = folder / "adapter_model.safetensors"
    tensors: dict[str, Any] = load_file(file) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


def peft_config(**changes: Any) -> peft.LoraConfig:
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    return peft.LoraConfig(**fields | {"task_type": "CAUSAL_LM"} | changes)


def train_peft(model: PreTrainedModel, folder: Path, config: peft.LoraConfig) -> peft.PeftModel:
    """A PEFT adapter with random B, saved to a folder."""
    adapter = peft.get_peft_model(deepcopy(model), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapter.save_pretrained(str(folder))
    return adapter


@pytest.fixture
def saved(kit: Any, llama_spec: LoraSpec, folder: Path) -> Path:
    return save_adapter(kit.weights(llama_spec), folder)


def test_spec_of_a_raw_folder_is_the_spec_it_was_saved_from(
    kit: Any, family: str, folder: Path
) -> None:
    config = kit.config(family)
    spec = LoraSpec.from_config(config, targets="all-linear", rank=2, name="n", revision="r")
    save_adapter(kit.weights(spec), folder, scale_safe=False)
    assert load_adapter(folder, base_config=config).spec == spec


# PEFT says that it saves the head's weights too.
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_adapter_on_the_output_head_is_refused(llama: PreTrainedModel, folder: Path) -> None:
    train_peft(llama, folder, peft_config(target_modules=["q_proj", "lm_head"]))
    with pytest.raises(
        AdapterFormatError,
        match=r"adapts lm_head, no linear module of the decoder layers of .*so train it again without",
    ):
        load_adapter(folder, base_config=llama.config)


@pytest.mark.parametrize("with_spec", [False, True])
def test_missing_extra_and_reshaped_tensors_are_named(
    kit: Any, saved: Path, llama_spec: LoraSpec, with_spec: bool
) -> None:
    edit_tensors(
        saved,
        **{
            f"{Q0}.lora_A.weight": None,
            f"{Q0}.lora_B.weight": torch.zeros(3, 4),
            f"{Q0}.lora_C.weight": torch.zeros(1),
        },
    )
    known: dict[str, Any] = {"spec": llama_spec} if with_spec else {}
    with pytest.raises(AdapterFormatError) as caught:
        load_adapter(saved, **known or {"base_config": kit.config("llama")})
    message = str(caught.value)
    assert f"missing {Q0}.lora_A.weight;" in message
    assert f"unexpected {Q0}.lora_C.weight;" in message
    assert f"wrong shape of {Q0}.lora_B.weight (3, 4), not (32, 4);" in message
    assert "\n" not in message


def test_adapter_for_another_base_is_refused(kit: Any, saved: Path) -> None:
    with pytest.raises(AdapterFormatError, match=r"adapts model.layers.0.* of this gpt2 base"):
        load_adapter(saved, base_config=kit.config("gpt2"))
    with pytest.raises(AdapterFormatError, match=r"wrong shape of .*\(32, 4\), not \(64, 4\)"):
        load_adapter(saved, base_config=kit.config("mistral"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["v_proj"]}, "does not select model.layers.0.self_attn.q_proj"),
        ({"r": 2}, "has rank 2; rank 4 is expected"),
        ({"use_dora": True}, "uses use_dora=True"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    saved: Path, llama_spec: LoraSpec, changes: dict[str, Any], message: str
) -> None:
    edit_config(saved, **changes)
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(saved, spec=llama_spec)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((4, 32), torch.nan), f"NaN or infinity in {Q0}.lora_A.weight"),
        (torch.zeros(4, 32, dtype=torch.float16), "several dtypes float16, float32"),
        (torch.zeros(4, 32).int(), r"has dtype torch.int32 in .*; save it in one of torch.float16"),
        (torch.zeros(4, 32).to(torch.float8_e4m3fn), "has dtype torch.float8_e4m3fn in .*lora_A"),
    ],
)
def test_values_and_dtypes_are_checked(
    kit: Any, saved: Path, llama_spec: LoraSpec, tensor: torch.Tensor, message: str
) -> None:
    with pytest.raises(ConfigError, match="give spec or base_config"):
        load_adapter(saved)
    edit_tensors(saved, **{f"{Q0}.lora_A.weight": tensor})
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(saved, spec=llama_spec)
    edit_tensors(saved, **{f"{Q0}.lora_A.weight": None, f"{Q0}.lora_B.weight": None})
    with pytest.raises(AdapterFormatError, match=rf"missing {Q0}.lora_A.weight, {Q0}.lora_B"):
        load_adapter(saved, base_config=kit.config("llama"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q|down)_proj"},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"layers_to_transform": 0},
        {"target_modules": ["model.layers.1.self_attn.q_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    ],
)
def test_we_give_pefts_logits_from_what_peft_writes(
    kit: Any, folder: Path, changes: dict[str, Any]
) -> None:
    model = kit.model(kit.config("gpt2" if "fan_in_fan_out" in changes else "llama"))
    reference = train_peft(model, folder, peft_config(**changes))
    weights = load_adapter(folder, base_config=model.config)
    batch = kit.batch(2)
    with adapted(model, weights):
        ours = model(**batch).logits
    theirs = reference(**batch).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - model(**batch).logits).abs().max() > 0.01


def test_configuration_is_minimal_and_sorted(saved: Path) -> None:
    expected = {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    text = (saved / "adapter_config.json").read_text()
    assert list(json.loads(text).items()) == list(expected.items())


def test_one_finite_adapter_is_written_in_the_dtype_asked_for(
    kit: Any, llama_spec: LoraSpec, folder: Path
) -> None:
    weights = kit.weights(llama_spec, adapters=2)
    with pytest.raises(SpecError, match=r"2 adapters for one folder; save each"):
        save_adapter(weights, folder)
    broken, good = weights.unbind()
    broken.a["self_attn.q_proj"][0, 0, 0, 0] = torch.nan
    with pytest.raises(SpecError, match=f"NaN or infinity in {Q0}.lora_A.weight"):
        save_adapter(broken, folder)
    with pytest.raises(SpecError, match=r"NaN or infinity in .*lora_B.weight.* as torch.float16"):
        save_adapter(good.scale(1e6), folder, dtype=torch.float16)
    assert not folder.exists()
    save_adapter(good, folder, dtype=torch.bfloat16)
    assert load_adapter(folder, spec=llama_spec).dtype == torch.bfloat16
    # The scaling 1.5 is folded in before rounding: one rounding, 2**-8 relative.
    rounded = (good.b["self_attn.q_proj"] * 1.5).bfloat16()
    written = load_file(folder / "adapter_model.safetensors")
    assert torch.equal(written[f"{Q0}.lora_B.weight"], rounded[0, 0])
