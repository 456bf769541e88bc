from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def test_hypernetworks_below_a_folder_are_listed(
    t2l: Any, hypernet_folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(hypernet_folder, tmp_path / "runs" / "good")
    broken = Path(shutil.copytree(hypernet_folder, tmp_path / "runs" / "broken"))
    (broken / "model.safetensors").write_bytes(b"short")
    found = {item["name"]: item for item in json.loads(t2l("models", tmp_path, "--json").out)}
    good = found[str(tmp_path / "runs" / "good")]
    assert (good["kind"], good["base"], good["rank"]) == ("hypernetwork", str(base_folder), 4)
    assert found[str(broken)]["kind"] == "unusable"
    assert "embedded" in found
    assert found["SakanaAI/text-to-lora/trained_t2l/gemma_2b_t2l"]["base"] == "google/gemma-2-2b-it"

    text = t2l("models", tmp_path).out
    assert f"{tmp_path / 'runs' / 'good'}  for {base_folder}, head joint, rank 4, 20,640" in text
    assert f"{broken}  cannot be used: " in text
    assert "for google/gemma-2-2b-it; download it, then t2l convert" in text
