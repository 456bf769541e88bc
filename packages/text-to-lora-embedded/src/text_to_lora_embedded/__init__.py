"""Where the default weights of text-to-lora lie: a small base model and what was trained for it.

BASE: the base model, as `AutoModelForCausalLM` loads it; HYPERNET: its hypernetwork
MULTITASK: one PEFT adapter trained on all training tasks, the baseline of the reports
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

ROOT: Path = Path(__file__).parent
BASE: Path = ROOT / "base"
HYPERNET: Path = ROOT / "hypernet"
MULTITASK: Path = ROOT / "multitask"
