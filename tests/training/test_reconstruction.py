"""A library reconstructed: every variant learns it, in files that need no flags to load."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, get_scheduler

from text_to_lora import TextToLora, load_adapter, load_base
from text_to_lora.encoders import load_encoder
from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError, T2LError, T2LWarning
from text_to_lora.hypernet import Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, save_library
from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.training.library_batches import LibraryBatches, embed_tasks
from text_to_lora.training.reconstruction import (
    ReconstructionModule,
    make_hypernet,
    reconstruct,
    train_reconstruction,
)
from text_to_lora.training.reconstruction_config import ReconstructionConfig
from tiny_models import save_base
from tiny_runs import TOKENS, merge, read_history, read_result, result_bytes

Settings = Callable[..., ReconstructionConfig]
CPU = torch.device("cpu")
COLOURS = ("red", "green", "blue", "grey", "pink", "brown", "black", "white")


BASE = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.fixture(scope="module")
def spec() -> LoraSpec:
    return LoraSpec.from_config(BASE, targets="all-linear", rank=2, alpha=4, rslora=True)


def make_library(spec: LoraSpec, adapters: int) -> AdapterLibrary:
    """Adapters that drifted from one start, as trained ones have."""
    generator = torch.Generator().manual_seed(adapters)

    def draw(*shape: int, start: float, drift: float) -> Tensor:
        common = start * torch.randn(1, *shape, generator=generator)
        return common + drift * torch.randn(adapters, *shape, generator=generator)

    a = {
        g.key: draw(len(g.layers), spec.rank, g.in_features, start=0.2, drift=0.05)
        for g in spec.groups
    }
    b = {
        g.key: draw(len(g.layers), g.out_features, spec.rank, start=0.0, drift=0.1)
        for g in spec.groups
    }
    entries = [
        LibraryEntry(f"say-{c}", (f"Say {c}.", f"The answer is always {c}."))
        for c in COLOURS[:adapters]
    ]
    return AdapterLibrary(LoraWeights(spec, a, b), entries)


@pytest.fixture(scope="module")
def library(spec: LoraSpec) -> AdapterLibrary:
    return make_library(spec, 4)


@pytest.fixture
def settings() -> Settings:
    """Settings of a run of a second; `changes` are sections over them."""

    def make(**changes: dict[str, Any]) -> ReconstructionConfig:
        sections: dict[str, dict[str, Any]] = {
            "conditioning": {"kind": "one-hot", "vector_dim": 8},
            "encoder": {"name": "hash"},
            "hypernet": {"latent_size": 16, "head_in_size": 32, "dropout": 0.0},
            "optimizer": {"lr": 0.01},
            "run": {"steps": 6, "log_every": 2, "eval_every": 3, "save_every": 2, "device": "cpu"},
        }
        return ReconstructionConfig.from_dict(merge(sections, changes))

    return make


def relative_error(generated: LoraWeights, wanted: LoraWeights) -> float:
    """Mean over adapters of |ΔW - ΔW'| / |ΔW'|, from whole ΔW."""
    flat = [
        torch.cat([weights.delta(key).flatten(1) for key in weights.a], dim=1).double()
        for weights in (generated, wanted)
    ]
    return ((flat[0] - flat[1]).norm(dim=1) / flat[1].norm(dim=1)).mean().item()


def factor_error(generated: LoraWeights, wanted: LoraWeights) -> float:
    """Mean |error| of A and of B, halved, over groups."""
    errors = [
        ((f[key] - w[key]).abs().mean() / 2).item()
        for f, w in ((generated.a, wanted.a), (generated.b, wanted.b))
        for key in w
    ]
    return sum(errors) / len(wanted.a)


def learn(library: AdapterLibrary, config: ReconstructionConfig, folder: Path) -> Hypernetwork:
    """Train without a Trainer, which takes most of the time of a tiny run."""
    embeddings = embed_tasks(library, config, folder, CPU)
    hypernet = make_hypernet(config, library, embeddings.encoder)
    module = ReconstructionModule(hypernet, config.objective)
    steps = config.run.steps
    batches = LibraryBatches(library, embeddings, tasks_per_batch=4, seed=0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.0)
    schedule = get_scheduler("linear", optimizer, steps // 10, steps)
    for step in range(steps):
        optimizer.zero_grad()
        module(batches[step]).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    save_hypernet(folder / "hypernet", hypernet, embeddings.encoder, training={})
    return hypernet.eval()


@pytest.mark.parametrize(
    ("head", "steps", "kind"),
    [
        ("joint", 80, "text"),
        ("shared", 110, "text"),
        ("rank", 160, "text"),
        ("joint", 80, "one-hot"),
        ("joint", 80, "learned"),
    ],
)
def test_every_head_learns_a_library_and_so_does_every_conditioning(
    head: str, steps: int, kind: str, library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    config = settings(
        hypernet={"head": head, "latent_size": 32, "head_in_size": 128},
        conditioning={"kind": kind},
        run={"steps": steps},
    )
    learn(library, config, tmp_path)
    t2l = TextToLora.from_pretrained(tmp_path / "hypernet")
    texts = [e.descriptions[0] if kind == "text" else e.task for e in library.entries]
    assert relative_error(t2l.generate(texts).weights, library.weights) < 0.1
    mean = library.mean().select([0] * len(library))  # what one adapter for all would give
    assert relative_error(mean, library.weights) > 0.8
    if kind == "text":  # other descriptions of the same tasks were trained on as well
        texts = [entry.descriptions[1] for entry in library.entries]
        assert relative_error(t2l.generate(texts).weights, library.weights) < 0.1


@pytest.mark.parametrize("target", ["factors", "delta"])
def test_raw_factors_and_products_are_learned_too(
    target: str, library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    config = settings(
        hypernet={"latent_size": 32, "head_in_size": 128},
        objective={"target": target, "delta_scaling": 100.0},
        run={"steps": 120},
    )
    generated = learn(library, config, tmp_path)(torch.eye(4)).detach()
    assert relative_error(generated, library.weights) < 0.05
    # Many pairs of factors have one product, of which only the loss on factors asks for one.
    assert (factor_error(generated, library.weights) < 0.01) == (target == "factors")


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, library: AdapterLibrary
) -> tuple[Path, list[str]]:
    """A finished run of a saved library through the Trainer, and what it reported."""
    root, lines = tmp_path_factory.mktemp("run"), []
    save_library(library, root / "library")
    config = ReconstructionConfig.from_dict(
        {
            "data": {"library": root / "library"},
            "conditioning": {"kind": "learned", "vector_dim": 8},
            "hypernet": {"latent_size": 32, "head_in_size": 64, "dropout": 0.0},
            "optimizer": {"lr": 0.01},
            "run": {
                "steps": 70,
                "log_every": 10,
                "eval_every": 20,
                "save_every": 30,
                "device": "cpu",
            },
        }
    )
    result = train_reconstruction(config, output_dir=root / "run", report=lines.append)
    assert result == root / "run" / "hypernet"
    return root / "run", lines


def test_a_run_leaves_what_generates_the_adapters_without_flags(
    trained: tuple[Path, list[str]], library: AdapterLibrary, tmp_path: Path
) -> None:
    folder, _ = trained
    adapters = TextToLora.from_pretrained(folder / "hypernet").generate(library.names)
    assert relative_error(adapters.weights, library.weights) < 0.1
    assert adapters.weights.spec == library.spec
    for path, weights in zip(
        adapters.save(tmp_path / "out"), library.weights.unbind(), strict=True
    ):
        exported = load_adapter(path, base_config=BASE)
        assert relative_error(exported, weights) < 0.15
    with pytest.raises(ConfigError, match=r"unknown task 'say-rod', nearest 'say-red'"):
        TextToLora.from_pretrained(folder / "hypernet").generate(["say-rod"])


def test_the_errors_of_a_run_are_those_of_the_adapters_that_it_gives(
    trained: tuple[Path, list[str]], library: AdapterLibrary
) -> None:
    folder, lines = trained
    result = read_result(folder)
    for part, name in (("hypernet", "best"), ("last", "last")):
        loaded = load_hypernet(folder / part)
        generated = loaded.hypernet(torch.eye(4)).detach()
        errors = result[name]
        assert errors["delta_error"] == pytest.approx(
            relative_error(generated, library.weights), rel=1e-4
        )
        assert errors["factor_l1"] == pytest.approx(
            factor_error(generated, library.weights), rel=1e-4
        )
        assert result["parameters"] == loaded.hypernet.num_parameters
    history = read_history(folder)
    checks = [line for line in history if "eval_delta_error" in line]
    assert [line["step"] for line in checks] == [20, 40, 60, 70]  # the last step counts as well
    assert checks[-1]["eval_delta_error"] < 0.2 * checks[0]["eval_delta_error"]
    assert result["best_loss"] == min(line["eval_delta_error"] for line in checks)
    losses = [line for line in history if "loss" in line]
    assert [line["adapters"] for line in losses] == [40 * n for n in range(1, 8)]
    assert any("adapters/s" in line for line in lines)


def test_weights_carry_settings_and_fingerprint_but_no_folder(
    trained: tuple[Path, list[str]], library: AdapterLibrary
) -> None:
    training = load_hypernet(trained[0] / "hypernet").training
    assert training["data"]["fingerprint"] == library.fingerprint
    assert training["conditioning"]["kind"] == "learned"
    assert "/" not in json.dumps(training)


def test_a_finished_run_is_not_run_again(trained: tuple[Path, list[str]]) -> None:
    folder = trained[0]
    payload = json.loads((folder / "config.json").read_text())
    fields = ReconstructionConfig.model_fields
    config = ReconstructionConfig.from_dict({k: v for k, v in payload.items() if k in fields})
    before = (folder / "history.jsonl").stat().st_mtime_ns
    assert train_reconstruction(config, output_dir=folder) == folder / "hypernet"
    assert (folder / "history.jsonl").stat().st_mtime_ns == before


def test_a_run_goes_on_where_it_was_interrupted(
    library: AdapterLibrary, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, drawn descriptions and a batch that does not divide the library."""
    config = settings(
        conditioning={"kind": "text"},
        hypernet={"latent_size": 8, "head_in_size": 16, "dropout": 0.3},
        data={"tasks_per_batch": 3},
        run={"select_by": "factors"},
    )
    reconstruct(library, config, output_dir=tmp_path / "whole")
    forward, calls = ReconstructionModule.forward, []

    def stop_at_the_sixth(module: ReconstructionModule, batch: Any) -> Tensor:
        calls.append(batch)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(module, batch)

    monkeypatch.setattr(ReconstructionModule, "forward", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(library, config, output_dir=tmp_path / "cut")
    lines: list[str] = []
    reconstruct(library, config, output_dir=tmp_path / "cut", report=lines.append)
    assert "resuming after step 4" in lines and len(calls) == 8
    assert result_bytes(tmp_path / "whole") == result_bytes(tmp_path / "cut")
    histories = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_history(tmp_path / run)]
        for run in ("whole", "cut")
    ]
    assert histories[0] == histories[1]
    other = make_library(library.spec, 5).select(library.names)
    with pytest.raises(ConfigError, match=r"data\.fingerprint: .* -> "):
        reconstruct(other, config, output_dir=tmp_path / "cut")


