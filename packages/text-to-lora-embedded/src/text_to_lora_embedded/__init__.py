"""Where the default weights of text-to-lora lie: what was trained for SmolLM2-135M-Instruct.

HYPERNET: the hypernetwork
MULTITASK: one PEFT adapter trained on all training tasks, the baseline of the reports; not there yet
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

ROOT: Path = Path(__file__).parent
HYPERNET: Path = ROOT / "hypernet"
MULTITASK: Path = ROOT / "multitask"
