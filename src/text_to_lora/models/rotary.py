"""The rotary base where other engines look for it: at the top of a saved model's config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def repeat_rotary_base(folder: Path) -> None:
    """Write `rope_theta`, and `rope_scaling` where there is one, beside the `rope_parameters` of a model.

    transformers 5 writes `rope_parameters` alone, and reads all three. mlx-lm 0.32 takes the other two
    for most model types, and its default base of 10,000 without a word where they are missing. Where
    kinds of layers have parameters of their own, the base of full attention is repeated.
    """
    file = folder / "config.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for part in (content, content.get("text_config") or {}):
        parameters = part.get("rope_parameters") or {}
        rope = parameters.get("full_attention", parameters)
        if "rope_theta" in rope:
            part.setdefault("rope_theta", rope["rope_theta"])
        if parameters.get("rope_type", "default") != "default":
            part.setdefault("rope_scaling", parameters)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(f"{text}\n", encoding="utf-8")
