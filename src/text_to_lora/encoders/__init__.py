"""Text to task embedding: encoders behind one protocol, their configuration, and a disk cache.

Importing this package imports no model library; that happens when an encoder is loaded.
"""

from text_to_lora.encoders.base import TextEncoder, prepare
from text_to_lora.encoders.cache import CachedEncoder
from text_to_lora.encoders.config import EncoderConfig, TextSettings
from text_to_lora.encoders.hashed import HashEncoder
from text_to_lora.encoders.language_model import LanguageModelEncoder
from text_to_lora.encoders.load import load_encoder
from text_to_lora.encoders.one_hot import OneHotEncoder

__all__ = [
    "CachedEncoder",
    "EncoderConfig",
    "HashEncoder",
    "LanguageModelEncoder",
    "OneHotEncoder",
    "TextEncoder",
    "TextSettings",
    "load_encoder",
    "prepare",
]
