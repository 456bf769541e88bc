"""adapter_config.json from anywhere: every option of PEFT, wrong types, and what never ends."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import peft
import pytest
from peft.tuners.tuners_utils import check_target_module_exists

from text_to_lora.errors import AdapterFormatError, T2LWarning
from text_to_lora.lora import LoraSpec, load_adapter, read_adapter_config, save_adapter
from text_to_lora.lora import peft_config as options
from text_to_lora.lora.peft_selection import PeftSelection

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def write(folder: Path, text: str | None = None, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = json.dumps(PLAIN | fields) if text is None else text
    (folder / "adapter_config.json").write_text(content)
    return folder


def refusal(folder: Path) -> str:
    """What is said about a configuration, which must be one line of bounded length, at once."""
    start = time.monotonic()
    with pytest.raises(AdapterFormatError) as caught:
        read_adapter_config(folder)
    message = str(caught.value)
    assert message.startswith(repr(str(folder))[:-1])
    assert "\n" not in message
    assert len(message) < 1000
    assert time.monotonic() - start < 5
    return message


def test_every_option_of_peft_is_read_refused_or_without_effect() -> None:
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    groups = [set(options._READ), set(options._REFUSED), set(options._WITHOUT_EFFECT)]
    assert set().union(*groups) == known
    assert sum(map(len, groups)) == len(known)


def test_defaults_and_options_without_effect_on_the_adapter_are_read(tmp_path: Path) -> None:
    fields = {name: getattr(peft.LoraConfig(), name) for name in options._REFUSED}
    fields |= {
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
        "eva_config": {"rho": 1.0},
        "fan_in_fan_out": True,
        "inference_mode": False,
        "lora_dropout": 0.1,
        "peft_version": "0.99.0",
        "runtime_config": {"ephemeral_gpu_offload": False},
        "merge_weights": False,
        "enable_lora": None,
    }
    assert read_adapter_config(write(tmp_path, **fields)) == PLAIN | fields
    with pytest.warns(T2LWarning, match=r"has lorap_emb_lr=1e-06, which this release does not"):
        read_adapter_config(write(tmp_path, lorap_emb_lr=1e-6))


CHANGING: dict[str, list[Any]] = {
    "alora_invocation_tokens": [[1, 2], []],
    "alpha_pattern": [{"q_proj": 2}],
    "arrow_config": [{"top_k": 3}],
    "bias": ["all", "lora_only", None],
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "mica", 3],
    "kasa_config": [{}],
    "layer_replication": [[[0, 2], [1, 3]]],
    "lora_bias": [True],
    "megatron_config": [{"size": 1}],
    "modules_to_save": [["lm_head"]],
    "monteclora_config": [{}],
    "rank_pattern": [{"q_proj": 2}],
    "target_parameters": [["experts.down_proj"]],
    "task_type": ["SEQ_CLS"],
    "trainable_token_indices": [[1], {"embed_tokens": [1]}],
    "use_bdlora": [{"nblocks": 2}],
    "use_dora": [True, "yes"],
    "use_qalora": [True],
    "velora_config": [{"rank": 1}],
    "use_dora_of_tomorrow": [True],
    "config_of_tomorrow": [{"rank": 1}],
}


@pytest.mark.parametrize("name", CHANGING)
def test_an_option_that_changes_the_adapter_is_refused_by_name_and_value(
    tmp_path: Path, name: str
) -> None:
    assert CHANGING.keys() >= options._REFUSED.keys()
    for value in CHANGING[name]:
        message = refusal(write(tmp_path, **{name: value}))
        assert f"uses {name}={value!r}, which plain LoRA cannot represent" in message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": ["LORA"]}, "has peft_type ['LORA']; only 'LORA' is read"),
        ({"r": True}, "has r=True; an integer above 0 is needed"),
        ({"r": 8.0}, "has r=8.0; an integer above 0 is needed"),
        ({"r": None}, "has r=None; an integer above 0 is needed"),
        ({"lora_alpha": "16"}, "has lora_alpha='16'; a finite number above 0"),
        ({"lora_alpha": float("nan")}, "has lora_alpha=nan; a finite number above 0"),
        ({"lora_alpha": float("inf")}, "has lora_alpha=inf; a finite number above 0"),
        ({"lora_alpha": 10**300}, "a finite number above 0 and at most 1e+09 is needed"),
        ({"lora_alpha": 10**399}, "has a number of 400 digits (10000000...)"),
        ({"r": int("9" * 4000)}, "has a number of 4000 digits (99999999...)"),
        ({"use_rslora": "false"}, "has use_rslora='false'; true or false is needed"),
        ({"base_model_name_or_path": 5}, "has base_model_name_or_path=5; a name is needed"),
        ({"revision": {}}, "has revision={}; a name is needed"),
        ({"target_modules": None}, "has target_modules=None; names or a pattern are needed"),
        ({"target_modules": []}, "has target_modules=[]; names or a pattern are needed"),
        ({"target_modules": {"q": 1}}, "has target_modules={'q': 1}; names or a pattern"),
        ({"target_modules": ["q", 1]}, "has target_modules=['q', 1]; names or a pattern"),
        ({"target_modules": "*.q_proj"}, "has target_modules='*.q_proj'; this is no regular"),
        ({"target_modules": "(" * 5000 + ")" * 5000}, "; this is no regular expression ("),
        ({"target_modules": "a" * 30_000}, "; a pattern of at most 20000 characters is read"),
        ({"target_modules": "(?:q_proj){e<=1}"}, "list the names of the modules instead of this"),
        ({"target_modules": "a{99999999999}"}, "; this is no regular expression (the repetition"),
        ({"exclude_modules": "["}, "has exclude_modules='['; this is no regular expression ("),
        ({"exclude_modules": 3}, "has exclude_modules=3; names or a pattern are needed"),
        (
            {"layers_to_transform": [0], "layers_pattern": "lay(ers"},
            "has layers_pattern='lay(ers'; this is no regular expression (",
        ),
        (
            {"layers_to_transform": [0], "layers_pattern": {"a": 1}},
            "has layers_pattern={'a': 1}; a name or names of lists are needed",
        ),
        ({"layers_to_transform": "0"}, "has layers_to_transform='0'; numbers of layers are"),
        ({"layers_to_transform": [True]}, "has layers_to_transform=[True]; numbers of layers"),
        ({"layers_pattern": "h"}, "has layers_pattern='h'; PEFT takes it with layers_to"),
        (
            {"target_modules": ".*q_proj", "layers_to_transform": [0]},
            "has layers_to_transform=[0]; PEFT takes it beside a list of names alone",
        ),
    ],
)
def test_a_field_that_cannot_work_is_refused_with_its_value(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    assert said in refusal(write(tmp_path, **fields))


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    assert "is larger than 16,777,216 bytes" in refusal(write(tmp_path, " " * (17 << 20)))
    assert "is not JSON" in refusal(write(tmp_path, "{"))
    assert "is not a folder; give the adapter's folder" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_a_pattern_that_does_not_end_is_stopped(field: str) -> None:
    pattern = r"(?:(?:q|.)+(?:.|q)+)+[^\w.]"
    names = [f"model.layers.{layer}.self_attn.{'qq' * 9}_proj" for layer in range(40)]
    selection = PeftSelection(PLAIN | {field: pattern}, "'folder'")
    start = time.process_time()  # `regex` counts the time of the process too
    with pytest.raises(AdapterFormatError, match=r"'folder' has a pattern .* more than 1 s"):
        selection.select(names)
    assert time.process_time() - start < 2


TARGETS: list[Any] = [
    ["q_proj"],
    ["self_attn.q_proj", "mlp.down_proj"],
    ["proj", "_proj", "", "down_proj"],
    ["model.layers.1.self_attn.q_proj"],
    ["layers.0.self_attn.v_proj", "model.layers.1.mlp.up_proj"],
    r".*\.(q|v)_proj",
    r"(?i).*\.Q_PROJ$",
    r"^(?!.*visual).*(?:q_proj|k_proj).*",
    r"(?:.*?(?:language|model).*?(?:self_attn|mlp).*?(?:k_proj|up_proj).*?)|(?:\bx\b)",
    r"model\.layers\.[\d]{1,}\.mlp\.(?:(?:up_proj))",
    "q_proj",
    r".*layers.\d+.self_attn.[qv]_proj|lm_head",
]
EXCLUDED: list[Any] = [None, [], "", ["q_proj"], ["layers.0.self_attn.q_proj"], r".*\.0\..*", ["x"]]
LAYERS: list[tuple[Any, Any]] = [
    (None, None),
    ([], None),
    (0, None),
    ([1], None),
    ([1], []),
    ([0], ""),
    ([0, 1], "layers"),
    ([1], ["h", "layers"]),
    ([1], [""]),
    ([1], "h|model.layers"),
    (1, r"l.*s"),
    ([7], "layers"),
]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2_moe"])
def test_modules_are_selected_as_peft_selects_them(kit: Any, family: str) -> None:
    model = kit.model(kit.config(family))
    names = [*(name for name, _ in model.named_modules() if name), "layers.1.q_proj", "q_proj"]
    compared = 0
    for targets in [*TARGETS, ["c_attn"], r"transformer\.h\.\d\..*c_proj"]:
        for excluded in EXCLUDED:
            for layers, pattern in LAYERS:
                fields = {
                    "target_modules": targets,
                    "exclude_modules": excluded,
                    "layers_to_transform": layers,
                    "layers_pattern": pattern,
                }
                try:
                    theirs = peft.LoraConfig(**fields)
                except ValueError:
                    with pytest.raises(AdapterFormatError):
                        PeftSelection(fields)
                    continue
                expected = {name for name in names if check_target_module_exists(theirs, name)}
                assert PeftSelection(fields).select(names) == expected, fields
                compared += bool(expected)
    assert compared > 50


def test_all_linear_as_text_is_pefts_shorthand(kit: Any, tmp_path: Path) -> None:
    config = kit.config("llama")
    spec = LoraSpec.from_config(config, targets="all-linear", rank=2)
    folder = save_adapter(kit.weights(spec), tmp_path / "adapter")
    file = folder / "adapter_config.json"
    for text in ("all-linear", "All-Linear"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": text}))
        assert load_adapter(folder, base_config=config).spec.groups == spec.groups
        assert load_adapter(folder, spec=spec).spec == spec
