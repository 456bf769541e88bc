"""Task embedding to LoraWeights: the hypernetwork, its heads, its files.

Importing this package imports neither transformers nor peft.
"""

from text_to_lora.hypernet.checkpoint import Loaded, load_hypernet, save_hypernet
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.model import Hypernetwork

__all__ = ["HypernetConfig", "Hypernetwork", "Loaded", "load_hypernet", "save_hypernet"]
