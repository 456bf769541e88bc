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


def edit_index(folder: Path, **changes: Any) -> None:
    file = folder / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


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
    for found, entry in zip(read.entries, library.entries, strict=True):
        assert found.hash
        assert (found.task, found.descriptions, found.validation_loss, found.steps) == (
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


def test_a_dtype_that_cannot_be_written_is_refused(library: AdapterLibrary, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"float8_e5m2; choose one of torch\.float64"):
        save_library(library, tmp_path / "library", dtype=torch.float8_e5m2)


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


def test_changing_what_was_read_leaves_the_file_alone(saved: Path) -> None:
    before = (saved / "library.safetensors").read_bytes()
    load_library(saved).weights.a["self_attn.q_proj"].zero_()
    assert (saved / "library.safetensors").read_bytes() == before


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


def test_one_adapter_is_found_by_name(library: AdapterLibrary) -> None:
    assert_same(library.adapter("größer"), library.weights.unbind()[2])
    assert library.entry("größer").steps == 20


def test_the_mean_is_that_of_the_factors(library: AdapterLibrary) -> None:
    mean = library.mean()
    assert mean.num_adapters == 1
    for (_, tensor), (_, stacked) in zip(
        tensors_of(mean), tensors_of(library.weights), strict=True
    ):
        expected = sum(stacked[i] for i in range(4)) / 4
        torch.testing.assert_close(tensor[0], expected)


def test_the_mean_of_half_precision_is_summed_in_full(kit: Any, llama_spec: LoraSpec) -> None:
    weights = kit.weights(llama_spec, 3).to(dtype=torch.bfloat16)
    mean = AdapterLibrary(weights, [LibraryEntry(str(i)) for i in range(3)]).mean()
    assert mean.dtype == torch.bfloat16
    for (_, tensor), (_, stacked) in zip(tensors_of(mean), tensors_of(weights), strict=True):
        assert torch.equal(tensor[0], stacked.float().mean(0).bfloat16())


def test_the_fingerprint_depends_on_names_and_adapters(library: AdapterLibrary) -> None:
    renamed = [LibraryEntry(f"{task}!") for task in TASKS]
    seen = {
        library.fingerprint,
        library.select(TASKS[:3]).fingerprint,
        AdapterLibrary(library.weights, renamed).fingerprint,
        AdapterLibrary(library.weights.scale(2.0), library.entries).fingerprint,
    }
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "no tasks selected"),
        (["sum"], r"no task 'sum' \(did you mean 'sums'\?\); it has 4: sums, sort/words"),
        (["sums", "sums"], "'sums' is in the library twice"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(
    library: AdapterLibrary, tasks: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        library.select(tasks)


def test_entries_must_fit_the_adapters(library: AdapterLibrary) -> None:
    with pytest.raises(ConfigError, match="3 entries for 4 adapters"):
        AdapterLibrary(library.weights, library.entries[:3])
    with pytest.raises(ConfigError, match="'a' is in the library twice, as adapters 0 and 3"):
        AdapterLibrary(library.weights, [LibraryEntry(task) for task in "abca"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": " "}, "is named ' '"),
        ({"descriptions": "Do it."}, "descriptions 'Do it.'; texts are needed"),
        ({"descriptions": [" "]}, r"descriptions \[' '\]"),
        ({"validation_loss": math.nan}, "validation_loss nan"),
        ({"base_loss": "low"}, "base_loss 'low'"),
        ({"steps": -1}, "steps -1"),
        ({"rows": 1.5}, "rows 1.5"),
        ({"hash": None}, "hash None"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LibraryEntry(**{"task": "a", **fields})


def test_nan_is_not_written_and_leaves_nothing(library: AdapterLibrary, tmp_path: Path) -> None:
    library.weights.b["self_attn.v_proj"][2, 1, 0, 0] = math.inf
    with pytest.raises(SpecError, match=r"'größer' holds NaN or infinity as torch\.float32"):
        save_library(library, tmp_path / "library")
    assert list(tmp_path.iterdir()) == []


def test_a_number_too_large_for_the_dtype_is_refused(
    library: AdapterLibrary, tmp_path: Path
) -> None:
    library.weights.b["self_attn.v_proj"][1, 1, 0, 0] = 1e6
    with pytest.raises(SpecError, match=r"'sort/words' holds NaN or infinity as torch\.float16"):
        save_library(library, tmp_path / "library", dtype=torch.float16)


def test_adapters_of_another_spec_are_not_written(library: AdapterLibrary, tmp_path: Path) -> None:
    others = [library.weights.unbind()[0].blend(torch.ones(1, 1)).refactor(2)[0]]
    with pytest.raises(SpecError, match="'a' is not one of the library's spec"):
        write_library(
            tmp_path / "library", library.spec, [LibraryEntry("a")], others, dtype=torch.float32
        )


def test_an_existing_folder_is_kept_unless_overwritten(
    library: AdapterLibrary, saved: Path
) -> None:
    with pytest.raises(ConfigError, match="exists already; pass --overwrite"):
        save_library(library, saved)
    save_library(library.select(TASKS[:2]), saved, overwrite=True)
    assert load_library(saved).names == TASKS[:2]


def test_a_library_may_be_written_over_the_one_it_was_read_from(saved: Path) -> None:
    library = load_library(saved)
    save_library(library.select(TASKS[1:]), saved, overwrite=True)
    assert_same(load_library(saved).weights, library.select(TASKS[1:]).weights)


def test_one_changed_bit_names_its_adapter(saved: Path) -> None:
    flip_bit(saved, "B.self_attn.v_proj", 1)
    with pytest.raises(AdapterFormatError, match=r"'sort/words' has hash .*--skip-bad"):
        load_library(saved)


def test_bad_adapters_are_left_out_with_a_warning_each(
    library: AdapterLibrary, saved: Path
) -> None:
    flip_bit(saved, "B.self_attn.v_proj", 1)
    broken = load_file(saved / "library.safetensors")["A.self_attn.q_proj"].clone()
    broken[2, 0, 0, 0] = math.nan
    edit_tensors(saved, **{"A.self_attn.q_proj": broken})
    with pytest.warns(T2LWarning) as warned:
        read = load_library(saved, skip_bad=True)
    first, second = (str(warning.message) for warning in warned)
    assert "the adapter of 'sort/words' has hash" in first
    assert second.endswith("the adapter of 'größer' holds NaN or infinity; it is left out")
    assert read.names == ["sums", "yes-no"]
    assert_same(read.weights, library.select(["sums", "yes-no"]).weights)


def test_a_library_without_a_good_adapter_is_refused(saved: Path) -> None:
    for place in range(4):
        flip_bit(saved, "A.self_attn.q_proj", place)
    with (
        pytest.warns(T2LWarning, match="left out"),
        pytest.raises(AdapterFormatError, match="no adapter left of 4"),
    ):
        load_library(saved, skip_bad=True)


def test_another_base_is_refused_with_both_names(kit: Any, saved: Path) -> None:
    load_library(saved, base_config=kit.config("llama"))
    with pytest.raises(SpecError, match=r"\(llama, config .*\(qwen3, config"):
        load_library(saved, base_config=kit.config("qwen3"))


def test_a_truncated_file_is_named(saved: Path) -> None:
    file = saved / "library.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AdapterFormatError, match=r"library\.safetensors' is truncated or corrupt"):
        load_library(saved)
    file.unlink()
    with pytest.raises(AdapterFormatError, match=r"holds no library\.safetensors"):
        load_library(saved)


def test_tensors_that_do_not_fit_the_index_are_listed(saved: Path) -> None:
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
    for part in (
        "missing A.self_attn.q_proj",
        "unexpected extra",
        "B.self_attn.v_proj is (4, 2, 16, 3), not (4, 2, 16, 4)",
        "A.self_attn.v_proj is torch.float16, not float32",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "has format 'other'; 'text-to-lora library' is expected"),
        ({"version": 2}, "has version 2; this release reads 1"),
        ({"more": 1}, "has wrong fields: more"),
        ({"adapters": {}}, r"has adapters \{\}; a list is expected"),
        ({"adapters": [{"task": "a"}]}, "adapter 0 has wrong fields"),
    ],
)
def test_an_index_of_another_form_is_refused(
    saved: Path, changes: dict[str, Any], message: str
) -> None:
    edit_index(saved, **changes)
    with pytest.raises(AdapterFormatError, match=message):
        load_library(saved)


def test_a_spec_of_another_version_is_refused(library: AdapterLibrary, saved: Path) -> None:
    spec = library.spec.to_dict()
    del spec["rank"]
    edit_index(saved, spec=spec)
    with pytest.raises(SpecError, match="spec has wrong fields: missing rank"):
        load_library(saved)


def test_entries_of_the_index_are_checked(saved: Path) -> None:
    entries = json.loads((saved / "index.json").read_text())["adapters"]
    for change, message in (
        ({"descriptions": "text"}, "adapter 1 has no list of descriptions"),
        ({"steps": "many"}, "adapter 1: task 'sort/words' has steps 'many'"),
        ({"task": "sums"}, "'sums' is in the library twice"),
    ):
        edit_index(saved, adapters=[entries[0], entries[1] | change, *entries[2:]])
        with pytest.raises(AdapterFormatError, match=message):
            load_library(saved)


def test_no_folder_and_no_index_are_said(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match="is not a folder; give the library's folder"):
        load_library(tmp_path / "nothing")
    with pytest.raises(AdapterFormatError, match=r"index\.json' does not exist"):
        load_library(tmp_path)
