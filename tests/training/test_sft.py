"""A run from settings to files; killed at many places; over two processes; stopped early."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from accelerate import tracking
from safetensors.torch import load_file
from transformers import AutoConfig

from text_to_lora import TextToLora, load_base
from text_to_lora.encoders import load_encoder
from text_to_lora.errors import ConfigError, T2LError, T2LWarning
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.hypernet.outputs import ZScore
from text_to_lora.lora import load_adapter
from text_to_lora.training import descent, setup
from text_to_lora.training.batches import TrainingBatches
from text_to_lora.training.config import EncoderSection, RunConfig
from text_to_lora.training.module import SftModule
from text_to_lora.training.setup import embed_texts, make_spec, shared_settings
from text_to_lora.training.sft import train_sft
from text_to_lora.training.step_adapters import TextAdapters
from tiny_runs import TOKENS, read_history, read_result, result_bytes

Settings = Callable[..., RunConfig]
Starts = dict[str, tuple[Path, RunConfig]]
TEXTS = ["Say red.", "The answer is always brown."]
# What makes a run depend on random numbers wherever it can.
NOISY: dict[str, dict[str, Any]] = {
    "objective": {"neftune_alpha": 5.0},
    "hypernet": {"latent_size": 8, "head_in_size": 16, "dropout": 0.3},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> tuple[Path, list[str]]:
    """A finished run of sixty steps, and what it reported."""
    folder, lines = tmp_path_factory.mktemp("run") / "run", []
    config = settings(
        run={"steps": 60, "eval_every": 20, "save_every": 20, "log_every": 10},
        base={"alias": "tiny-base"},
        hypernet={"latent_size": 32, "head_in_size": 32, "dropout": 0.0},
        optimizer={"accumulation": 1},
        objective={"label_smoothing": 0.0, "neftune_alpha": 0.0, "weight_penalty": 0.0},
    )
    assert train_sft(config, output_dir=folder, report=lines.append) == folder / "hypernet"
    return folder, lines


def test_training_lowers_the_loss_of_held_out_rows(trained: tuple[Path, list[str]]) -> None:
    history = read_history(trained[0])
    losses = [line["loss"] for line in history if "loss" in line]
    assert [line["step"] for line in history if "loss" in line] == [10, 20, 30, 40, 50, 60]
    assert losses[-1] < 0.5 * losses[0]
    checks = [line for line in history if "eval_mean_loss" in line]
    assert [line["step"] for line in checks] == [20, 40, 60]
    assert checks[-1]["eval_seen_tasks_loss"] < checks[0]["eval_seen_tasks_loss"]
    assert {"eval_unseen_tasks_loss", "eval_unseen_tasks_shuffled"} <= checks[0].keys()
    # Nothing but the description tells what to answer.
    assert checks[-1]["eval_seen_tasks_loss"] < checks[-1]["eval_seen_tasks_shuffled"] - 1


def test_a_run_leaves_weights_settings_history_and_plot(trained: tuple[Path, list[str]]) -> None:
    folder, lines = trained
    loaded = load_hypernet(folder / "hypernet")
    assert loaded.hypernet.spec.base.name == "tiny-base"
    assert loaded.encoder.kind == "hash"
    assert loaded.training["run"]["steps"] == 60
    adapters = TextToLora.from_pretrained(folder / "hypernet").generate(["Say red."])
    assert adapters.weights.spec == loaded.hypernet.spec
    assert adapters.nearest[0] is not None and adapters.nearest[0].text == "Say red."
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == "text-to-lora run" and config["optimizer"]["lr"] == 0.01
    result = read_result(folder)
    checks = [line for line in read_history(folder) if "eval_mean_loss" in line]
    best = min(checks, key=lambda line: line["eval_mean_loss"])
    assert result["step"] == 60
    assert (result["best_step"], result["best_loss"]) == (best["step"], best["eval_mean_loss"])
    assert result["tokens"] == read_history(folder)[-2]["tokens"] > 1000
    assert any("tokens/s" in line and "min left" in line for line in lines)


def test_checkpoints_hold_the_hypernetwork_and_never_the_base(
    trained: tuple[Path, list[str]],
) -> None:
    folder = trained[0]
    names = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert names == ["checkpoint-40", "checkpoint-60"]
    state = load_file(folder / "checkpoint-60" / "state.safetensors")
    last = load_file(folder / "last" / "model.safetensors")
    prefix = "module.adapters.hypernet."
    weights = {name: tensor for name, tensor in state.items() if name.startswith("module.")}
    assert {f"{prefix}{name}" for name in last} == set(weights)
    for name, tensor in last.items():
        assert torch.equal(tensor, state[f"{prefix}{name}"])
    assert len(state) == 4 * len(weights)  # two moments and a count for each


def test_weights_carry_no_folder_of_the_machine_that_made_them(
    trained: tuple[Path, list[str]], settings: Settings, tmp_path: Path
) -> None:
    text = (trained[0] / "hypernet" / "config.json").read_text()
    assert "/" not in json.dumps(json.loads(text)["training"])
    settled = shared_settings(settings(encoder={"cache_dir": str(tmp_path)}))
    assert settled["encoder"]["cache_dir"] == tmp_path.name


def test_a_finished_run_is_not_run_again(trained: tuple[Path, list[str]]) -> None:
    folder = trained[0]
    lines: list[str] = []
    payload = json.loads((folder / "config.json").read_text())
    config = RunConfig.from_dict({k: v for k, v in payload.items() if k in RunConfig.model_fields})
    before = (folder / "history.jsonl").stat().st_mtime_ns
    assert train_sft(config, output_dir=folder, report=lines.append) == folder / "hypernet"
    assert not lines and (folder / "history.jsonl").stat().st_mtime_ns == before


def kill_at(event: int, run: Callable[[], object]) -> int:
    """Run in a copy of this process that is killed at its n-th change of the file system.

    Gives the number of changes that it made; `event` 0 kills at none.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        changes = 0

        def count(name: str, details: tuple[Any, ...]) -> None:
            nonlocal changes
            path = str(details[0]) if details else ""
            write = name == "open" and details[2] & os.O_ACCMODE and "__pycache__" not in path
            if write or name in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"):
                changes += 1
                if changes == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            run()
            os.write(writing, str(changes).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        counted = pipe.read()
    _, status = os.waitpid(child, 0)
    assert (os.WTERMSIG(status) == signal.SIGKILL) if event else (status == 0 and counted)
    return int(counted or 0)


def test_a_run_killed_anywhere_ends_in_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    config = settings(**NOISY)
    whole = tmp_path / "whole"
    changes = kill_at(0, lambda: train_sft(config, output_dir=whole))
    expected = result_bytes(whole)
    steps = [(line["step"], line.get("loss")) for line in read_history(whole)]
    seen = set()
    for event in range(5, changes, changes // 9):
        folder = tmp_path / f"killed-{event}"
        kill_at(event, lambda folder=folder: train_sft(config, output_dir=folder))
        seen.add(len(list(folder.glob("checkpoint-*/COMPLETE"))))
        train_sft(config, output_dir=folder)
        assert result_bytes(folder) == expected, event
        assert [(line["step"], line.get("loss")) for line in read_history(folder)] == steps
        assert not list(folder.glob(".*")), event
    assert seen == {0, 1, 2}  # kills came before and after checkpoints


def test_two_processes_give_the_losses_and_weights_of_one(
    settings: Settings, tmp_path: Path
) -> None:
    # Seven rows: three for one process, four for the other.
    data = {"tasks_per_batch": 7, "examples_per_task": 1}
    config = settings(data=data, optimizer={"eps": 1e-3}, **NOISY)
    train_sft(config, output_dir=tmp_path / "one")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["-m", "text_to_lora.cli", "train", "sft", str(recipe), "-o", str(tmp_path / "two")]
    source = str(Path(__file__).parents[2] / "src")
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_history(tmp_path / name) for name in ("one", "two"))
    for line, other in zip(one, two, strict=True):
        for key, value in line.items():
            if key == "loss" or key.startswith("eval_"):
                assert other[key] == pytest.approx(value, rel=1e-4), key
    for part in ("hypernet", "last"):
        tensors = load_file(tmp_path / "two" / part / "model.safetensors")
        for name, tensor in load_file(tmp_path / "one" / part / "model.safetensors").items():
            torch.testing.assert_close(tensors[name], tensor, atol=1e-5, rtol=1e-3)


def test_a_run_stops_early_and_keeps_the_best_weights(settings: Settings, tmp_path: Path) -> None:
    # Unseen tasks have other answers, so that their loss gets worse after a while.
    run = {"steps": 60, "patience": 2, "keep_checkpoints": 9, "select_by": "unseen_tasks"}
    config = settings(run=run, optimizer={"lr": 0.03, "schedule": "constant"})
    train_sft(config, output_dir=tmp_path / "run")
    result = read_result(tmp_path / "run")
    assert result["step"] == result["best_step"] + 4 < 60
    checks = [line for line in read_history(tmp_path / "run") if "eval_mean_loss" in line]
    assert checks[-1]["step"] == result["step"]
    assert result["best_loss"] == min(line["eval_unseen_tasks_loss"] for line in checks)
    best = f"checkpoint-{result['best_step']}"
    state = load_file(tmp_path / "run" / best / "state.safetensors")
    for name, tensor in load_file(tmp_path / "run" / "hypernet" / "model.safetensors").items():
        assert torch.equal(tensor, state[f"module.adapters.hypernet.{name}"])
    # Cut off after the last checkpoint, it does not train on.
    expected = result_bytes(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    train_sft(config, output_dir=tmp_path / "run")
    assert result_bytes(tmp_path / "run") == expected
    assert read_result(tmp_path / "run")["step"] == result["step"]


@pytest.mark.parametrize("hypernet", [{"kind": "static"}, {"reads": "input"}])
def test_what_reads_no_description_trains_and_has_no_shuffled_control(
    hypernet: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    config = settings(hypernet=hypernet, run={"steps": 4})
    folder = train_sft(config, output_dir=tmp_path / "run")
    if "kind" in hypernet:  # the multi-task adapter, a PEFT folder
        assert folder == tmp_path / "run" / "adapter"
        weights = load_adapter(folder, base_config=AutoConfig.from_pretrained(config.base.name))
        assert all(b.abs().sum() > 0 for b in weights.b.values())
    lines = read_history(tmp_path / "run")
    assert [line for line in lines if "eval_mean_loss" in line]
    assert not [key for line in lines for key in line if "shuffled" in key]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"hypernet": {"kind": "static", "start_from": "x"}},
            r"start_from is 'x' but kind is 'static'.*set start_from",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    sections: dict[str, Any], message: str, settings: Settings
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**sections)


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Starts:
    """Hypernetworks as a reconstruction leaves them, M with z-scores and S with ΔW; settings."""
    starts = {}
    for head, output in (("shared", "zscore"), ("rank", "delta")):
        folder = tmp_path_factory.mktemp("start") / "hypernet"
        config = settings(hypernet={"start_from": str(folder)}, base={"alias": "tiny-base"})
        base_config = AutoConfig.from_pretrained(config.base.name)
        spec = make_spec(config.base, config.adapter, base_config)
        encoder = load_encoder("hash").config
        # Sizes other than those of the settings.
        sizes: dict[str, Any] = {"embedding_dim": encoder.embedding_dim, "latent_size": 12}
        hypernet = Hypernetwork.from_config(
            HypernetConfig(head=head, output=output, head_in_size=20, **sizes),  # type: ignore[arg-type]
            spec,
            torch.Generator().manual_seed(3),
        )
        if isinstance(hypernet.output, ZScore):
            draw = torch.Generator().manual_seed(4)
            library = hypernet(torch.randn(3, encoder.embedding_dim, generator=draw)).detach()
            hypernet.output.set_library(library)
        save_hypernet(folder, hypernet, encoder, training={})
        starts[output] = folder, config
    return starts


@pytest.mark.parametrize("output", ["zscore", "delta"])
def test_a_run_that_starts_from_a_hypernetwork_starts_with_its_adapters_and_trains_them(
    reconstructed: Starts, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, config = reconstructed[output]
    expected = TextToLora.from_pretrained(start).generate(TEXTS).weights
    first: list[Hypernetwork] = []
    record = SftModule.__init__

    def keep(module: SftModule, adapters: TextAdapters, *args: Any, **options: Any) -> None:
        first.append(copy.deepcopy(adapters.hypernet).eval())
        record(module, adapters, *args, **options)

    monkeypatch.setattr(SftModule, "__init__", keep)
    result = load_hypernet(train_sft(config, output_dir=tmp_path / "run"))
    embeddings = load_encoder("hash").encode(TEXTS)
    begun = first[0](embeddings)
    trained = result.hypernet(embeddings)
    for key in expected.a:
        assert torch.equal(begun.a[key], expected.a[key])
        assert torch.equal(begun.b[key], expected.b[key])
        assert not torch.equal(trained.b[key], expected.b[key])
    loaded = load_hypernet(start).hypernet
    old, new = loaded.state_dict(), load_hypernet(tmp_path / "run" / "last").hypernet.state_dict()
    moments = {name for name, _ in loaded.named_buffers()} & old.keys()
    assert bool(moments) == (output == "zscore")
    for name, tensor in old.items():  # the library's moments alone stay
        assert torch.equal(tensor, new[name]) == (name in moments), name
    # Sizes and output are the folder's, dropout is the run's.
    assert result.hypernet.config == replace(loaded.config, dropout=config.hypernet.dropout)
    assert result.training["hypernet"]["start_from"] == "hypernet"


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("adapter", {"rank": 4}, r"start_from='.*hypernet' is of another kind: rank 2, not 4; set"),
        ("adapter", {"targets": ["q_proj"], "layers": [1]}, r"layers \[0, 1\], not \[1\]; set"),
        ("base", {"alias": "other"}, "base.name 'tiny-base', not 'other'; set base, adapter"),
        ("encoder", {}, r"encoder 'hash', not .* as it is now; set base, adapter"),
    ],
)
def test_a_start_that_does_not_fit_the_run_is_refused(
    section: str,
    fields: dict[str, Any],
    message: str,
    reconstructed: Starts,
    encoder_folder: Path,
    tmp_path: Path,
) -> None:
    payload = reconstructed["zscore"][1].to_dict()
    payload[section] |= fields or {"name": f"minilm:{encoder_folder}"}
    with pytest.raises(ConfigError, match=message):
        train_sft(RunConfig.from_dict(payload), output_dir=tmp_path / "run")


