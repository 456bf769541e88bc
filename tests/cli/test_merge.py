from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tiny_models import make_config, make_tokenizer

IDS = torch.arange(3, 27).view(2, 12)


@pytest.fixture
def adapter(t2l: Any, hypernet_folder: Path, tmp_path: Path) -> Path:
    t2l("generate", "Say yes", "-o", tmp_path / "yes", "-m", hypernet_folder)
    return tmp_path / "yes"


def test_the_merged_model_gives_the_logits_of_peft(
    t2l: Any, adapter: Path, base_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    done = t2l("merge", adapter, "-o", tmp_path / "merged")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{tmp_path / 'merged'}  {base_folder} with {adapter} merged, float32\n"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    base = AutoModelForCausalLM.from_pretrained(base_folder).eval()
    with torch.no_grad():
        plain = base(IDS).logits
        theirs = PeftModel.from_pretrained(base, adapter)(IDS).logits
        ours = merged(IDS).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=0.1)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["rope_theta"] == base.config.rope_parameters["rope_theta"]


def test_an_adapter_of_mlx_lm_merges_like_the_one_that_it_was_exported_from(
    t2l: Any, adapter: Path, base_folder: Path, tmp_path: Path
) -> None:
    t2l("export", adapter, "--to", "mlx", "-o", tmp_path / "mlx")
    for source, target in ((adapter, "one"), (tmp_path / "mlx", "two")):
        done = t2l("merge", source, "-o", tmp_path / target, "--base", base_folder)
        assert (done.code, done.err) == (0, "")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one)


def test_the_dtype_is_that_of_the_base_unless_chosen(
    t2l: Any, adapter: Path, tmp_path: Path
) -> None:
    base = tmp_path / "half"
    LlamaForCausalLM(make_config()).to(torch.bfloat16).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    for options, expected in (((), torch.bfloat16), (("--dtype", "float32"), torch.float32)):
        command = ("merge", adapter, "-o", tmp_path / "out", "--base", base, "--overwrite")
        done = t2l(*command, "--json", *options)
        tensors = load_file(tmp_path / "out" / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {expected}
        assert json.loads(done.out)["dtype"] == str(expected).removeprefix("torch.")


def test_an_adapter_without_a_base_asks_for_one(t2l: Any, adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    done = t2l("merge", adapter, "-o", tmp_path / "merged")
    assert done.code == 2
    assert "does not say what its base is; name it with --base" in done.err
