"""The rotary base where other engines look for it: at the top of a saved model's config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text_to_lora.files import read_json, write_json


def repeat_rotary_base(folder: Path) -> None:
    """Write `rope_theta`, and `rope_scaling` where there is one, beside the `rope_parameters` of a model.

    transformers 5 writes `rope_parameters` alone, and reads all three. mlx-lm 0.32 takes the other two
    for most model types, and its default base of 10,000 without a word where they are missing. Where
    kinds of layers have parameters of their own, the base of full attention is repeated.
    """
    file = folder / "config.json"
    content: dict[str, Any] = read_json(file)
    for part in (content, content.get("text_config") or {}):
        parameters = part.get("rope_parameters") or {}
        rope = parameters.get("full_attention", parameters)
        if "rope_theta" in rope:
            part.setdefault("rope_theta", rope["rope_theta"])
        if parameters.get("rope_type", "default") != "default":
            part.setdefault("rope_scaling", parameters)
    write_json(file, content)
