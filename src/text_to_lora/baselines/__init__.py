"""What a hypernetwork is compared with."""

from text_to_lora.baselines.fixed import StaticAdapter

__all__ = ["StaticAdapter"]
