"""Where the default weights of text-to-lora lie: what was trained for SmolLM2-135M-Instruct.

HYPERNET: the hypernetwork
MULTITASK: one PEFT adapter trained on all training tasks, a baseline of the reports
MULTITASK_IN_PROMPT: the same, trained with the task's description in its prompt
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

ROOT: Path = Path(__file__).parent
HYPERNET: Path = ROOT / "hypernet"
MULTITASK: Path = ROOT / "multitask"
MULTITASK_IN_PROMPT: Path = ROOT / "multitask-in-prompt"
