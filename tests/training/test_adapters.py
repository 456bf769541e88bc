"""A library trained at once, against separate runs with PEFT; killed, resumed, in processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import get_scheduler

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.files import one_job
from text_to_lora.library.library import load_library
from text_to_lora.lora import load_adapter, save_adapter
from text_to_lora.models.base import load_base, load_base_config
from text_to_lora.tasks.task import Example, Metric, Task
from text_to_lora.training.adapters import (
    LibraryConfig,
    make_job,
    make_learner,
    multitask_job,
    pick_tasks,
    train_adapters,
)
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.joint import Job, JointTrainer
from text_to_lora.training.joint_learner import JointLearner
from text_to_lora.training.loop import Loop
from text_to_lora.training.step_adapters import StackedAdapters, read_weights
from tiny_runs import merge

Make = Callable[..., LibraryConfig]


@pytest.fixture(scope="module")
def config(base_folder: Path, task_folder: Path) -> Make:
    """Settings of a run of a second; `changes` are sections over them."""

    def make(**changes: dict[str, Any]) -> LibraryConfig:
        sections: dict[str, dict[str, Any]] = {
            "base": {"name": str(base_folder), "dtype": "float32"},
            "adapter": {"targets": "all-linear", "rank": 2, "alpha": 4},
            "data": {
                "folders": [str(task_folder)],
                "validation_one_in": 0,
                "max_prompt_tokens": 64,
                "max_answer_tokens": 16,
                "eval_rows": 2,
            },
            "optimizer": {"lr": 0.02, "weight_decay": 0.2, "max_grad_norm": 1.0, "warmup": 0.2},
            "run": {
                "rows": 20,
                "batch_size": 4,
                "multitask_batch_size": 6,
                "eval_every": 2,
                "tasks_at_once": 2,
                "save_every": 2,
                "tokens_per_pass": 200,
                "device": "cpu",
            },
        }
        return LibraryConfig.from_dict(merge(sections, changes))

    return make


def rows(answer: str, count: int, *, start: int = 0) -> list[tuple[str, str]]:
    return [("x" * (1 + (7 * i) % 23), answer) for i in range(start, start + count)]


# Unlike numbers of rows, a last batch that lacks rows, and one whose validation only gets worse.
JOBS = (
    Job("long", rows("red", 24), rows("red", 3, start=30), batch_size=4, eval_every=2),
    Job("short", rows("green", 10), rows("green", 5, start=30), batch_size=4, eval_every=2),
    Job("stops", rows("blue", 40), rows("zqzqzqzq", 3, start=30), batch_size=4, eval_every=2),
    Job("unselected", rows("grey", 9), (), batch_size=4, eval_every=2),
)
PATIENCE = 2


def loss_of(
    model: torch.nn.Module, encoder: RowEncoder, drawn: Sequence[tuple[str, str]]
) -> Tensor:
    """Mean over rows of the mean over answer tokens, each row on its own."""
    losses = []
    for row in drawn:
        prompt, answer = map(list, encoder.encode(*row))
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        predicted = logits[len(prompt) - 1 : len(prompt) + len(answer) - 1]
        losses.append(cross_entropy(predicted, torch.tensor(answer)))
    return torch.stack(losses).mean()


def train_alone(
    job: Job, config: LibraryConfig, model: PeftModel, encoder: RowEncoder
) -> tuple[dict[str, Tensor], int, float]:
    """A plain loop over one task: weights of the best step, that step, and its loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    total = math.ceil(len(job.rows) / job.batch_size)
    schedule = get_scheduler("linear", optimizer, round(settings.warmup * total), total)
    best: tuple[dict[str, Tensor], int, float] = ({}, 0, math.inf)
    misses = 0
    for step in range(total):
        loss = loss_of(model, encoder, job.rows[4 * step : 4 * step + 4])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % job.eval_every and step + 1 < total:
            continue
        with torch.no_grad():
            score = float(loss_of(model, encoder, job.selection)) if job.selection else -step
        misses += 1
        if score < best[2]:
            state = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            best, misses = (state, step + 1, score), 0
        if misses == PATIENCE:
            break
    return best


