"""What an adapter is: its spec, its weights, its files, and how it is put on a live model."""

from text_to_lora.lora.apply import adapted as adapted
from text_to_lora.lora.apply import merge as merge
from text_to_lora.lora.identity import BaseModelRef as BaseModelRef
from text_to_lora.lora.identity import config_hash as config_hash
from text_to_lora.lora.outline import Slot as Slot
from text_to_lora.lora.peft_config import read_adapter_config as read_adapter_config
from text_to_lora.lora.peft_format import load_adapter as load_adapter
from text_to_lora.lora.peft_format import save_adapter as save_adapter
from text_to_lora.lora.spec import LoraSpec as LoraSpec
from text_to_lora.lora.stats import delta_cosines as delta_cosines
from text_to_lora.lora.stats import delta_errors as delta_errors
from text_to_lora.lora.stats import delta_norms as delta_norms
from text_to_lora.lora.weights import LoraWeights as LoraWeights
