"""Where the default weights of text-to-lora lie: a small base model and its hypernetwork."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).parent

BASE: Path = _ROOT / "base"
HYPERNET: Path = _ROOT / "hypernet"
MULTITASK: Path = _ROOT / "multitask"
