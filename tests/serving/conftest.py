"""The tiny folders that these tests share."""

from tiny_models import (
    base_folder,
    described_hypernet_folder,
    hypernet_folder,
    idle_hypernet_folder,
)

__all__ = ["base_folder", "described_hypernet_folder", "hypernet_folder", "idle_hypernet_folder"]
