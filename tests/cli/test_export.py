"""t2l export: every format from the command line, and one line for what cannot be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

OUTPUTS = {"gguf": "out.gguf", "mlx": "out", "ollama": "out", "peft": "out"}


@pytest.fixture
def adapter(t2l: Any, hypernet_folder: Path, tmp_path: Path) -> Path:
    t2l("generate", "Say yes", "-o", tmp_path / "yes", "-m", hypernet_folder)
    return tmp_path / "yes"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_adapter_is_exported_without_the_weights_of_its_base(
    t2l: Any, adapter: Path, base_folder: Path, tmp_path: Path, name: str
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes((base_folder / "config.json").read_bytes())
    output = tmp_path / OUTPUTS[name]
    options = ["--engine-base", "tiny"] if name == "ollama" else []
    done = t2l("export", adapter, "--to", name, "-o", output, "--base", base, *options)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{output}  {adapter} as {name} for {base}\n"
    assert output.exists()


def test_the_base_is_the_one_that_the_adapter_names(
    t2l: Any, adapter: Path, base_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.gguf"
    done = t2l("export", adapter, "--to", "gguf", "-o", output, "--json")
    assert json.loads(done.out) == {
        "path": str(output),
        "format": "gguf",
        "base": str(base_folder),
        "adapter": str(adapter),
    }
    names = [tensor.name for tensor in GGUFReader(output).tensors]
    assert names[0] == "blk.0.attn_q.weight.lora_a"


def test_an_adapter_of_mlx_lm_becomes_one_of_peft_and_comes_back_the_same(
    t2l: Any, adapter: Path, tmp_path: Path
) -> None:
    for source, name, output in (
        (adapter, "mlx", "first"),
        (tmp_path / "first", "peft", "peft"),
        (tmp_path / "peft", "mlx", "second"),
    ):
        done = t2l("export", source, "--to", name, "-o", tmp_path / output)
        assert (done.code, done.err) == (0, "")
    assert files(tmp_path / "second") == files(tmp_path / "first")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "uses use_dora=True, which plain LoRA cannot represent"),
        ({"target_modules": ["lm_head"]}, "which selects nothing in this llama base"),
        ({"base_model_name_or_path": None}, "does not say what its base is; name it with --base"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line_and_nothing_is_written(
    t2l: Any, adapter: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    before = files(tmp_path)
    for name, output in OUTPUTS.items():
        done = t2l("export", adapter, "--to", name, "-o", tmp_path / output)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith("error: ") and message in done.err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "onnx"], "unknown format 'onnx'; choose from gguf, mlx, ollama, peft"),
        (["--to", "gguf", "--engine-base", "x"], "an export to gguf does not name its base"),
        (["--to", "ollama"], "in Ollama's library is not known; give it"),
        (["--to", "gguf", "--base", "no such"], "unknown base model 'no such'"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(
    t2l: Any, adapter: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    before = files(tmp_path)
    done = t2l("export", adapter, "-o", tmp_path / "out", *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert files(tmp_path) == before


def test_several_adapters_in_one_folder_ask_for_one(
    t2l: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    t2l("generate", "Say yes", "Say no", "-o", folder, "-m", hypernet_folder)
    done = t2l("export", folder, "--to", "gguf", "-o", tmp_path / "out.gguf")
    first = min(path for path in folder.iterdir() if path.is_dir())
    assert done.code == 2
    assert f"{str(folder)!r} holds 2 adapters; name one, as {str(first)!r}" in done.err


def test_what_exists_is_kept(t2l: Any, adapter: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "out.gguf", tmp_path / "out"
    file.write_text("precious")
    folder.mkdir()
    (folder / "precious").write_text("mine")
    before = files(tmp_path)
    for options in ([], ["--overwrite"]):
        for name, output in (("gguf", file), ("gguf", folder), ("mlx", folder), ("mlx", file)):
            done = t2l("export", adapter, "--to", name, "-o", output, *options)
            assert done.code == 2, done
            assert "choose another" in done.err, done
        done = t2l("export", adapter, "--to", "peft", "-o", adapter, *options)
        assert done.code == 2, done
    assert files(tmp_path) == before
