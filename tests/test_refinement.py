"""The facade: descriptions and rows in, adapters with what was measured in their provenance out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

import text_to_lora
from text_to_lora.errors import ConfigError
from text_to_lora.files import lock
from text_to_lora.generate import TextToLora
from text_to_lora.lora import load_adapter

ROWS = tuple((f"input {i}", "red") for i in range(9))
OPTIONS: dict[str, Any] = {"steps": 3, "seconds": None, "rate": 0.02, "max_answer_tokens": 8}
TEXT = "Say red."


@pytest.fixture(scope="module")
def t2l(idle_hypernet_folder: Path) -> Iterator[TextToLora]:
    yield TextToLora.from_pretrained(idle_hypernet_folder)


@pytest.fixture(scope="module")
def adapters(t2l: TextToLora) -> text_to_lora.Adapters:
    return t2l.refine([f" {TEXT}"], [ROWS], **OPTIONS)


def test_a_refined_adapter_is_an_ordinary_folder_that_says_how_it_was_made(
    adapters: text_to_lora.Adapters, t2l: TextToLora, tmp_path: Path
) -> None:
    (folder,) = adapters.save(tmp_path / "out")
    written = load_adapter(folder, spec=adapters.weights.spec)
    for key in written.a:
        torch.testing.assert_close(written.delta(key), adapters.weights.delta(key))
    text = (folder / "provenance.json").read_text()
    provenance = json.loads(text)
    assert provenance["description"] == TEXT
    assert provenance["hypernet_fingerprint"] == t2l.fingerprint
    record = provenance["refinement"]
    rows = json.dumps([list(row) for row in ROWS], separators=(",", ":")).encode()
    assert record["rows_sha256"] == sha256(rows).hexdigest()
    assert "input 3" not in text  # the rows themselves stay with the user
    assert {"seconds", "steps", "kept_out", "outlook"} <= set(record)
    assert record["settings"]["rate"] == 0.02


def test_the_function_gives_what_the_method_gives(
    adapters: text_to_lora.Adapters, idle_hypernet_folder: Path
) -> None:
    again = text_to_lora.refine([TEXT], [ROWS], model=idle_hypernet_folder, **OPTIONS)
    for key in again.weights.a:
        assert torch.equal(again.weights.a[key], adapters.weights.a[key])
        assert torch.equal(again.weights.b[key], adapters.weights.b[key])


def test_a_list_of_rows_for_each_description_is_needed(t2l: TextToLora) -> None:
    with pytest.raises(ConfigError, match="1 lists of rows for 2 descriptions; give one each"):
        t2l.refine([TEXT, TEXT], [ROWS])
    with pytest.raises(ConfigError, match="task 2 has no rows"):
        t2l.refine([TEXT, TEXT], [ROWS, []])


def test_one_job_at_a_time_has_the_state(t2l: TextToLora, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        lock(state / ".lock", wait_seconds=0, refusal=""),
        pytest.raises(ConfigError, match=f"another job refines with the state in '{state}'"),
    ):
        t2l.refine([TEXT], [ROWS], state_dir=state, **OPTIONS)
