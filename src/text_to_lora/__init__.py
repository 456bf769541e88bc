"""Text-to-LoRA: a task description in, a LoRA adapter for a frozen language model out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from text_to_lora.encoders import load_encoder as load_encoder
    from text_to_lora.errors import T2LError as T2LError
    from text_to_lora.errors import T2LWarning as T2LWarning
    from text_to_lora.generate import Adapters as Adapters
    from text_to_lora.generate import TextToLora as TextToLora
    from text_to_lora.hypernet.checkpoint import load_hypernet as load_hypernet
    from text_to_lora.hypernet.checkpoint import save_hypernet as save_hypernet
    from text_to_lora.lora.apply import adapted as adapted
    from text_to_lora.lora.apply import merge as merge
    from text_to_lora.lora.peft_format import load_adapter as load_adapter
    from text_to_lora.lora.peft_format import save_adapter as save_adapter
    from text_to_lora.lora.spec import LoraSpec as LoraSpec
    from text_to_lora.lora.weights import LoraWeights as LoraWeights
    from text_to_lora.models.base import load_base as load_base
    from text_to_lora.refinement import refine as refine

# Where each public name lives; imported on first use, so that `import text_to_lora` is light.
_PUBLIC = {
    "Adapters": "generate",
    "LoraSpec": "lora.spec",
    "LoraWeights": "lora.weights",
    "T2LError": "errors",
    "T2LWarning": "errors",
    "TextToLora": "generate",
    "adapted": "lora.apply",
    "load_adapter": "lora.peft_format",
    "load_base": "models.base",
    "load_encoder": "encoders",
    "load_hypernet": "hypernet.checkpoint",
    "merge": "lora.apply",
    "refine": "refinement",
    "save_adapter": "lora.peft_format",
    "save_hypernet": "hypernet.checkpoint",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'text_to_lora' has no attribute {name!r}")
    return getattr(import_module(f"text_to_lora.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