def test_a_start_that_names_its_base_as_an_earlier_release_did_is_taken(
    reconstructed: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = reconstructed["zscore"]
    shutil.copytree(folder, tmp_path / "start")
    file = tmp_path / "start" / "config.json"
    stored = json.loads(file.read_text())
    earlier, now = "0" * 64, stored["spec"]["base"]["config_hash"]
    stored["spec"]["base"] |= {"config_hash": earlier, "model_type": "whole"}
    file.write_text(json.dumps(stored))
    payload = settings.to_dict()
    payload["hypernet"]["start_from"] = str(tmp_path / "start")
    with pytest.raises(ConfigError, match=f"base.config_hash '{earlier}', not '{now}'"):
        train_sft(RunConfig.from_dict(payload), output_dir=tmp_path / "run")
    monkeypatch.setattr("text_to_lora.lora.spec.accepted_hashes", lambda _: [now, earlier])
    result = train_sft(RunConfig.from_dict(payload), output_dir=tmp_path / "other")
    assert load_hypernet(result).hypernet.spec.base.config_hash == now


def test_without_validation_the_last_weights_are_the_result(
    settings: Settings, tmp_path: Path
) -> None:
    config = settings(data={"eval_rows": 0}, run={"steps": 3, "save_every": 100})
    train_sft(config, output_dir=tmp_path / "run")
    selected, last = result_bytes(tmp_path / "run")
    assert selected == last
    assert read_result(tmp_path / "run")["best_loss"] is None


def test_a_run_that_diverges_stops_and_names_task_and_step(
    settings: Settings, tmp_path: Path
) -> None:
    config = settings(optimizer={"lr": 1e30, "warmup": 0.0, "max_grad_norm": 0.0})
    with pytest.raises(T2LError, match=r"loss of .*say-\w+.* is not finite at step 2; lower opt"):
        train_sft(config, output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("run", {"report_to": ["carrier-pigeon"]}, "'carrier-pigeon', which is not installed"),
        ("run", {"select_by": "unseen_families"}, "has only seen_tasks, unseen_tasks"),
        ("data", {"max_prompt_tokens": 300}, "do not fit the base's 256 positions"),
        ("base", {"name": "nowhere"}, "unknown base model 'nowhere'"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    settings: Settings, tmp_path: Path, section: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_sft(settings(**{section: fields}), output_dir=tmp_path / "run")


def test_dtype_auto_is_settled_when_the_run_begins(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fast, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(setup, "has_fast_product", lambda dtype, device, fast=fast: fast)
        config = settings(base={"dtype": "auto"}, data={"eval_rows": 0}, run={"steps": 1})
        train_sft(config, output_dir=tmp_path / dtype)
        stored = json.loads((tmp_path / dtype / "config.json").read_text())
        assert stored["base"]["dtype"] == dtype


class Recorder(tracking.GeneralTracker):
    """A logger of accelerate that only lists what it is given."""

    name = "recorder"
    requires_logging_directory = False
    tracker = None
    seen: ClassVar[list[str]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()

    def store_init_configuration(self, values: Any) -> None: ...

    def log(self, values: Any, step: int | None = None, **options: Any) -> None:
        self.seen.extend(values)


def test_loggers_get_losses_and_validation(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr(descent, "get_available_trackers", lambda: ["recorder"])
    config = settings(run={"steps": 2, "report_to": ["recorder"]})
    train_sft(config, output_dir=tmp_path / "run")
    assert {"loss", "eval_unseen_tasks_loss", "learning_rate"} <= set(Recorder.seen)


def test_long_descriptions_are_warned_of_once(encoder_folder: Path, tmp_path: Path) -> None:
    section = EncoderSection(name=f"minilm:{encoder_folder}")
    with pytest.warns(T2LWarning, match="reads 256 tokens of a description; 2 of 3 are longer"):
        embed_texts(section, ["a", "b " * 300, "c " * 400], tmp_path, torch.device("cpu"))


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """A run of six steps that reads the base's token states, with a checkpoint every second."""
    config = settings(tokens=TOKENS, run={"eval_every": 3})
    return train_sft(config, output_dir=tmp_path_factory.mktemp("run") / "run").parent


def test_a_run_that_reads_tokens_trains_every_part_and_resumes_to_the_same_bytes(
    reading: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = TrainingBatches.__getitem__

    def stop(self: Any, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return batches(self, step)

    config = settings(tokens=TOKENS, run={"eval_every": 3})
    with monkeypatch.context() as context:
        context.setattr(TrainingBatches, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            train_sft(config, output_dir=tmp_path / "run")
    early = load_file(tmp_path / "run" / "checkpoint-2" / "state.safetensors")
    train_sft(config, output_dir=tmp_path / "run")
    assert result_bytes(tmp_path / "run") == result_bytes(reading)
    last = load_hypernet(reading / "last").hypernet.state_dict()
    parts = [name for name in last if name.startswith(("attention.", "memory."))]
    assert parts
    for name in parts:
        assert not torch.equal(early[f"module.adapters.hypernet.{name}"], last[name]), name


def test_generating_loads_the_base_or_takes_the_one_that_is_there(
    reading: Path, base_folder: Path
) -> None:
    folder, base = reading / "hypernet", load_base(base_folder)
    expected = TextToLora.from_pretrained(folder).generate(TEXTS).weights
    for t2l in (TextToLora.from_pretrained(folder, base=base), TextToLora.from_pretrained(folder)):
        t2l.attach_base(*base)
        weights = t2l.generate(TEXTS).weights
        for key in expected.a:  # the base that is loaded here is in fp32, the other as is fast
            torch.testing.assert_close(weights.a[key], expected.a[key], rtol=0.02, atol=1e-3)
            torch.testing.assert_close(weights.b[key], expected.b[key], rtol=0.02, atol=1e-3)


def test_a_sentence_network_goes_on_as_one_that_reads_tokens(
    settings: Settings, tmp_path: Path
) -> None:
    start = train_sft(settings(run={"steps": 2}), output_dir=tmp_path / "sentence")
    config = settings(
        tokens=TOKENS | {"direct": []},
        hypernet={"start_from": str(start), "dropout": 0.0},
        optimizer={"lr": 1e-12, "schedule": "constant", "warmup": 0.0},
        run={"steps": 1},
    )
    folder = train_sft(config, output_dir=tmp_path / "tokens")
    before, after = (
        TextToLora.from_pretrained(path).generate(TEXTS).weights for path in (start, folder)
    )
    for key in before.a:  # the attention starts as the identity
        torch.testing.assert_close(after.a[key], before.a[key], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(after.b[key], before.b[key], rtol=1e-4, atol=1e-6)


def test_the_command_trains_from_a_file_and_prints_the_folder_of_the_result(
    t2l: Callable[..., tuple[int, str, str]], settings: Settings, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "mine.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(settings().to_dict()))
    command = ("train", "sft", recipe, "-o", run)
    changes = ["--set", "run.steps=2", "--set", "data.eval_rows=0"]
    code, out, err = t2l(*command, *changes)
    assert code == 0, err
    assert out.strip() == str(run / "hypernet")
    assert "step 2/2 loss" in err
    code, _, err = t2l(*command)
    assert code == 2
    assert "run.steps: 2 -> 6" in err and "--fresh" in err
    code, out, err = t2l(*command, "--set", "optimizer.learning_rat=1")
    assert (code, out) == (2, "")
    assert "unknown key 'optimizer.learning_rat', nearest" in err
    assert len(err.splitlines()) == 1
