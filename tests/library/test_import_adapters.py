"""Importing folder trees: names, descriptions, equal ΔW, and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError, T2LWarning
from text_to_lora.files import lock
from text_to_lora.library import import_adapters as importing
from text_to_lora.library.folders import AdapterFolder, find_adapters
from text_to_lora.library.import_adapters import ImportReport, import_adapters
from text_to_lora.library.library import load_library, save_library, write_library
from text_to_lora.lora import LoraSpec, LoraWeights, save_adapter

BASE = "example/base"


class Tree:
    """A folder tree of adapters of a tiny base, with what ΔW each of them has."""

    def __init__(self, root: Path, config: PreTrainedConfig, weights: Callable[..., LoraWeights]):
        self.root, self.config, self.make_weights = root, config, weights
        self.deltas: dict[str, dict[str, torch.Tensor]] = {}

    def add(
        self,
        name: str,
        *,
        rank: int = 4,
        alpha: float = 8.0,
        rslora: bool = False,
        targets: Sequence[str] = ("q_proj", "v_proj"),
        layers: Sequence[int] | None = None,
        base: str = BASE,
        provenance: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        true_rank: int | None = None,
    ) -> Path:
        spec = LoraSpec.from_config(
            self.config,
            targets=targets,
            rank=rank,
            alpha=alpha,
            rslora=rslora,
            layers=layers,
            name=base,
        )
        weights = self.make_weights(spec, seed=len(self.deltas)).to(dtype=dtype)
        if true_rank is not None:
            for tensor in weights.b.values():
                tensor[..., true_rank:] = 0
        self.deltas[name] = {
            key: weights.to(dtype=torch.float64).delta(key)[0] for key in weights.a
        }
        return save_adapter(weights, self.root / name, scale_safe=False, provenance=provenance)

    def move_on(self) -> None:
        """Go on in an empty tree."""
        self.root, self.deltas = self.root.with_name(f"{self.root.name}+"), {}

    def read_base(self, name: str, revision: str | None) -> PreTrainedConfig:
        return self.config

    def load(self, library: Path, **options: Any) -> ImportReport:
        options = {"descriptions": {task: [f"Do {task}."] for task in self.deltas}} | options
        return import_adapters(
            find_adapters(self.root), library, read_base=self.read_base, **options
        )

    def assert_deltas(self, library: Path, tolerance: float) -> None:
        """Compare ΔW with those of the folders, relative to the largest number."""
        read = load_library(library)
        assert sorted(read.names) == sorted(self.deltas)
        for task, expected in self.deltas.items():
            adapter = read.adapter(task).to(dtype=torch.float64)
            for key, delta in expected.items():
                off = (adapter.delta(key)[0] - delta).abs().max() / delta.abs().max()
                assert float(off) <= tolerance, (task, key)


@pytest.fixture
def tree(kit: Any, tmp_path: Path) -> Tree:
    return Tree(tmp_path / "adapters", kit.config("llama"), kit.weights)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "library"


def test_adapters_are_found_at_any_depth_and_named_by_their_path(tree: Tree) -> None:
    for name in ("b", "a/deep/er", "b/checkpoint-5", ".hidden/c"):
        tree.add(name)
    (tree.root / "a/loop").symlink_to(tree.root, target_is_directory=True)
    adapter_folders = find_adapters(tree.root)
    assert [(item.task, item.folder) for item in adapter_folders] == [
        ("a/deep/er", tree.root / "a/deep/er"),
        ("b", tree.root / "b"),
    ]
    assert [item.task for item in find_adapters(tree.root / "b")] == ["b"]
    assert [item.source for item in find_adapters(tree.root / "a/deep", name="o/n")] == ["o/n/er"]


def test_our_own_folders_say_their_task(tree: Tree, library: Path) -> None:
    tree.add(
        "x",
        provenance={
            "task": "sort/words",
            "descriptions": ["Sort the words.", "Order them."],
            "validation_loss": 0.5,
            "base_loss": 2.5,
            "steps": 70,
            "rows": 800,
        },
    )
    tree.add("y", provenance={"description": "Say yes."})
    import_adapters(find_adapters(tree.root), library, read_base=tree.read_base)
    first, second = load_library(library).entries
    assert (first.task, first.descriptions) == ("sort/words", ("Sort the words.", "Order them."))
    assert (first.validation_loss, first.base_loss, first.steps, first.rows) == (0.5, 2.5, 70, 800)
    assert first.source == str(tree.root / "x")
    assert (second.task, second.descriptions) == ("y", ("Say yes.",))


LOTS_CARD = """---
language: en
library_name: pytorch
---
# Model Card for Mistral-7B-Instruct-v0.2-4b-r16-task1391
<!-- Provide a quick summary of what the model is/does. -->
LoRA trained on task1391_winogrande_easy_answer_generation
{more}
## Model Details
- **Developed by:** someone
"""


@pytest.mark.parametrize(
    ("more", "descriptions"), [("", ()), ("\nFill in the\nblank.\n", ("Fill in the blank.",))]
)
def test_a_folder_of_lots_of_loras_is_named_and_described_by_its_card(
    tree: Tree, library: Path, more: str, descriptions: tuple[str, ...]
) -> None:
    name = "Mistral-7B-Instruct-v0.2-4b-r16-task1391"
    for place in (name, f"hub/models--Lots-of-LoRAs--{name[:-4]}77/snapshots/0a1b2c"):
        tree.add(place, rank=16, targets=["q_proj", "k_proj", "v_proj"])
    (tree.root / name / "README.md").write_text(LOTS_CARD.format(more=more))
    adapter_folders = find_adapters(tree.root)
    assert [item.task for item in adapter_folders] == [
        "task1391_winogrande_easy_answer_generation",
        "task77",
    ]
    whole = find_adapters(tree.root / name, name=f"Lots-of-LoRAs/{name}")
    assert [(item.task, item.source) for item in whole] == [
        ("task1391_winogrande_easy_answer_generation", f"Lots-of-LoRAs/{name}")
    ]
    if descriptions:
        import_adapters(whole, library, read_base=tree.read_base)
    else:
        with pytest.warns(T2LWarning, match="no descriptions of task1391_winogrande"):
            import_adapters(whole, library, read_base=tree.read_base)
    read = load_library(library)
    assert read.entries[0].descriptions == descriptions
    assert [group.module for group in read.spec.groups] == [
        f"self_attn.{leaf}_proj" for leaf in "kqv"
    ]


def test_equal_scaling_is_kept_bit_for_bit(tree: Tree, library: Path) -> None:
    tree.add("a", dtype=torch.bfloat16)
    tree.add("b", dtype=torch.bfloat16, alpha=4.0, rslora=True)  # 4 / sqrt 4 = 8 / 4
    report = tree.load(library)
    assert (report.added, report.rescaled, report.dtype) == (("a", "b"), False, torch.bfloat16)
    read = load_library(library)
    assert (read.spec.alpha, read.spec.rslora, read.spec.base.name) == (8.0, False, BASE)
    for task in "ab":
        theirs = load_file(tree.root / task / "adapter_model.safetensors")
        for group in read.spec.groups:
            for place, layer in enumerate(group.layers):
                name = read.spec.peft_name(layer, group.module)
                ours = read.adapter(task)
                assert torch.equal(ours.a[group.key][0, place], theirs[f"{name}.lora_A.weight"])
                assert torch.equal(ours.b[group.key][0, place], theirs[f"{name}.lora_B.weight"])


def test_unlike_scaling_is_folded_so_that_delta_stays(tree: Tree, library: Path) -> None:
    tree.add("a", alpha=8.0, dtype=torch.bfloat16)
    tree.add("b", alpha=3.0, dtype=torch.bfloat16)
    tree.add("c", alpha=5.0, rslora=True, dtype=torch.float16)
    report = tree.load(library)
    assert (report.rescaled, report.dtype) == (True, torch.float32)
    assert load_library(library).spec.scaling == 1.0
    tree.assert_deltas(library, 1e-6)  # a product of float32 has a relative error of 6e-8
    tree.move_on()
    for name, alpha in (("d", 8.0), ("e", 2.0), ("f", 1.0)):
        tree.add(name, alpha=alpha, dtype=torch.bfloat16)
    tree.load(library.with_name("of powers of two"))
    tree.assert_deltas(library.with_name("of powers of two"), 0.0)


def test_adding_to_a_library_takes_its_scaling_and_keeps_its_adapters(
    tree: Tree, library: Path
) -> None:
    tree.add("z", alpha=8.0)
    tree.load(library)
    before = load_library(library)
    tree.add("b", alpha=3.0)
    adapter_folders = [item for item in find_adapters(tree.root) if item.task == "b"]
    report = import_adapters(
        adapter_folders, library, read_base=tree.read_base, descriptions={"b": ["Do b."]}
    )
    assert (report.added, report.num_adapters, report.rescaled) == (("b",), 2, True)
    read = load_library(library)
    assert read.names == ["z", "b"]
    assert read.spec == before.spec
    assert read.entries[0] == before.entries[0]
    tree.assert_deltas(library, 1e-6)


def test_a_task_that_is_there_is_replaced_only_when_asked(tree: Tree, library: Path) -> None:
    tree.add("a")
    tree.add("b")
    tree.load(library)
    before = (library / "library.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="2 of these tasks already: a, b; pass --overwrite"):
        tree.load(library)
    assert (library / "library.safetensors").read_bytes() == before
    tree.root = tree.root.parent / "others"
    tree.add("b", alpha=2.0)
    report = tree.load(library, overwrite=True)
    assert (report.added, report.replaced, report.num_adapters) == ((), ("b",), 2)
    tree.assert_deltas(library, 0.0)


def test_unlike_ranks_modules_and_layers_are_listed_with_who_has_them(
    tree: Tree, library: Path
) -> None:
    for name in "abcde":
        tree.add(name)
    tree.add("f", rank=8)
    tree.add("g", targets=["q_proj"])
    tree.add("h", layers=[1])
    with pytest.raises(SpecError) as error:
        tree.load(library)
    assert str(error.value) == (
        "adapters are unlike: rank 4 in 'a', 'b', 'c', 'd' and 3 more; rank 8 in 'f'; "
        "modules self_attn.q_proj, self_attn.v_proj in 'a', 'b', 'c', 'd' and 3 more; "
        "modules self_attn.q_proj in 'g'; layers 0-1 in 'a', 'b', 'c', 'd' and 3 more; "
        "layers 1 in 'h'; add only those that are alike"
    )
    assert not library.exists()


def test_one_rank_is_made_by_truncated_svd_and_what_it_costs_is_told(
    tree: Tree, library: Path
) -> None:
    tree.add("a")
    tree.add("b", rank=8, alpha=3.0)
    tree.add("c", rank=8, true_rank=3)
    tree.add("d", rank=2)
    with pytest.raises(SpecError, match="rank 2 in 'd'; bring them to one rank with --rank"):
        tree.load(library)
    report = tree.load(library, rank=4)
    assert sorted(report.rank_errors) == ["b", "c", "d"]
    lost, whole = 0.0, 0.0
    for delta in tree.deltas["b"].values():
        for values in torch.linalg.svdvals(delta):
            lost += float(values[4:].square().sum())
            whole += float(values.square().sum())
    assert report.rank_errors["b"] == pytest.approx((lost / whole) ** 0.5, rel=1e-5)
    assert report.rank_errors["b"] > 0.1
    assert report.rank_errors["c"] < 1e-6
    assert report.rank_errors["d"] < 1e-6
    read = load_library(library)
    assert read.spec.rank == 4
    del tree.deltas["b"]
    for task in "acd":
        for key, delta in tree.deltas[task].items():
            ours = read.adapter(task).to(dtype=torch.float64).delta(key)[0]
            torch.testing.assert_close(ours, delta, rtol=1e-4, atol=1e-5)


def test_adapters_of_another_base_are_refused_with_both_names(tree: Tree, library: Path) -> None:
    tree.add("a")
    tree.add("b", base="example/other")
    with pytest.raises(
        SpecError, match="the base is 'example/base', but adapters name 'example/other' in b"
    ):
        tree.load(library)
    with pytest.raises(ConfigError, match="--trust-base needs a base"):
        tree.load(library, trust_base=True)
    assert tree.load(library, base=BASE, trust_base=True).num_adapters == 2
    tree.root = tree.root.parent / "others"
    tree.add("c", base="example/other")
    with pytest.raises(SpecError, match=r"for base 'example/base', but .* 'example/other' in c"):
        tree.load(library)
    with pytest.raises(SpecError, match="for base 'example/base', not 'example/other'"):
        tree.load(library, base="example/other")


def test_an_adapter_that_a_fault_of_this_program_stops_is_left_out_on_request(
    tree: Tree, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.add("a")
    tree.add("b")
    read = importing.read_adapter_config

    def fail(folder: Path) -> dict[str, Any]:
        return read(folder) if folder.name == "a" else {}["key"]

    monkeypatch.setattr(importing, "read_adapter_config", fail)
    with pytest.raises(KeyError):
        tree.load(library)
    with pytest.warns(T2LWarning, match="'b' is left out: KeyError: 'key'"):
        assert tree.load(library, skip_bad=True).skipped == {"b": "KeyError: 'key'"}


def test_a_card_of_open_comments_is_read_at_once(tree: Tree, library: Path) -> None:
    card = tree.add("a") / "README.md"
    card.write_text("# a\n\nSay it. <!-- not this --> Now.\n" + "<!--" * 200_000)
    tree.load(library, descriptions={})
    assert load_library(library).entries[0].descriptions == ("Say it. Now.",)


def test_a_damaged_adapter_of_the_library_is_named_or_left_out(tree: Tree, library: Path) -> None:
    tree.add("a")
    tree.add("b")
    tree.load(library)
    file = library / "library.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of b, the last
    file.write_bytes(content)
    tree.root = tree.root.parent / "others"
    tree.add("c")
    with pytest.raises(AdapterFormatError, match="the adapter of 'b' has hash"):
        tree.load(library)
    with pytest.warns(T2LWarning, match=r"the adapter of 'b' has hash .* left out"):
        tree.load(library, skip_bad=True)
    del tree.deltas["b"]
    tree.assert_deltas(library, 0.0)


def test_a_library_that_another_job_changed_in_the_meantime_is_kept(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.add("a")
    tree.load(tmp_path / "library")
    tree.add("b")
    tree.load(tmp_path / "other", overwrite=True)

    def write_after_another(*arguments: Any, **options: Any) -> Path:
        save_library(load_library(tmp_path / "other"), tmp_path / "library", overwrite=True)
        return write_library(*arguments, **options)

    monkeypatch.setattr("text_to_lora.library.import_adapters.write_library", write_after_another)
    with pytest.raises(ConfigError, match=r"another job changed the library .* nothing was added"):
        tree.load(tmp_path / "library", overwrite=True)
    assert load_library(tmp_path / "library").names == ["a", "b"]
    assert sorted(path.name for path in tmp_path.glob("*library*")) == ["library"]


def test_a_library_in_use_is_waited_for_for_a_limited_time(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_to_lora.library.import_adapters.LOCK_SECONDS", 0.1)
    tree.add("a")
    with (
        lock(tmp_path / ".library.lock", wait_seconds=0, refusal=""),
        pytest.raises(
            ConfigError,
            match=r"another job writes the library '.*library' and did not end within 0.1 s; repeat",
        ),
    ):
        tree.load(tmp_path / "library")
    tree.load(tmp_path / "library")
    assert not list(tmp_path.glob(".*"))


def test_jobs_that_add_to_one_new_library_at_once_lose_nothing(tree: Tree, tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    for name in names:
        tree.add(f"{name}/{name}")

    def add(name: str) -> None:
        import_adapters(
            find_adapters(tree.root / name),
            tmp_path / "library",
            read_base=tree.read_base,
            descriptions={name: ["Do it."]},
        )

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(add, names))
    assert sorted(load_library(tmp_path / "library").names) == names
    assert not list(tmp_path.glob(".*"))


def test_a_library_is_part_of_the_comparison(tree: Tree, library: Path) -> None:
    tree.add("a")
    tree.load(library)
    tree.move_on()
    tree.add("b", rank=2, targets=["q_proj", "k_proj", "v_proj"])
    with pytest.raises(SpecError, match=r"rank 4 in the library; rank 2 in 'b'; modules .* in the"):
        tree.load(library)
    tree.move_on()
    tree.add("c", rank=8)
    with pytest.raises(SpecError, match="the library has rank 4, not 6; pass --rank 4"):
        tree.load(library, rank=6)
    assert list(tree.load(library, rank=4).rank_errors) == ["c"]
    tree.move_on()
    pattern = r"model\.layers\.(0\.self_attn\.(q|v)_proj|1\.self_attn\.q_proj)"
    change_config(tree.add("d"), target_modules=pattern)
    with pytest.raises(
        SpecError,
        match=r"all in the library; slots without model\.layers\.1\.self_attn\.v_proj in 'd'",
    ):
        tree.load(library)


def test_the_name_of_the_base_is_asked_for_or_compared_as_a_folder(
    tree: Tree, library: Path
) -> None:
    tree.add("a", base="")
    with pytest.raises(ConfigError, match="no adapter says what its base is; name it with --base"):
        tree.load(library)
    tree.load(library, base=BASE)
    assert load_library(library).spec.base.name == BASE
    tree.move_on()
    (tree.root.parent / "base").mkdir()
    tree.add("b", base=str(tree.root.parent / "base"))
    tree.add("c", base=str(tree.root.parent / "base" / ".." / "base"))
    assert tree.load(library.with_name("other")).num_adapters == 2


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def edit_tensors(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        change(tensors)
        save_file(tensors, file)

    return edit_tensors


Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nan": (
        edit(lambda t: t[f"{Q0}.lora_A.weight"].fill_(torch.nan)),
        "NaN or infinity in .*q_proj",
    ),
    "foreign modules": (
        edit(lambda t: t.update({f"{Q0}x.lora_A.weight": torch.zeros(4, 32)})),
        r"layers\.0\.self_attn\.q_projx",
    ),
    "a target that the base does not have": (
        lambda folder: change_config(folder, target_modules=["lm_head"]),
        "which selects nothing in this llama base",
    ),
    "configuration": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        r"adapter_config\.json' is not JSON",
    ),
    "a rank that its tensors do not have": (
        lambda folder: change_config(folder, r=2),
        r"has r=2, but .*lora_A.weight is \(4, 32\)",
    ),
    "half a character": (
        lambda folder: (folder / "provenance.json").write_text('{"description": "\\ud83c"}'),
        "half of a surrogate pair",
    ),
    "provenance": (
        lambda folder: (folder / "provenance.json").write_text('{"steps": "many"}'),
        "steps is 'many'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_adapter_is_named_and_left_out_on_request(
    tree: Tree, library: Path, kind: str
) -> None:
    tree.add("a")
    damage, message = BROKEN[kind]
    damage(tree.add("b"))
    with pytest.raises(AdapterFormatError, match=f"the adapter of 'b': .*{message}.*--skip-bad"):
        tree.load(library)
    assert not library.exists()
    with pytest.warns(T2LWarning, match=f"the adapter of 'b' is left out: .*{message}"):
        report = tree.load(library, skip_bad=True)
    assert list(report.skipped) == ["b"]
    del tree.deltas["b"]
    tree.assert_deltas(library, 0.0)
    tree.move_on()
    damage(tree.add("b"))
    with (
        pytest.warns(T2LWarning, match="'b' is left out"),
        pytest.raises(AdapterFormatError, match="no adapter is left; all 1 are broken: b"),
    ):
        tree.load(library.with_name("other"), skip_bad=True)


def test_descriptions_are_those_given_and_missing_ones_are_named(tree: Tree, library: Path) -> None:
    adapters = [AdapterFolder(name, tree.add(name), name) for name in ("z", "a", "m")]
    (adapters[1].folder / "provenance.json").write_text('{"descriptions": ["Old."]}')
    with pytest.warns(T2LWarning, match="no descriptions of z, m: ") as warned:
        report = import_adapters(
            adapters,
            library,
            read_base=tree.read_base,
            descriptions={"a": ["New.", "Newer."], "unused": ["x"]},
        )
    assert len(warned) == 1
    assert report.undescribed == ("z", "m")
    assert load_library(library).names == ["z", "a", "m"]  # in the order given
    assert load_library(library).entry("a").descriptions == ("New.", "Newer.")
    with pytest.raises(ConfigError, match="of x, y, none of which is imported; the tasks are a, m"):
        tree.load(library, descriptions={"x": ["X."], "y": ["Y."]}, overwrite=True)


def test_places_that_cannot_be_are_refused(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is not a folder"):
        find_adapters(tmp_path / "nowhere", name="nowhere")
    with pytest.raises(ConfigError, match=r"holds no PEFT adapter \(adapter_config\.json"):
        find_adapters(tmp_path)
    tree.add("a")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "text").write_text("mine")
    with pytest.raises(AdapterFormatError, match=r"index\.json' does not exist"):
        tree.load(tmp_path / "other", overwrite=True)
    tree.load(tmp_path / "library")
    (tmp_path / "library" / "thesis.tex").write_text("work")
    with pytest.raises(ConfigError, match=r"holds 'thesis\.tex', which this program did not write"):
        tree.load(tmp_path / "library", overwrite=True)
    assert (tmp_path / "other" / "text").read_text() == "mine"
    assert (tmp_path / "library" / "thesis.tex").read_text() == "work"
    tree.add("b", provenance={"task": "a"})
    with pytest.raises(ConfigError, match=r"two adapters are of task 'a': '.*a' and '.*b'; rename"):
        tree.load(tmp_path / "new")
    with pytest.warns(T2LWarning, match=r"of task 'a': '.*a' and '.*b'; the second is left out"):
        report = tree.load(tmp_path / "new", skip_bad=True)
    assert report.added == ("a",) and [reason[:12] for reason in report.skipped.values()] == [
        "two adapters"
    ]
