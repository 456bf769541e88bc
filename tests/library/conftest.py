"""The tiny models and adapters that these tests share."""

from tiny_lora import family, folder, kit, llama, llama_spec

__all__ = ["family", "folder", "kit", "llama", "llama_spec"]