@pytest.fixture(scope="module")
def joint(config: Make, base_folder: Path) -> JointLearner:
    """All jobs of JOBS trained together to their ends."""
    base, tokenizer = load_base(base_folder)
    learner = make_learner(config(run={"patience": PATIENCE}), base, tokenizer, JOBS)
    Loop(learner).run()
    return learner


@pytest.mark.parametrize("place", range(len(JOBS)), ids=[job.name for job in JOBS])
def test_joint_training_gives_what_a_separate_run_gives(
    joint: JointLearner, place: int, config: Make, base_folder: Path, tmp_path: Path
) -> None:
    """One task with PEFT, torch's AdamW and a row at a time, from the same start."""
    settings, job = config(run={"patience": PATIENCE}), JOBS[place]
    base, tokenizer = load_base(base_folder)
    spec = joint.trainer.adapters.spec
    start = read_weights(StackedAdapters(spec, 1, torch.Generator().manual_seed(42)))
    save_adapter(start, tmp_path / "start", scale_safe=False)
    peft_model = PeftModel.from_pretrained(base, tmp_path / "start", is_trainable=True)
    encoder = RowEncoder(tokenizer, max_prompt_tokens=64, max_answer_tokens=16)
    state, step, score = train_alone(job, settings, peft_model, encoder)
    assert joint.best(place).step == step
    if job.selection:
        assert joint.best(place).loss == pytest.approx(score, abs=1e-4)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if name in state:
                parameter.copy_(state[name])
    peft_model.save_pretrained(str(tmp_path / "end"))
    alone = load_adapter(tmp_path / "end", base_config=base.config)
    expected = joint.trainer.best().select([place])
    for key in expected.a:
        # Adam divides by the root of a moment, which enlarges what batching changes in the last bit.
        torch.testing.assert_close(expected.delta(key), alone.delta(key), atol=2e-4, rtol=1e-3)
    assert any(expected.b[key].abs().max() > 1e-3 for key in expected.b)


def test_a_task_that_gets_worse_stops_early_and_the_others_go_on(joint: JointLearner) -> None:
    steps = dict(zip((job.name for job in JOBS), joint.trainer.steps, strict=True))
    assert steps["long"] == 6 and steps["short"] == 3 and steps["unselected"] == 3
    assert steps["stops"] < JOBS[2].num_steps


def test_an_absent_task_keeps_everything_bit_by_bit(config: Make, base_folder: Path) -> None:
    base, tokenizer = load_base(base_folder)
    trainer = make_learner(config(), base, tokenizer, JOBS).trainer
    trainer.step([0, 1, 2, 3])
    trainer.keep([0, 1, 2])
    before = {key: value.clone() for key, value in trainer.state_dict().items()}
    trainer.step([0, 2])
    trainer.keep([0, 2])
    for key, value in trainer.state_dict().items():
        assert torch.equal(value[[1, 3]], before[key][[1, 3]]), key
    changed = [k for k, v in trainer.state_dict().items() if not torch.equal(v[0], before[k][0])]
    assert {"optimizer.steps", "weight.7", "best.7", "optimizer.first.7"} <= set(changed)


def test_the_size_of_a_pass_does_not_change_the_result(config: Make, base_folder: Path) -> None:
    base, tokenizer = load_base(base_folder)
    ends = []
    for tokens in (1, 100, 10_000):
        settings = config(run={"tokens_per_pass": tokens})
        trainer = make_learner(settings, base, tokenizer, JOBS).trainer
        for _ in range(2):
            trainer.step([0, 1, 2, 3])
        ends.append(trainer.weights())
    for other in ends[1:]:
        for key in ends[0].a:
            torch.testing.assert_close(other.delta(key), ends[0].delta(key), atol=1e-4, rtol=1e-3)


