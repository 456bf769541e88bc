"""Specs of every family, targets, refusals, hash and JSON form."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from text_to_lora.errors import SpecError, T2LWarning
from text_to_lora.lora import LoraSpec, config_hash
from text_to_lora.lora.peft_selection import PeftSelection, selecting_fields

BASE = {"name": "x", "revision": None, "config_hash": "0", "model_type": "llama"}
GROUP = {"key": "q", "module": "q", "in_features": 2, "out_features": 2, "layers": [0]}


def test_shapes_of_every_family_are_those_of_the_live_modules(kit: Any, family: str) -> None:
    config = kit.config(family)
    spec = LoraSpec.from_config(config, targets="all-linear")
    modules = dict(kit.model(config).named_modules())
    for slot in spec.slots:
        weight = modules[spec.module_name(slot.layer, slot.module)].weight
        shape = (slot.in_features, slot.out_features)
        assert tuple(weight.shape) == (shape if slot.module in spec.transposed else shape[::-1])
    assert not any("vision" in spec.module_name(s.layer, s.module) for s in spec.slots)


def test_slots_are_layer_major_and_groups_sorted(llama_spec: LoraSpec) -> None:
    assert [(slot.layer, slot.module) for slot in llama_spec.slots] == [
        (0, "self_attn.q_proj"),
        (0, "self_attn.v_proj"),
        (1, "self_attn.q_proj"),
        (1, "self_attn.v_proj"),
    ]
    assert llama_spec.peft_name(1, "self_attn.q_proj") == (
        "base_model.model.model.layers.1.self_attn.q_proj"
    )
    # q: 32 -> 32, v: 32 -> 2 heads of 8; two layers
    assert llama_spec.num_parameters == 2 * 4 * ((32 + 32) + (32 + 16))


def test_unlike_shapes_under_one_name_become_two_groups(kit: Any) -> None:
    spec = LoraSpec.from_config(kit.config("gemma4"), targets="q_proj")
    assert [(g.key, g.module, g.layers) for g in spec.groups] == [
        ("self_attn.q_proj:32x64", "self_attn.q_proj", (0,)),
        ("self_attn.q_proj:32x96", "self_attn.q_proj", (1,)),
    ]
    one_layer = LoraSpec.from_config(kit.config("gemma4"), targets="q_proj", layers=[1])
    assert [group.key for group in one_layer.groups] == ["self_attn.q_proj"]


def test_all_linear_on_experts_is_attention_and_shared_expert(kit: Any) -> None:
    spec = LoraSpec.from_config(kit.config("qwen2_moe"), targets="all-linear")
    assert [group.module for group in spec.groups] == [
        *(f"mlp.shared_expert.{name}_proj" for name in ("down", "gate", "up")),
        *(f"self_attn.{name}_proj" for name in "koqv"),
    ]
    named = LoraSpec.from_config(kit.config("qwen2_moe"), targets=["shared_expert_gate"])  # router
    assert named.groups[0].out_features == 1


def test_scaling_is_alpha_over_rank_or_its_root(llama_spec: LoraSpec) -> None:
    assert llama_spec.scaling == 6.0 / 4
    assert llama_spec.with_(rslora=True).scaling == 6.0 / 2
    for rslora in (False, True):
        spec = llama_spec.with_(rslora=rslora)
        assert spec.with_rank(9).scaling == pytest.approx(spec.scaling)
        assert spec.with_(alpha=12.0).scaling == 2 * spec.scaling


def test_a_stored_spec_needs_no_model_class(llama_spec: LoraSpec, tmp_path: Path) -> None:
    payload = llama_spec.to_dict()
    payload["base"]["model_type"] = "of no transformers yet"
    (tmp_path / "spec.json").write_text(json.dumps(payload))
    code = (
        "import json, sys, torch\n"
        "from text_to_lora.lora import LoraSpec, LoraWeights, save_adapter\n"
        f"spec = LoraSpec.from_dict(json.load(open({str(tmp_path / 'spec.json')!r})))\n"
        "size = lambda g: (1, len(g.layers))\n"
        "a = {g.key: torch.ones(*size(g), spec.rank, g.in_features) for g in spec.groups}\n"
        "b = {g.key: torch.ones(*size(g), g.out_features, spec.rank) for g in spec.groups}\n"
        f"save_adapter(LoraWeights(spec, a, b), {str(tmp_path / 'adapter')!r})\n"
        "assert 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("layers", [None, [1]])
def test_peft_selection_hits_the_slots_and_nothing_else(
    kit: Any, family: str, layers: list[int] | None
) -> None:
    config = kit.config(family)
    names = [name for name, _ in kit.model(config).named_modules()]
    everything = LoraSpec.from_config(config, targets="all-linear", layers=layers)
    for path in {group.module for group in everything.groups}:
        spec = LoraSpec.from_config(config, targets=[path], layers=layers)
        wanted = {spec.module_name(slot.layer, slot.module) for slot in spec.slots}
        for targets in {spec.peft_targets, ()}:
            selection = PeftSelection(selecting_fields(spec, targets))
            assert selection.select(names) == wanted


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("phi3", {"targets": "v_proj"}, r"no target module 'v_proj' \(did you mean 'qkv_proj'"),
        ("llama", {"targets": "q_prj"}, r"'q_prj' .*mean 'q_proj'.*has mlp.down_proj, .*v_proj"),
        ("llama", {"targets": "lm_head"}, "no target module 'lm_head'"),
        ("gemma3", {"targets": "fc1"}, "no target module 'fc1'"),
        ("qwen2_moe", {"targets": "gate_up_proj"}, "'gate_up_proj' means mlp.experts.gate_up_proj"),
        ("qwen2_moe", {"targets": "mlp.experts"}, "which cannot carry an adapter: an expert sees"),
        ("qwen2_moe", {"targets": "experts.down_proj"}, "choose from mlp.shared_expert.down"),
        ("llama", {"layers": [2]}, r"layers are \[2\]; distinct numbers from 0 to 1"),
        ("llama", {"layers": [-1]}, "distinct numbers from 0 to 1"),
        ("llama", {"layers": [0, 0]}, "distinct numbers from 0 to 1"),
        ("llama", {"layers": []}, "distinct numbers from 0 to 1"),
        ("llama", {"rank": 0}, "rank is 0; a number above 0"),
        ("llama", {"rank": 2.0}, "rank is 2.0; a whole number"),
        ("llama", {"alpha": 0.0}, "alpha is 0.0; a number above 0"),
        ("llama", {"alpha": math.inf}, "alpha is inf; a finite number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    kit: Any, family: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        LoraSpec.from_config(kit.config(family), **{"targets": "q_proj"} | options)
    assert "\n" not in str(caught.value)


def test_targets_of_other_layers_other_models_and_other_spellings(kit: Any) -> None:
    changes = {"mlp_only_layers": [0]}
    moe = transformers.Qwen2MoeConfig(**kit.config("qwen2_moe").to_diff_dict() | changes)
    with pytest.raises(SpecError, match=r"'shared_expert.up_proj' is not .* in layers \[1\]"):
        LoraSpec.from_config(moe, targets=["shared_expert.up_proj"], layers=[0])
    with pytest.raises(SpecError, match="no causal language model for configuration 'vit'"):
        LoraSpec.from_config(transformers.ViTConfig(), targets="all-linear")
    with pytest.warns(T2LWarning, match=r"'down_proj' adapts mlp.shared_expert.down_proj but not"):
        spec = LoraSpec.from_config(kit.config("qwen2_moe"), targets=["down_proj"])
    assert [group.module for group in spec.groups] == ["mlp.shared_expert.down_proj"]
    config = kit.config("llama")
    by_path = LoraSpec.from_config(config, targets=["self_attn.q_proj", "self_attn.v_proj"])
    assert LoraSpec.from_config(config, targets=["v_proj", "q_proj"]) == by_path
    with pytest.raises(SpecError, match=r"no group 'k'; groups are self_attn.q_proj"):
        by_path.group("k")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"spec: missing fields \[\], unknown fields \['extra'\]"),
        ({"rank": "8"}, "spec: rank is '8'; a whole number"),
        ({"rank": True}, "spec: rank is True; a whole number"),
        ({"alpha": None}, "spec: alpha is None; a finite number"),
        ({"base": {"name": "x"}}, r"spec.base: missing fields \['config_hash', 'model_type'"),
        ({"base": BASE | {"name": 3}}, "spec.base: name is 3; a text is needed"),
        ({"groups": [GROUP | {"layers": ["0"]}]}, r"spec.groups: layers is \('0',\); a list"),
        ({"groups": [{"key": "q"}]}, "spec.groups: missing fields"),
        ({"groups": 3}, r"groups is 3; a list \(each item an object\) is needed"),
        ({"transposed": [1]}, r"transposed is \(1,\); a list \(each item a text\) is needed"),
        ({"num_layers": 1}, r"has layers \(0, 1\); the base has 1"),
        ({"groups": []}, "without target modules"),
    ],
)
def test_broken_json_form_is_refused(
    llama_spec: LoraSpec, change: dict[str, Any], message: str
) -> None:
    payload = llama_spec.to_dict()
    with pytest.raises(SpecError, match=message):
        LoraSpec.from_dict(payload | change)
    with pytest.raises(SpecError, match="not the sorted groups"):
        LoraSpec.from_dict(payload | {"groups": payload["groups"][::-1]})
    with pytest.raises(SpecError, match=r"spec: missing fields \['rank'\]"):
        LoraSpec.from_dict({key: value for key, value in payload.items() if key != "rank"})


def test_json_form_and_hash_come_back_equal(kit: Any, family: str, tmp_path: Path) -> None:
    config = kit.config(family)
    spec = LoraSpec.from_config(config, targets="all-linear", name="x", revision="r")
    assert LoraSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    config.save_pretrained(tmp_path)
    loaded = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config_hash(loaded) == config_hash(kit.config(family)) == spec.base.config_hash


def test_hash_follows_shapes_only(kit: Any) -> None:
    base, same = kit.config("llama"), kit.config("llama")
    same.update({"use_cache": False, "eos_token_id": 5, "rms_norm_eps": 1e-3, "dtype": "bfloat16"})
    same._attn_implementation = "eager"
    assert config_hash(base) == config_hash(same)
    hashes = [config_hash(kit.config(family)) for family in kit.families]
    for change in ({"hidden_size": 64}, {"num_key_value_heads": 4}, {"vocab_size": 62}):
        other = kit.config("llama")
        other.update(change)
        hashes.append(config_hash(other))
    assert len(set(hashes)) == len(hashes)
