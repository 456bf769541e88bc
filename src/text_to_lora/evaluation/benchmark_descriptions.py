"""Descriptions of public benchmarks: those of this package, or of a user's YAML file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml

from text_to_lora.errors import ConfigError, first_line


def load_descriptions(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Read the descriptions of benchmarks, by the name of lm-eval's task.

    path: YAML file of a text, or a list of texts, for each task; None for those of this package

    Raises ConfigError when the file cannot be read or holds something else.
    """
    source = path or files("text_to_lora.evaluation") / "benchmark_descriptions.yaml"
    try:
        payload = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = first_line(error)
        raise ConfigError(f"cannot read the descriptions of {str(path)!r}: {reason}") from None
    entries = payload.items() if isinstance(payload, dict) else [("", payload)]
    descriptions = {
        name: (value,) if isinstance(value, str) else tuple(value or ()) for name, value in entries
    }
    for name, texts in descriptions.items():
        if not name or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ConfigError(
                f"{str(path)!r} gives the descriptions {list(texts)!r} of {name!r}; write a text, or a "
                "list of texts, for each task's name"
            )
    return descriptions
