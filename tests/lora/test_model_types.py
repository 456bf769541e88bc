"""PEFT loads exactly the slots that we write, proved by PEFT and a dry run, for every model type."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.utils import transformers_weight_conversion as conversion
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from text_to_lora.errors import AdapterFormatError, SpecError, T2LWarning
from text_to_lora.lora import LoraSpec, adapted, load_adapter, merge, save_adapter
from text_to_lora.lora.identity import base_model_ref
from text_to_lora.lora.outline import ModelOutline, rewritten_names
from tiny_lora import make_weights
from tiny_types import MODEL_TYPES, tiny_config

PAGE = Path(__file__).parents[2] / "docs" / "model-types.md"

# One of every kind of module that is left out, beside the plain ones.
FEW = {
    "plain": "llama",
    "Conv1D": "gpt2",
    "fused experts": "gpt_oss",
    "names of experts rewritten": "deepseek_v3",
    "names of experts rewritten, with a shared expert": "glm4_moe",
    "names of experts rewritten, with linear attention": "qwen3_next",
    "names of experts rewritten, in dense layers": "ernie4_5_moe",
    "refused by PEFT": "mamba",
    "refused by PEFT in a hybrid": "nemotron_h",
    "read by its weight": "jamba",
    "read by its weight in training": "gemma3n_text",
    "cross-attention": "bart",
    "layers that text skips": "mllama",
    "renamed by PEFT": "laguna",
    "shared blocks": "zamba",
    "shared blocks with parts of their own": "zamba2",
    "grouped": "deepseek_v4",
}


@dataclass(frozen=True)
class Trial:
    """What came of one model type.

    adapted: paths of the slots of "all-linear"; left_out: path -> why; refused: why no adapter is
    made at all; untried: why there is no tiny random model to try
    """

    adapted: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    refused: str = ""
    untried: str = ""


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ").split(". ")[0][:160].strip()


def make_model(model_type: str) -> PreTrainedModel:
    """A tiny random model in which every module tells in the logits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(
            tiny_config(model_type), attn_implementation="eager"
        )
        model.eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    assert isinstance(model, PreTrainedModel)
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    ids = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(5))
    return model(input_ids=ids, use_cache=False).logits.float()


def note(called: set[str], name: str, *_: Any) -> None:
    called.add(name)


def uncalled(model: PreTrainedModel, names: set[str]) -> set[str]:
    """Those of the modules whose hooks do not fire, in evaluation or in training."""
    missed: set[str] = set()
    for training in (False, True):
        called: set[str] = set()
        hooks = [
            model.get_submodule(name).register_forward_hook(partial(note, called, name))
            for name in names
        ]
        model.train(training)
        try:
            logits(model)
        except ValueError as error:
            assert training and "axial_pos_shape" in str(error)  # Reformer's fixed training length
            called = set(names)
        model.train(False)
        for hook in hooks:
            hook.remove()
        missed |= names - called
    return missed


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what PEFT and transformers warn of; what they do is looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_with_peft(model: PreTrainedModel, folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """PEFT's model, and the tensors that it holds, by the names that a file has."""
    with quiet():
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(folder)).eval()
    loaded = {
        name.replace(".default.", "."): parameter
        for name, parameter in theirs.named_parameters()
        if ".lora_" in name
    }
    return theirs, loaded


def spread(values: Tensor) -> float:
    return float(values.abs().max())