def test_the_last_weights_count_where_nothing_selects(
    library: AdapterLibrary, settings: Settings, tmp_path: Path, plots: list[int]
) -> None:
    reconstruct(library, settings(run={"select_by": "last"}), output_dir=tmp_path / "run")
    selected, last = result_bytes(tmp_path / "run")
    assert selected == last
    assert len(plots) == 2  # steps 3 and 6, which is not measured twice


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("target", ["zscore", "factors", "delta"])
def test_the_loss_is_what_the_paper_says_in_the_heads_unit(
    target: str, scaled: bool, library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    config = settings(
        objective={"target": target, "lora_scaling": scaled and target == "delta"},
        data={"adapters": 3},
    )
    part = library.select(library.names[:3])
    embeddings = embed_tasks(part, config, tmp_path, CPU)
    hypernet = make_hypernet(config, part, embeddings.encoder)
    batches = LibraryBatches(part, embeddings, tasks_per_batch=2, seed=3)
    loss = ReconstructionModule(hypernet, config.objective)(batches[4])
    tasks = batches.tasks(4).tolist()
    a, b = hypernet.predict(torch.eye(3)[tasks])
    w = part.weights
    total = 0.0
    for key in a:
        if target == "delta":
            wanted = 1e4 * (w.b[key][tasks] @ w.a[key][tasks])
            mean = (b[key] @ a[key] - wanted).abs().mean().item()
            total += mean * (library.spec.scaling if scaled else 1.0)
            continue
        for generated, all_of_it in ((a[key], w.a[key]), (b[key], w.b[key])):
            wanted = all_of_it[tasks]
            if target == "zscore":
                wanted = (wanted - all_of_it.mean(0)) / (all_of_it.std(0) + 1e-10)
            total += (generated - wanted).abs().mean().item() / 2
    assert loss.item() == pytest.approx(total / len(a), rel=1e-4)


def test_a_pass_sees_every_adapter_once_and_depends_on_seed_and_step_alone(
    spec: LoraSpec, settings: Settings, tmp_path: Path
) -> None:
    library = make_library(spec, 8)
    embeddings = embed_tasks(library, settings(), tmp_path, CPU)

    def make(seed: int = 1, **share: int) -> LibraryBatches:
        return LibraryBatches(library, embeddings, tasks_per_batch=3, seed=seed, **share)

    steps = [make().tasks(step).tolist() for step in range(12)]
    passes = [steps[i] + steps[i + 1] for i in range(0, 12, 2)]  # 8 adapters: 2 steps of 3
    assert all(len(set(one)) == 6 for one in passes)
    assert {task for one in passes for task in one} == set(range(8))
    assert len({tuple(one) for one in passes}) > 1
    backwards = make()
    assert [backwards.tasks(step).tolist() for step in range(11, -1, -1)] == steps[::-1]
    assert [make(seed=2).tasks(step).tolist() for step in range(12)] != steps
    parts = [make(process=process, processes=2)[5] for process in range(2)]
    whole = make()[5]
    assert torch.equal(torch.cat([p.a["mlp.up_proj"] for p in parts]), whole.a["mlp.up_proj"])
    assert sum(p.share for p in parts) == 1 and {p.seed for p in parts} == {whole.seed}
    with pytest.raises(ConfigError, match="a step has 3 adapters, too few for 4 processes"):
        make(processes=4)


@pytest.mark.parametrize("target", ["zscore", "factors", "delta"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_adapters_that_change_nothing_are_refused_before_training(
    side: str, target: str, spec: LoraSpec, settings: Settings, tmp_path: Path
) -> None:
    library = make_library(spec, 4)
    config = settings(objective={"target": target}, run={"select_by": "factors"})
    for places, names in (([1, 3], "2 of 4 .* say-green, say-grey"), ([0, 1, 2, 3], "4 of 4")):
        for factor in getattr(library.weights, side).values():
            factor[places] = 0
        with pytest.raises(ConfigError, match=rf"^{names}.*; every adapter has to change one"):
            reconstruct(library, config, output_dir=tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["zscore", "factors", "delta"])
def test_modules_that_are_equal_in_all_adapters_are_learned(
    target: str, spec: LoraSpec, settings: Settings, tmp_path: Path
) -> None:
    """One module is zero in all adapters, one is the same in all, whose deviation is zero."""
    library = make_library(spec, 3)
    for side in (library.weights.a, library.weights.b):
        zero, same, *_ = side.values()
        zero.zero_()
        same.copy_(same[:1].clone().expand_as(same))
    config = settings(objective={"target": target})
    embeddings = embed_tasks(library, config, tmp_path, CPU)
    hypernet = make_hypernet(config, library, embeddings.encoder)
    wanted = hypernet.output.invert(library.weights.a, library.weights.b)
    assert all(factor.isfinite().all() for side in wanted for factor in side.values())
    if target == "zscore":
        assert not any(factor.any() for side in wanted for factor in list(side.values())[:2])
    reconstruct(library, config, output_dir=tmp_path / "run")
    assert read_result(tmp_path / "run")["last"]["delta_error"] < 2


def test_descriptions_are_drawn_from_the_tasks_own(
    library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    config = settings(conditioning={"kind": "text"})
    embeddings = embed_tasks(library, config, tmp_path, CPU)
    encode = load_encoder("hash").encode
    by_task = [encode(entry.descriptions) for entry in library.entries]
    assert torch.equal(embeddings.first(), torch.stack([rows[0] for rows in by_task]))
    batches = LibraryBatches(library, embeddings, tasks_per_batch=4, seed=0)
    drawn: list[set[int]] = [set() for _ in by_task]
    for step in range(40):
        for task, row in zip(batches.tasks(step).tolist(), batches[step].embeddings, strict=True):
            places = [i for i, one in enumerate(by_task[task]) if torch.equal(one, row)]
            assert places
            drawn[task] |= set(places)
    assert drawn == [{0, 1}] * 4
    short = settings(conditioning={"kind": "text"}, data={"descriptions_per_task": 1})
    assert len(embed_tasks(library, short, tmp_path, CPU).rows) == 4


class Operations(TorchDispatchMode):
    """Counts operations of torch."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("target", ["zscore", "delta"])
def test_a_step_does_no_work_of_python_for_each_task(
    target: str, spec: LoraSpec, settings: Settings, tmp_path: Path
) -> None:
    """As many operations and as many lines of Python for eight adapters as for two."""

    def work(tasks: int) -> tuple[int, int]:
        library = make_library(spec, 8)
        config = settings(objective={"target": target})
        embeddings = embed_tasks(library, config, tmp_path, CPU)
        module = ReconstructionModule(
            make_hypernet(config, library, embeddings.encoder), config.objective
        )
        batches = LibraryBatches(library, embeddings, tasks_per_batch=tasks, seed=0)
        batches[0]
        calls = 0

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal calls
            calls += "text_to_lora" in frame.f_code.co_filename
            return trace

        before = sys.gettrace()
        with Operations() as operations:
            sys.settrace(trace)
            try:
                loss = module(batches[0])
            finally:
                sys.settrace(before)
            loss.backward()
        return operations.count, calls

    few, many = work(2), work(8)
    assert few == many and few[1] > 100


def test_one_adapter_is_learned_without_z_scores(
    library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    raw = settings(data={"adapters": 1}, objective={"target": "factors"})
    assert reconstruct(library, raw, output_dir=tmp_path / "run").is_dir()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"adapters": 9}, "data.adapters is 9; the library has 4"),
        ({"fingerprint": "a" * 64}, "not data.fingerprint aaaaaaaaaaaa; give the library"),
        ({"adapters": 1}, "one adapter, which has no standard deviation"),
    ],
)
def test_a_library_that_does_not_fit_is_refused(
    data: dict[str, Any], message: str, library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        reconstruct(library, settings(data=data), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_library_is_needed_and_a_broken_one_is_named(
    library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"data\.library is missing; name the folder"):
        train_reconstruction(settings(), output_dir=tmp_path / "run")
    folder = save_library(library, tmp_path / "library")
    content = bytearray((folder / "library.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "library.safetensors").write_bytes(content)
    config = settings(data={"library": str(folder)})
    with pytest.raises(AdapterFormatError, match="the adapter of 'say-grey' has hash"):
        train_reconstruction(config, output_dir=tmp_path / "run")
    skipping = settings(data={"library": str(folder), "skip_bad": True})
    with pytest.warns(T2LWarning, match="'say-grey'.* is left out"):
        result = train_reconstruction(skipping, output_dir=tmp_path / "run")
    assert load_hypernet(result).encoder.tasks == ("say-red", "say-green", "say-blue")


def test_a_loss_that_is_not_finite_names_tasks_and_step(
    library: AdapterLibrary, settings: Settings, tmp_path: Path
) -> None:
    config = settings(optimizer={"lr": 1e30, "warmup": 0.0, "max_grad_norm": 0.0})
    with pytest.raises(T2LError, match=r"for adapters say-\w+, .* at step 2; lower optimizer.lr"):
        reconstruct(library, config, output_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"objective": {"targets": "delta"}}, r"nearest 'objective\.target'"),
        ({"hypernet": {"head": "XL"}}, r"hypernet\.head is 'XL'.*'joint', 'shared' or 'rank'"),
        (
            {"tokens": {"read": True}, "conditioning": {"kind": "one-hot"}},
            r"^tokens\.read is true but conditioning\.kind is 'one-hot', which has no description",
        ),
        ({"data": {"base": "embedded"}}, r"^data\.base is 'embedded' but tokens\.read is false"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        ReconstructionConfig.from_dict(sections)
    assert len(str(refused.value).splitlines()) == 1


@pytest.fixture(scope="module")
def reading_library(base_folder: Path) -> AdapterLibrary:
    return make_reading_library(base_folder, str(base_folder))


def make_reading_library(base: Path, name: str) -> AdapterLibrary:
    """Three adapters for a base that can be loaded; name: what they call it."""
    config = LlamaConfig.from_pretrained(base)
    spec = LoraSpec.from_config(config, targets="all-linear", rank=2, name=name)
    return make_library(spec, 3)


@pytest.fixture
def reading(settings: Settings) -> Settings:
    """Settings of a run that reads token states; `changes` are sections over them."""

    def make(**changes: dict[str, Any]) -> ReconstructionConfig:
        sections: dict[str, dict[str, Any]] = {
            "conditioning": {"kind": "text"},
            "hypernet": {"latent_size": 8, "head_in_size": 16, "dropout": 0.2},
            "tokens": TOKENS,
            "data": {"tasks_per_batch": 2},
        }
        return settings(**merge(sections, changes))

    return make


def test_a_run_that_reads_tokens_trains_every_part_and_resumes_to_the_same_bytes(
    reading_library: AdapterLibrary,
    reading: Settings,
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = LibraryBatches.__getitem__

    def stop(self: LibraryBatches, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return batches(self, step)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reconstruct(reading_library, reading(), output_dir=whole)
    with monkeypatch.context() as context:
        context.setattr(LibraryBatches, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            reconstruct(reading_library, reading(), output_dir=cut)
    early = load_file(cut / "checkpoint-2" / "state.safetensors")
    reconstruct(reading_library, reading(), output_dir=cut)
    assert result_bytes(whole) == result_bytes(cut)
    last = load_hypernet(whole / "last").hypernet.state_dict()
    parts = [name for name in last if name.startswith(("attention.", "memory."))]
    assert any(name.startswith("memory.") for name in parts)
    assert not [name for name in parts if torch.equal(early[f"module.hypernet.{name}"], last[name])]
    # Generated adapters have the error that the run measured.
    t2l = TextToLora.from_pretrained(whole / "last", base=load_base(base_folder))
    texts = [entry.descriptions[0] for entry in reading_library.entries]
    error = factor_error(t2l.generate(texts).weights, reading_library.weights)
    assert read_result(whole)["last"]["factor_l1"] == pytest.approx(error, rel=1e-4)


def test_texts_go_with_their_embeddings(
    reading_library: AdapterLibrary, reading: Settings, tmp_path: Path
) -> None:
    embeddings = embed_tasks(reading_library, reading(), tmp_path, CPU)
    batches = LibraryBatches(reading_library, embeddings, tasks_per_batch=3, seed=0)
    seen = set()
    for step in range(20):
        batch = batches[step]
        texts = batch.texts()
        seen |= set(texts)
        for name, text, row in zip(batch.names(), texts, batch.embeddings, strict=True):
            assert text in reading_library.entry(name).descriptions
            assert torch.equal(row, embeddings.rows[embeddings.texts.index(text)])
    assert len(seen) == 6


def test_another_name_of_the_base_is_given_in_the_settings(
    base_folder: Path, reading: Settings, tmp_path: Path
) -> None:
    folder = save_library(make_reading_library(base_folder, "nowhere"), tmp_path / "library")
    data = {"library": str(folder)}
    with pytest.raises(ConfigError, match="'nowhere'"):
        train_reconstruction(reading(data=data), output_dir=tmp_path / "none")
    config = reading(data=data | {"base": str(base_folder)})
    result = train_reconstruction(config, output_dir=tmp_path / "run")
    assert load_hypernet(result).training["data"]["base"] == base_folder.name  # no whole path
    wide = save_base(tmp_path / "other", hidden_size=64)
    with pytest.raises(SpecError):
        config = reading(data=data | {"base": str(wide)})
        train_reconstruction(config, output_dir=tmp_path / "wide")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"heads": 3}, "attention_size is 8; a multiple of heads=3"),
        ({"direct": ["mlp.fc"]}, r"direct is \['mlp\.fc'\]; leave it empty, or choose among"),
    ],
)
def test_sizes_that_cannot_work_are_refused(
    tokens: dict[str, Any],
    message: str,
    reading_library: AdapterLibrary,
    reading: Settings,
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=message):
        reconstruct(reading_library, reading(tokens=tokens), output_dir=tmp_path / "run")


Run = Callable[..., tuple[int, str, str]]
QUICK = [
    argument
    for setting in ("run.steps=2", "run.device=cpu", "encoder.name=hash", "hypernet.latent_size=8")
    for argument in ("--set", setting)
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters, one of them without a description."""
    spec = LoraSpec.from_config(BASE, targets=["q_proj"], rank=2)
    weights = make_library(spec, 2).weights
    entries = [LibraryEntry("yes", ("Say yes.",)), LibraryEntry("no")]
    folder = tmp_path_factory.mktemp("library") / "library"
    return save_library(AdapterLibrary(weights, entries), folder)


def test_the_command_trains_prints_the_folder_and_leaves_a_plot(
    t2l: Run, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the plot
    command = ("train", "reconstruct", "reconstruct-onehot", "-o", tmp_path / "run")
    command += ("--set", f"data.library={saved}", *QUICK)
    code, out, err = t2l(*command)
    assert code == 0, err
    assert out.strip() == str(tmp_path / "run" / "hypernet")
    assert "2 adapters of 128 numbers" in err and "delta_error" in err
    assert (tmp_path / "run" / "history.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = t2l(*command, "--set", "optimizer.lr=0.5")
    assert code == 2 and "optimizer.lr: 0.003 -> 0.5" in err and "--fresh" in err
    code, _, err = t2l(*command, "--set", "optimizer.lr=0.5", "--fresh")
    assert code == 0, err


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            "reconstruct-embedded",
            [],
            "1 of 2 tasks have no description: no; add descriptions to the library, or set "
            "conditioning.kind to one-hot",
        ),
        ("reconstruct-onehot", ["hypernet.head=XL"], "hypernet.head is 'XL'"),
        ("reconstruct-onehot", ["data.library=nowhere"], "'nowhere' is not a folder; give the lib"),
        ("embedded", [], "recipe 'embedded' is for `t2l train sft`, not `t2l train reconstruct`"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    recipe: str, changes: list[str], message: str, t2l: Run, saved: Path, tmp_path: Path
) -> None:
    settings = [item for change in changes for item in ("--set", change)]
    command = ("train", "reconstruct", recipe, "-o", tmp_path / "run", *QUICK)
    code, out, err = t2l(*command, "--set", f"data.library={saved}", *settings)
    assert (code, out) == (2, "")
    assert message in err and len(err.splitlines()) == 1
