"""Settings of tiny training runs, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Settings of parts that read the base's token states.
TOKENS: dict[str, Any] = {
    "read": True,
    "attention_size": 8,
    "layer_stride": 1,
    "direct": ["self_attn.o_proj", "mlp.down_proj"],
}


def merge(sections: dict[str, dict[str, Any]], changes: dict[str, Any]) -> dict[str, Any]:
    """Sections with the fields of other sections over theirs."""
    return sections | {name: sections.get(name, {}) | fields for name, fields in changes.items()}


def read_history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def result_bytes(folder: Path) -> list[bytes]:
    """The weights selected and the last ones."""
    return [(folder / part / "model.safetensors").read_bytes() for part in ("hypernet", "last")]