def try_type(model_type: str, folder: Path) -> Trial:
    """Make a tiny model, write an adapter of "all-linear", and let PEFT load it.

    Fails where PEFT loads other slots or numbers, a slot is not called, PEFT's logits are not
    ours, or merged is not adapted.
    """
    with quiet():
        try:
            model = make_model(model_type)
        except Exception as error:
            return Trial(untried=first_line(error))
        try:
            config = tiny_config(model_type)
            outline = ModelOutline.from_config(config)
            spec = LoraSpec.from_config(config, targets="all-linear", rank=2, name="base")
            spec = replace(spec, base=base_model_ref(model.config, name="base"))
        except SpecError as error:
            return Trial(refused=str(error))
        try:
            plain = logits(model)
        except ValueError as error:
            return Trial(untried=first_line(error))
    weights = make_weights(spec, seed=1)
    names = {spec.module_name(slot.layer, slot.module) for slot in spec.slots}
    with quiet():
        assert uncalled(model, names) == set()
    save_adapter(weights, folder)
    theirs, loaded = load_with_peft(model, folder)
    written = load_file(folder / "adapter_model.safetensors")
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], written[name]) for name in written)
    with quiet():
        with adapted(model, weights):
            ours = logits(model)
        scale = spread(ours - plain)
        assert scale > 0.01
        torch.testing.assert_close(ours, logits(theirs), rtol=1e-3, atol=1e-3 * scale)
        merge(model, weights)
        # Float32 sums in another order; recurrent models carry the difference along.
        torch.testing.assert_close(logits(model), ours, rtol=1e-3, atol=1e-3 * scale)
    reasons = {path: reason for (_, path), reason in sorted(outline.refused.items())}
    return Trial(
        adapted=tuple(sorted({slot.module for slot in spec.slots})),
        left_out=tuple(sorted(reasons.items())),
    )


@pytest.mark.parametrize("model_type", FEW.values(), ids=FEW)
def test_peft_loads_exactly_what_we_write(model_type: str, tmp_path: Path) -> None:
    trial = try_type(model_type, tmp_path / "adapter")
    assert trial.adapted, trial


@pytest.mark.slow
def test_the_page_of_model_types_says_what_trials_give(tmp_path: Path) -> None:
    trials, failures = {}, []
    for model_type in MODEL_TYPES:
        try:
            trials[model_type] = try_type(model_type, tmp_path / model_type)
        except Exception as error:
            failures.append(f"{model_type}: {first_line(error)}")
    assert failures == []
    page = make_page(trials)
    known = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    PAGE.write_text(page, encoding="utf-8")
    assert page == known, f"{PAGE} was out of date and has been written anew; look at it"


def make_page(trials: dict[str, Trial]) -> str:
    """The table of all model types as a page of the docs."""
    exact = [name for name, trial in trials.items() if trial.adapted and not trial.left_out]
    partly = {name: trial for name, trial in trials.items() if trial.left_out}
    refused = {name: trial.refused for name, trial in trials.items() if trial.refused}
    untried = {name: trial.untried for name, trial in trials.items() if trial.untried}
    lines = [
        "# Model types",
        "",
        "<!-- written by `pytest -m slow tests/lora/test_model_types.py` -->",
        "",
        f"Which causal language models of transformers {transformers.__version__} an adapter can be "
        f"made for. For each of its {len(trials)} model types a tiny random model was made where "
        "that is possible. An adapter on `all-linear` was written, and PEFT "
        f"{peft.__version__} loaded it. A type counts as exact when PEFT loads the very slots and "
        "numbers that were written, the model calls every one of them in evaluation and in training, "
        "PEFT's logits equal ours, and the merged model gives the logits of the adapted one.",
        "",
        f"## Exact ({len(exact)})",
        "",
        "`all-linear` takes every linear module of the decoder layers, except routers and routed "
        "experts, which choose among tokens and cannot carry one adapter a row.",
        "",
        ", ".join(f"`{name}`" for name in exact),
        "",
        f"## Exact, with modules left out ({len(partly)})",
        "",
        "`all-linear` leaves these modules out, and a target that names them is refused with the "
        "reason.",
        "",
        "| model type | left out | why |",
        "|---|---|---|",
    ]
    for name, trial in partly.items():
        by_reason: dict[str, list[str]] = {}
        for path, reason in trial.left_out:
            by_reason.setdefault(reason, []).append(path)
        for reason, paths in by_reason.items():
            lines.append(f"| `{name}` | {', '.join(f'`{path}`' for path in paths)} | {reason} |")
    for title, text, rows in (
        ("Refused by name", "No adapter is made for these.", refused),
        ("Not tried", "No tiny random model of these can be made or run on text alone.", untried),
    ):
        lines += ["", f"## {title} ({len(rows)})", "", text, "", "| model type | what is said |"]
        lines += ["|---|---|", *(f"| `{name}` | {said} |" for name, said in rows.items())]
    return "\n".join(lines) + "\n"


