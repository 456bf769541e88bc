"""The same description gives the same bytes, in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_fresh_processes_write_the_same_bytes_under_any_hash_seed(
    hypernet_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "text_to_lora.cli", "generate", "Say yes", "Answer in French"]
    runs = {
        seed: subprocess.Popen(
            [*command, "-o", tmp_path / seed, "-m", hypernet_folder],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        )
        for seed in ("0", "4242")
    }
    assert [process.wait() for process in runs.values()] == [0, 0]
    first, other = (
        {
            str(file.relative_to(tmp_path / seed)): file.read_bytes()
            for file in sorted((tmp_path / seed).rglob("*"))
            if file.is_file()
        }
        for seed in runs
    )
    assert len(first) == 6  # two adapters of three files
    assert other == first
