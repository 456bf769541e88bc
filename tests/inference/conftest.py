"""The tiny folders that these tests share."""

from tiny_models import base_folder, hypernet_folder

__all__ = ["base_folder", "hypernet_folder"]
