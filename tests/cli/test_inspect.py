from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from text_to_lora.inspection import describe


def test_an_adapter_is_shown_with_its_provenance(
    t2l: Any, hypernet_folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    t2l("generate", "Say yes", "-o", tmp_path / "yes", "-m", hypernet_folder)
    lines = dict(
        line.split(maxsplit=1) for line in t2l("inspect", tmp_path / "yes").out.splitlines()
    )
    assert lines["kind"] == "adapter"
    assert lines["base"] == str(base_folder)
    assert lines["rank"] == "4"
    assert lines["parameters"] == "896"
    assert lines["provenance.description"] == "Say yes"
    assert lines["provenance.encoder"] == "hash"


def test_a_hypernetwork_is_shown(t2l: Any, hypernet_folder: Path) -> None:
    done = t2l("inspect", hypernet_folder)
    assert done.code == 0
    assert "kind                hypernetwork" in done.out
    assert "training.steps      3" in done.out


def test_json_is_what_describe_gives(t2l: Any, hypernet_folder: Path) -> None:
    assert json.loads(t2l("inspect", hypernet_folder, "--json").out) == describe(hypernet_folder)
