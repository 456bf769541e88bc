"""Reads the wordings and word lists that stand as YAML files beside the modules."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def load_texts(name: str) -> Any:
    """Read the file `name`.yaml of this package."""
    return yaml.safe_load((files(__package__) / f"{name}.yaml").read_text(encoding="utf-8"))
