"""What a run says of itself: a check of its tasks before it starts, then its time and memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import torch

from text_to_lora.tasks.task import Task
from text_to_lora.training.config import DataSection
from text_to_lora.training.loop import MEASURED_STEPS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS: Final = 40  # of a task whose lengths are measured, so that hundreds of tasks take seconds


def tell_findings(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    data: DataSection,
    report: Callable[[str], None],
) -> None:
    """Report what speaks against the tasks of a run, as `t2l tasks check` finds it on a sample of rows.

    tasks: those that the user gave, without synthetic families
    """
    from text_to_lora.tasks.checking.check import Measure, check_tasks

    limits = data.max_prompt_tokens, data.max_answer_tokens, data.max_description_tokens
    for finding in check_tasks(tasks, Measure(tokenizer, *limits, rows=_ROWS)).findings:
        report(f"check: {finding}")


def estimate_line(seconds: float, steps_left: int, device: torch.device) -> str:
    """Time of a step and of those that are left, and the most memory so far.

    seconds: of one step, without validation
    """
    minutes = seconds * steps_left / 60
    left = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return (
        f"measured over {MEASURED_STEPS} steps: {seconds:.2f} s a step, so about {left} for the "
        f"{steps_left:,} steps that are left, without validation; {_memory(device)}"
    )


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        used = torch.cuda.max_memory_reserved(device)
        total = torch.cuda.get_device_properties(device).total_memory
        return f"at most {used / 1e9:.1f} of {total / 1e9:.1f} GB of the GPU's memory so far"
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return "memory is not measured on this system"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"at most {used / 1e9:.1f} GB of memory so far"