def test_what_peft_rewrites_is_what_peft_says() -> None:
    patterns = conversion._MODEL_TO_CONVERSION_PATTERN
    for model_type in {*patterns, *MODEL_TYPES}:
        names = conversion._MOE_TARGET_MODULE_MAPPING.get(patterns.get(model_type), {})
        assert rewritten_names(model_type) == set(names), model_type


@pytest.mark.parametrize(
    ("model_type", "target", "reason"),
    [
        ("deepseek_v3", "down_proj", "PEFT takes that name for the fused experts of deepseek_v3"),
        ("deepseek_v3", "mlp.gate_proj", "PEFT takes that name for the fused experts"),
        ("mamba", "out_proj", "PEFT refuses every adapter that has one on it in mamba"),
        ("jamba", "dt_proj", "jamba reads its weight without calling it"),
        ("bart", "encoder_attn.q_proj", "without an encoder the model does not call it"),
        ("laguna", "shared_experts.up_proj", "PEFT renames its tensors in laguna"),
        ("deepseek_v4", "o_a_proj", "deepseek_v4 multiplies groups of its input"),
        ("zamba", "shared_transf.self_attn.q_proj", "it shares its weight with another module"),
    ],
)
def test_a_named_target_that_cannot_carry_an_adapter_is_refused_with_the_reason(
    model_type: str, target: str, reason: str
) -> None:
    with pytest.raises(
        SpecError, match=rf"target '{target}' means .*cannot carry.*: {reason}"
    ) as c:
        LoraSpec.from_config(tiny_config(model_type), targets=[target])
    assert "choose from" in str(c.value)
    assert "\n" not in str(c.value)


def test_a_name_shared_with_what_cannot_carry_an_adapter_is_told() -> None:
    with pytest.warns(T2LWarning, match=r"adapts self_attn.q_proj but not encoder_attn.q_proj: wi"):
        spec = LoraSpec.from_config(tiny_config("bart"), targets=["q_proj"])
    assert {slot.module for slot in spec.slots} == {"self_attn.q_proj"}


@pytest.mark.parametrize("model_type", ["mllama", "emu3", "bart", "prophetnet", "qwen3_5"])
def test_the_configuration_of_a_folder_and_of_the_loaded_model_give_one_outline(
    model_type: str,
) -> None:
    config = tiny_config(model_type)
    if model_type == "bart":
        config.decoder_layers = 3  # more than the encoder has
    with quiet():
        model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    assert ModelOutline.from_config(model.config) == ModelOutline.from_config(config)


def test_layers_that_text_skips_are_left_out() -> None:
    spec = LoraSpec.from_config(tiny_config("mllama"), targets=["mlp.down_proj"])
    assert [slot.layer for slot in spec.slots] == [0, 2]


def test_full_paths_stand_where_peft_would_rewrite_a_pattern(tmp_path: Path) -> None:
    model = make_model("deepseek_v3")
    outline = ModelOutline.from_config(model.config)
    whole = LoraSpec.from_config(model.config, targets=["q_a_proj", "kv_b_proj"], rank=2)
    slots = [s for s in whole.slots if (s.layer, s.module.rpartition(".")[2]) != (1, "kv_b_proj")]
    spec = LoraSpec.from_outline(outline, slots, base=whole.base, rank=2, alpha=4.0, rslora=False)
    folder = save_adapter(make_weights(spec, seed=1), tmp_path / "adapter")
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    names = sorted(spec.module_name(slot.layer, slot.module) for slot in slots)
    assert targets == names
    _, loaded = load_with_peft(model, folder)
    assert loaded.keys() == load_file(folder / "adapter_model.safetensors").keys()


def test_a_foreign_adapter_on_what_peft_drops_is_refused(tmp_path: Path) -> None:
    config = make_model("deepseek_v3").config
    spec = LoraSpec.from_config(config, targets=["q_a_proj"], rank=2)
    folder = save_adapter(make_weights(spec, seed=1), tmp_path / "adapter")
    file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"target_modules": ["q_a_proj", "down_proj"]}))
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_"
    save_file(
        load_file(weights)
        | {f"{name}A.weight": torch.ones(2, 48), f"{name}B.weight": torch.ones(32, 2)},
        weights,
    )
    with pytest.raises(AdapterFormatError, match=r"adapts 'mlp.down_proj', which .*: PEFT takes"):
        load_adapter(folder, base_config=config)
