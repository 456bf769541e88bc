"""What a hypernetwork is compared with, each behind the protocol Baseline, as is T2L itself."""

from text_to_lora.baselines.described import JUNK, Junk, Matched, Paraphrase, Shuffled
from text_to_lora.baselines.fixed import Mean, Multitask, StaticAdapter
from text_to_lora.baselines.inputs import Hyperdecoder
from text_to_lora.baselines.library import Oracle, Retrieval
from text_to_lora.baselines.prompting import Base, InContext, InPrompt
from text_to_lora.baselines.protocol import Baseline, Setup
from text_to_lora.baselines.routing import Arrow

__all__ = [
    "JUNK",
    "Arrow",
    "Base",
    "Baseline",
    "Hyperdecoder",
    "InContext",
    "InPrompt",
    "Junk",
    "Matched",
    "Mean",
    "Multitask",
    "Oracle",
    "Paraphrase",
    "Retrieval",
    "Setup",
    "Shuffled",
    "StaticAdapter",
]
