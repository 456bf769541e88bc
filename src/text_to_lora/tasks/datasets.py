"""Data sets of Hugging Face: from the hub, from a folder that `save_to_disk` wrote, or of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError, first_line


def open_dataset(
    name: str | Path,
    *,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """Open one split of a data set by its name on the hub, or its folder.

    config: which of the data set's configurations

    Raises ConfigError when `datasets` is not installed or the data set cannot be loaded.
    """
    try:
        from datasets import Dataset, load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ConfigError("datasets is not installed; install text-to-lora[train]") from error
    folder, where = Path(name), f"{str(name)!r}, split {split!r}"
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = load_from_disk(str(folder))
            return loaded if isinstance(loaded, Dataset) else loaded[split]
        cache = None if cache_dir is None else str(cache_dir)
        return load_dataset(str(name), config, split=split, revision=revision, cache_dir=cache)
    except KeyError:
        raise ConfigError(f"cannot load {where}: it has {', '.join(loaded)}") from None
    except (DatasetsError, OSError, ValueError) as error:
        raise ConfigError(f"cannot load {where}: {first_line(error)}") from error


def label_names(dataset: Any, column: str) -> dict[str, str] | None:
    """The label by its number, as text, where a column of a data set knows its labels."""
    names = getattr((getattr(dataset, "features", None) or {}).get(column), "names", None)
    return None if names is None else {str(i): str(name) for i, name in enumerate(names)}