def test_a_library_holds_every_task_with_its_losses(
    config: Make, tmp_path: Path, base_folder: Path
) -> None:
    lines: list[str] = []
    path = train_adapters(config(), output_dir=tmp_path / "run", report=lines.append)
    assert path == tmp_path / "run" / "library"
    library = load_library(path)
    tasks = {task.name: task for task in pick_tasks(config())}
    assert library.names == list(tasks) and len(tasks) == 6
    base, tokenizer = load_base(base_folder)
    encoder = RowEncoder(tokenizer, max_prompt_tokens=64, max_answer_tokens=16)
    for entry in library.entries:
        task = tasks[entry.task]
        assert entry.descriptions == task.descriptions
        assert entry.base_loss is not None and entry.validation_loss is not None
        assert entry.validation_loss < entry.base_loss
        assert entry.rows == 20 and entry.source == "trained"
        selection = [(e.input, e.outputs[0]) for e in task.training() if e.idx % 10 == 8]
        with torch.no_grad():
            alone = float(loss_of(base, encoder, selection))
        assert entry.base_loss == pytest.approx(alone, abs=1e-4)
    assert library.training["run"]["rows"] == 20
    assert any("unfinished_tasks 2" in line for line in lines)


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_run_goes_on_and_finished_tasks_are_not_trained_again(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(data={"eval_rows": 1})
    whole = train_adapters(settings, output_dir=tmp_path / "whole")
    trained: list[str] = []
    step = JointTrainer.step

    def counted(self: JointTrainer, present: Sequence[int]) -> tuple[float, int]:
        trained.extend(self.jobs[place].name for place in present)
        if len(trained) == kill_at:
            raise Killed
        return step(self, present)

    monkeypatch.setattr(JointTrainer, "step", counted)
    seen = []
    for kill_at in (8, 10, 6, 16, -1):  # within and between groups
        trained.clear()
        if kill_at > 0:
            with pytest.raises(Killed):
                train_adapters(settings, output_dir=tmp_path / "run")
        else:
            train_adapters(settings, output_dir=tmp_path / "run")
        seen.append(list(trained))
    result = tmp_path / "run" / "library" / "library.safetensors"
    assert result.read_bytes() == (whole / "library.safetensors").read_bytes()
    assert not {task.name for task in pick_tasks(settings)[:2]} & set(seen[-1])  # first group
    # Nothing is trained once all is there.
    trained.clear()
    train_adapters(settings, output_dir=tmp_path / "run")
    assert not trained


def test_processes_give_the_same_library(config: Make, tmp_path: Path) -> None:
    settings = config(run={"rows": 8, "tasks_at_once": 3})
    lines: list[str] = []
    one = train_adapters(settings, output_dir=tmp_path / "one")
    two = train_adapters(settings, output_dir=tmp_path / "two", processes=2, report=lines.append)
    name = "library.safetensors"
    assert (one / name).read_bytes() == (two / name).read_bytes()
    assert {"0000", "0001"} <= {line.partition(":")[0] for line in lines}


# No process ends by itself before it is killed.
ENDLESS = {"rows": 100_000, "epochs": 100_000, "patience": None}
LONG_RUN = """
import json, sys
from functools import partial
from text_to_lora.training.adapters import LibraryConfig, train_adapters
settings = LibraryConfig.from_dict(json.loads(sys.argv[1]))
show = partial(print, flush=True)
train_adapters(settings, output_dir=sys.argv[2], processes=2, report=show)
"""


def test_no_process_outlives_a_run_that_is_killed(config: Make, tmp_path: Path) -> None:
    settings = config(run=ENDLESS)
    arguments = (json.dumps(settings.to_dict()), str(tmp_path / "run"))
    command = [sys.executable, "-c", LONG_RUN, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if "step" in line:
                break
        job.kill()
        job.communicate(timeout=30)  # every process holds the pipe


def test_a_process_that_is_killed_is_an_error_of_one_line(config: Make, tmp_path: Path) -> None:
    def kill_one(line: str) -> None:
        for process in active_children():
            if "step" in line and process.name.startswith("SpawnProcess"):
                process.kill()

    settings = config(run=ENDLESS)
    with pytest.raises(
        T2LError, match=r"^a process .* was killed, .*; repeat the command to go on"
    ):
        train_adapters(settings, output_dir=tmp_path / "run", processes=2, report=kill_one)


def test_a_group_is_trained_by_one_job_at_a_time(config: Make, tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("0000: step"):
            raise Killed

    with pytest.raises(Killed):
        train_adapters(config(), output_dir=tmp_path / "run", report=stop)
    with (
        one_job(tmp_path / "run" / "groups" / "0001"),
        pytest.raises(ConfigError, match=r"another job writes into '.*0001'; repeat when"),
    ):
        train_adapters(config(), output_dir=tmp_path / "run")


def test_the_multitask_adapter_sees_the_rows_of_all_tasks(
    config: Make, base_folder: Path, tmp_path: Path
) -> None:
    settings = config()
    tasks = pick_tasks(settings)
    job = multitask_job(tasks, settings)
    expected = [row for task in tasks for row in make_job(task, settings).rows]
    assert sorted(job.rows) == sorted(expected)
    assert job.batch_size == 6
    path = train_adapters(settings, output_dir=tmp_path / "run", multitask=True)
    assert path == tmp_path / "run" / "multitask"
    loaded = load_adapter(path, base_config=load_base_config(base_folder))
    assert loaded.num_adapters == 1
    assert any(b.any() for b in loaded.b.values())


def test_rows_depend_on_the_task_alone_and_a_small_library_begins_a_large_one(config: Make) -> None:
    tasks = pick_tasks(config())
    few = pick_tasks(config(data={"count": 3}))
    assert [task.name for task in few] == [task.name for task in tasks[:3]]
    other = config(data={"count": 3}, run={"rows": 12})
    assert make_job(tasks[0], other).rows == make_job(tasks[0], config()).rows[:12]


def test_scored_rows_are_never_trained_on_nor_selected_by(config: Make) -> None:
    examples = tuple(Example(str(idx), ("yes",), idx) for idx in range(40))
    make = {"definition": "Say yes.", "descriptions": (), "metric": Metric("exact_match")}
    settings = config(run={"rows": 400, "epochs": 9}, data={"eval_rows": 99})
    for split, trained, selected in (
        ("train", {0, 1, 2, 3, 4, 5, 6, 7}, {8}),
        ("dev_heldout", {0, 1, 2, 3}, {4}),
    ):
        job = make_job(Task(name="t", examples=examples, split=split, **make), settings)  # type: ignore[arg-type]
        assert {int(text) % 10 for text, _ in job.rows} == trained
        assert {int(text) % 10 for text, _ in job.selection} == selected
        counts = {text: sum(row[0] == text for row in job.rows) for text, _ in job.rows}
        assert set(counts.values()) == {9}  # whole passes


def test_a_loss_that_is_not_finite_names_task_and_step(config: Make, base_folder: Path) -> None:
    base, tokenizer = load_base(base_folder)
    trainer = make_learner(config(), base, tokenizer, JOBS).trainer
    trainer.step([0, 1])
    assert isinstance(trainer.adapters, StackedAdapters)
    with torch.no_grad():
        trainer.adapters.b[0][1] = math.nan
    with pytest.raises(T2LError, match=r"the loss of short is not finite at step 2"):
        trainer.step([0, 1])


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("data", {"names": ["say-rad"]}, "'say-rad', which no task .* nearest 'say-red'"),
        ("data", {"names": ["say-red", "say-red"]}, "a name twice"),
        ("data", {"count": 7}, "data.count is 7, but 6 tasks have data.min_descriptions=1"),
        ("data", {"min_descriptions": 5}, "count is all, but 0 tasks have data.min_desc.*s=5"),
        ("objective", {"label_smoothing": 2}, "label_smoothing is 2; it should be less than 1"),
        ("objective", {"neftune_alpha": -1}, "neftune_alpha is -1; it should be greater than or"),
        ("run", {"device": "gpu"}, "run.device is 'gpu'; it should be 'auto' or 'cpu'"),
        ("run", {"epochs": 0}, "run.epochs is 0; it should be greater than 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    config: Make, section: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pick_tasks(config(**{section: fields}))


def test_other_settings_in_the_same_folder_are_refused(config: Make, tmp_path: Path) -> None:
    one, other = (config(data={"count": 1}, run={"rows": rows}) for rows in (4, 8))
    train_adapters(one, output_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run.rows: 4 -> 8; choose another output folder"):
        train_adapters(other, output_dir=tmp_path / "run")
    train_adapters(other, output_dir=tmp_path / "run", resume=False)
