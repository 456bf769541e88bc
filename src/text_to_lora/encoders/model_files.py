"""Where an encoder's files lie (local folder or hub), and the hash that stands for its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from text_to_lora.errors import ConfigError, first_line
from text_to_lora.files import check_no_adapter, content_hash, file_hash

_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNUSED = ["onnx/*", "openvino/*"]


def find_folder(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The folder of a model, and its commit if it is one of the hub.

    name: a local folder, or a model of the hub, fetched when it is not in the hub's cache

    Raises ConfigError when there is no such model, the hub is not reached, or the folder holds
    an adapter beside the model or no safetensors weights.
    """
    folder, commit = Path(name), None
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            folder = Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNUSED
                )
            )
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ConfigError(
                f"the text encoder {name!r} is neither a local folder nor on the hub as reached "
                f"from here ({type(error).__name__}); give a folder, or use 'minilm'"
            ) from error
        commit = folder.name
    check_no_adapter(folder, f"text encoder {name!r}")
    if not weight_files(folder):
        raise ConfigError(f"{str(folder)!r} holds no .safetensors weights; save the model as such")
    return folder, commit


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that PyTorch loads, in a fixed order."""
    files = (file.relative_to(folder) for file in folder.rglob("*.safetensors"))
    return sorted(folder / file for file in files if file.parts[0] not in ("onnx", "openvino"))


def load_strictly(model_class: Any, folder: Path, **options: Any) -> Any:
    """Call `model_class.from_pretrained` without remote code; the model comes in eval mode.

    Raises ConfigError when a file is broken, a weight is missing or has another shape, or the
    model needs code of its own.
    """
    try:
        model, report = model_class.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, **options
        )
    except Exception as error:  # whatever transformers and safetensors raise for broken files
        raise ConfigError(
            f"the text encoder in {str(folder)!r} cannot be loaded: {first_line(error)}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(
            f"the text encoder in {str(folder)!r} lacks {len(missing)} weights, "
            f"{missing[0]!r} first; fetch it anew"
        )
    return model.eval()


def folder_hash(folder: Path) -> str:
    """SHA-256 over the weights, the tokenizer and the pooling of a model's folder."""
    others = ["tokenizer.json", "vocab.txt", "sentence_bert_config.json", "1_Pooling/config.json"]
    files = weight_files(folder) + [folder / name for name in others if (folder / name).is_file()]
    return content_hash([[file.relative_to(folder).as_posix(), file_hash(file)] for file in files])


def module_hash(module: nn.Module) -> str:
    """SHA-256 over a live module's tensors, rounded to bfloat16.

    Rounded, so that a model has one hash whether loaded in fp32 or bfloat16.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        rounded = tensor.detach().to(torch.bfloat16).cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(rounded.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
