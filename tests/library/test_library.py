"""Libraries: views and means, the file byte for byte, memory mapping, and everything refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError, T2LWarning
from text_to_lora.library.library import (
    AdapterLibrary,
    LibraryEntry,
    load_library,
    save_library,
    write_library,
)
from text_to_lora.lora import LoraSpec, LoraWeights

TASKS = ["sums", "sort/words", "größer", "yes-no"]


@pytest.fixture
def library(kit: Any, llama_spec: LoraSpec) -> AdapterLibrary:
    entries = [
        LibraryEntry(task, (f"Do {task}.",), 1.0 + place, 2.0, 10 * place, 800, "trained")
        for place, task in enumerate(TASKS)
    ]
    return AdapterLibrary(kit.weights(llama_spec, 4), entries, training={"seed": 3})


@pytest.fixture
def saved(library: AdapterLibrary, tmp_path: Path) -> Path:
    return save_library(library, tmp_path / "library")


def tensors_of(weights: LoraWeights) -> Iterator[tuple[str, torch.Tensor]]:
    for side, tensors in (("A", weights.a), ("B", weights.b)):
        for key, tensor in tensors.items():
            yield f"{side}.{key}", tensor


def assert_same(one: LoraWeights, other: LoraWeights) -> None:
    assert one.spec == other.spec
    for (name, tensor), (_, expected) in zip(tensors_of(one), tensors_of(other), strict=True):
        assert torch.equal(tensor, expected), name


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    file = folder / "library.safetensors"
    tensors: dict[str, Any] = load_file(file)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()} | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


def flip_bit(folder: Path, name: str, adapter: int) -> None:
    """Change the lowest bit of the first number of one adapter's tensor in the file."""
    file = folder / "library.safetensors"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])[name]
    begin, end = header["data_offsets"]
    content[8 + length + begin + adapter * (end - begin) // header["shape"][0]] ^= 1
    file.write_bytes(content)


def test_what_is_saved_is_read(library: AdapterLibrary, saved: Path) -> None:
    read = load_library(saved)
    assert read.names == TASKS
    assert len(read) == 4
    assert read.training == {"seed": 3}
    assert_same(read.weights, library.weights)
    for read_entry, entry in zip(read.entries, library.entries, strict=True):
        assert read_entry.hash
        assert (
            read_entry.task,
            read_entry.descriptions,
            read_entry.validation_loss,
            read_entry.steps,
        ) == (
            entry.task,
            entry.descriptions,
            entry.validation_loss,
            entry.steps,
        )
    assert read.fingerprint == library.fingerprint


def test_the_file_is_that_of_the_safetensors_library(
    library: AdapterLibrary, saved: Path, tmp_path: Path
) -> None:
    save_file(dict(tensors_of(library.weights)), tmp_path / "theirs", metadata={"format": "pt"})
    assert (saved / "library.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()
    index = json.loads((saved / "index.json").read_text())
    assert {key: index[key] for key in ("format", "version", "dtype")} == {
        "format": "text-to-lora library",
        "version": 1,
        "dtype": "float32",
    }
    assert index["spec"] == library.spec.to_dict()


def test_the_hash_is_that_of_names_and_bytes(library: AdapterLibrary, saved: Path) -> None:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(library.adapter("größer"))):
        digest.update(name.encode() + b"\0" + tensor.numpy().tobytes())
    assert load_library(saved).entry("größer").hash == digest.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_dtype_of_the_file_can_be_chosen(
    library: AdapterLibrary, tmp_path: Path, dtype: torch.dtype
) -> None:
    read = load_library(save_library(library, tmp_path / "library", dtype=dtype))
    assert read.weights.dtype == dtype
    assert_same(read.weights, library.weights.to(dtype=dtype))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_reading_maps_the_file_and_copies_nothing(kit: Any, tmp_path: Path) -> None:
    def private() -> int:
        """Memory of this process that is no file's, in bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    spec = LoraSpec.from_config(kit.config("llama"), targets="all-linear", rank=64)
    weights = kit.weights(spec, 256)
    size = weights.num_bytes
    assert size > 2**25
    entries = [LibraryEntry(f"task{index}") for index in range(256)]
    saved = save_library(AdapterLibrary(weights, entries), tmp_path / "library")
    before = private()
    library = load_library(saved)
    part = library.select(library.names[:64])
    assert private() - before < size / 8
    assert str(saved) in Path("/proc/self/maps").read_text()
    assert_same(
        part.weights,
        LoraWeights(
            spec,
            *(
                {key: tensor[:64] for key, tensor in tensors.items()}
                for tensors in (weights.a, weights.b)
            ),
        ),
    )


def test_neighbours_in_order_are_views_and_others_copies(library: AdapterLibrary) -> None:
    def starts(part: AdapterLibrary) -> int:
        return part.weights.a["self_attn.q_proj"].untyped_storage().data_ptr()

    for tasks in (TASKS, TASKS[:2], TASKS[1:3], TASKS[3:]):
        part = library.select(tasks)
        assert part.names == tasks
        assert starts(part) == starts(library)
    part = library.select(["yes-no", "sums"])
    assert starts(part) != starts(library)
    assert [entry.validation_loss for entry in part.entries] == [4.0, 1.0]
    for place, task in enumerate(("yes-no", "sums")):
        assert_same(part.weights.unbind()[place], library.adapter(task))
    assert part.training == library.training


def test_the_fingerprint_depends_on_names_and_adapters(library: AdapterLibrary) -> None:
    renamed = [LibraryEntry(f"{task}!") for task in TASKS]
    seen = {
        library.fingerprint,
        library.select(TASKS[:3]).fingerprint,
        AdapterLibrary(library.weights, renamed).fingerprint,
        AdapterLibrary(library.weights.scale(2.0), library.entries).fingerprint,
    }
    assert len(seen) == 4


def test_bad_adapters_are_left_out_with_a_warning_each(
    library: AdapterLibrary, saved: Path
) -> None:
    flip_bit(saved, "B.self_attn.v_proj", 1)
    broken = load_file(saved / "library.safetensors")["A.self_attn.q_proj"].clone()
    broken[2, 0, 0, 0] = math.nan
    edit_tensors(saved, **{"A.self_attn.q_proj": broken})
    with pytest.raises(AdapterFormatError, match=r"'sort/words' has hash .*--skip-bad"):
        load_library(saved)
    with pytest.warns(T2LWarning) as warned:
        read = load_library(saved, skip_bad=True)
    first, second = (str(warning.message) for warning in warned)
    assert "the adapter of 'sort/words' has hash" in first
    assert second.endswith("the adapter of 'größer' holds NaN or infinity; it is left out")
    assert read.names == ["sums", "yes-no"]
    assert_same(read.weights, library.select(["sums", "yes-no"]).weights)
    for place in (0, 3):
        flip_bit(saved, "B.self_attn.v_proj", place)
    with (
        pytest.warns(T2LWarning, match="left out"),
        pytest.raises(AdapterFormatError, match="no adapter left of 4"),
    ):
        load_library(saved, skip_bad=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_is_that_of_the_factors_summed_in_full_precision(
    library: AdapterLibrary, dtype: torch.dtype
) -> None:
    weights = library.weights.to(dtype=dtype)
    mean = AdapterLibrary(weights, library.entries).mean()
    assert mean.num_adapters == 1
    for (_, tensor), (_, stacked) in zip(tensors_of(mean), tensors_of(weights), strict=True):
        expected = sum(stacked[i].double() for i in range(4)) / 4
        torch.testing.assert_close(tensor[0], expected.to(dtype))


def test_selections_and_entries_that_cannot_be_are_refused(library: AdapterLibrary) -> None:
    for tasks, message in (
        ([], "no tasks selected"),
        (["sum"], r"no task 'sum' \(did you mean 'sums'\?\); it has 4: sums, sort/words"),
        (["sums", "sums"], "'sums' is in the library twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            library.select(tasks)
    with pytest.raises(ConfigError, match="3 entries for 4 adapters"):
        AdapterLibrary(library.weights, library.entries[:3])
    with pytest.raises(ConfigError, match="'a' is in the library twice, as adapters 0 and 3"):
        AdapterLibrary(library.weights, [LibraryEntry(task) for task in "abca"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": " "}, "is named ' '"),
        ({"descriptions": "Do it."}, "descriptions is 'Do it.'; a list"),
        ({"descriptions": [" "]}, r"descriptions is \(' ',\); one text is empty"),
        ({"validation_loss": math.nan}, "validation_loss is nan; a finite number or nothing"),
        ({"base_loss": "low"}, "base_loss is 'low'"),
        ({"steps": -1}, "steps is -1; 0 or more"),
        ({"rows": 1.5}, "rows is 1.5; a whole number or nothing"),
        ({"hash": None}, "hash is None"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LibraryEntry(**{"task": "a", **fields})


def test_what_cannot_be_written_leaves_nothing(library: AdapterLibrary, tmp_path: Path) -> None:
    path, b = tmp_path / "library", library.weights.b["self_attn.v_proj"]
    with pytest.raises(ConfigError, match=r"float8_e5m2; choose one of torch\.float64"):
        save_library(library, path, dtype=torch.float8_e5m2)
    others = [library.weights.unbind()[0].refactor(2)[0]]
    with pytest.raises(SpecError, match="'a' is not one of the library's spec"):
        write_library(path, library.spec, [LibraryEntry("a")], others, dtype=torch.float32)
    b[1, 1, 0, 0] = 1e6
    with pytest.raises(SpecError, match=r"'sort/words' holds NaN or infinity as torch\.float16"):
        save_library(library, path, dtype=torch.float16)
    b[2, 1, 0, 0] = math.inf
    with pytest.raises(SpecError, match=r"'größer' holds NaN or infinity as torch\.float32"):
        save_library(library, path)
    assert list(tmp_path.iterdir()) == []


def test_a_library_is_replaced_only_by_saving_over_it(saved: Path) -> None:
    library = load_library(saved)
    expected = library.select(TASKS[1:]).weights.map(torch.clone)
    before = (saved / "library.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="exists already; pass --overwrite"):
        save_library(library, saved)
    library.weights.a["self_attn.q_proj"][0].zero_()  # what was read is private
    assert (saved / "library.safetensors").read_bytes() == before
    save_library(library.select(TASKS[1:]), saved, overwrite=True)
    assert_same(load_library(saved).weights, expected)


def test_another_base_and_tensors_that_do_not_fit_are_named(kit: Any, saved: Path) -> None:
    load_library(saved, base_config=kit.config("llama"))
    with pytest.raises(SpecError, match=r"\(llama, config .*\(qwen3, config"):
        load_library(saved, base_config=kit.config("qwen3"))
    edit_tensors(
        saved,
        **{
            "A.self_attn.q_proj": None,
            "B.self_attn.v_proj": torch.zeros(4, 2, 16, 3),
            "A.self_attn.v_proj": torch.zeros(4, 2, 4, 32, dtype=torch.float16),
            "extra": torch.zeros(1),
        },
    )
    with pytest.raises(AdapterFormatError) as error:
        load_library(saved)
    assert (
        "does not fit index.json: missing A.self_attn.q_proj; unexpected extra; wrong shape of "
        "B.self_attn.v_proj (4, 2, 16, 3), not (4, 2, 16, 4); wrong dtype, not float32: "
        "A.self_attn.v_proj float16; copy or make it again" in str(error.value)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "has format 'other'; 'text-to-lora library' is expected"),
        ({"version": 2}, "has version 2; this release reads 1"),
        ({"more": 1}, r"unknown fields \['more'\]"),
        ({"adapters": {}}, r"adapters is \{\}; a list is needed"),
        ({"adapters": [{"task": "a"}]}, r"adapter 0: missing fields \['base_loss'"),
        ({"spec.rank": None}, "spec: rank is None"),
        ({"adapter.descriptions": "text"}, "'sort/words' of a library: descriptions is 'text'"),
        ({"adapter.steps": "many"}, "task 'sort/words' of a library: steps is 'many'"),
        ({"adapter.task": "sums"}, "'sums' is in the library twice"),
    ],
)
def test_an_index_of_another_form_is_refused(
    saved: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = saved / "index.json"
    index = json.loads(file.read_text())
    ((name, value),) = changes.items()
    part, _, field = name.partition(".")
    if field:
        (index["adapters"][1] if part == "adapter" else index[part])[field] = value
    else:
        index[name] = value
    file.write_text(json.dumps(index))
    with pytest.raises((AdapterFormatError, SpecError), match=message):
        load_library(saved)
    with pytest.raises(AdapterFormatError, match="is not a folder; give the library's folder"):
        load_library(tmp_path / "nothing")
    file.unlink()
    with pytest.raises(AdapterFormatError, match=r"index\.json' does not exist"):
        load_library(saved)
