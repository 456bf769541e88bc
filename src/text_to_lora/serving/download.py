"""An adapter as one file that a browser or a script downloads."""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from pathlib import Path

from text_to_lora.serving.service import Service


def pack(service: Service, name: str, form: str) -> tuple[bytes, str]:
    """An adapter in a format of `t2l export`, and the file's name; a folder becomes a zip file.

    Raises UnknownModelError when there is no such adapter, and what exporting raises.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = service.export(name, form, Path(temporary))
        if path.is_file():
            return path.read_bytes(), path.name
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for file in sorted(path.iterdir()):
                entry = zipfile.ZipInfo(f"{path.name}/{file.name}")  # of 1980: equal bytes
                entry.external_attr = 0o644 << 16
                with archive.open(entry, "w") as target, file.open("rb") as source:
                    shutil.copyfileobj(source, target)
        return content.getvalue(), f"{path.name}-{form}.zip"
