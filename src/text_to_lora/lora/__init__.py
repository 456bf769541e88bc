"""What an adapter is: its spec, its weights, its files, and how it is put on a live model."""

from text_to_lora.lora.apply import adapted, merge
from text_to_lora.lora.identity import BaseModelRef, config_hash
from text_to_lora.lora.outline import Slot
from text_to_lora.lora.peft_config import read_adapter_config
from text_to_lora.lora.peft_format import load_adapter, save_adapter
from text_to_lora.lora.spec import Group, LoraSpec
from text_to_lora.lora.stats import delta_cosines, delta_errors, delta_norms
from text_to_lora.lora.weights import LoraWeights

__all__ = [
    "BaseModelRef",
    "Group",
    "LoraSpec",
    "LoraWeights",
    "Slot",
    "adapted",
    "config_hash",
    "delta_cosines",
    "delta_errors",
    "delta_norms",
    "load_adapter",
    "merge",
    "read_adapter_config",
    "save_adapter",
]
