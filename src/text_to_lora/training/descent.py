"""Gradient descent on one module, over one or several processes: for the loop of training."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.training.batches import TrainingBatches
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.config import AdamWSection, LengthSection, Recipe
from text_to_lora.training.library_batches import LibraryBatches
from text_to_lora.training.loop import MEASURED_STEPS, Learner, Line, Loop, StepFigures
from text_to_lora.training.optimizer import learning_rate


@final
class Session:
    """The folder, the device, the processes and the loggers of one run.

    output_dir: of the run; report: gets lines of progress, of the first process alone

    Raises ConfigError for a logger that is not installed.
    """

    def __init__(
        self, run: LengthSection, output_dir: Path | str, report: Callable[[str], None]
    ) -> None:
        loggers = [str(name) for name in get_available_trackers()]
        for name in run.report_to:
            if name not in loggers:
                raise ConfigError(
                    f"run.report_to has {name!r}, which is not installed; "
                    f"installed: {', '.join(loggers) or 'none'}"
                )
        self.folder = RunFolder(output_dir)
        self._run = run
        # A run before this one in the same process may have been on another device.
        AcceleratorState._reset_state(reset_partial_state=True)
        self._accelerator = Accelerator(
            cpu=run.device == "cpu",
            mixed_precision="no",
            log_with=list(run.report_to) or None,
            project_dir=self.folder.path,
        )
        self.device: torch.device = self._accelerator.device
        self.process: int = self._accelerator.process_index
        self.processes: int = self._accelerator.num_processes
        self.is_main = self.process == 0
        self.report = report if self.is_main else lambda line: None

    def open(self, config: Recipe, *, resume: bool) -> bool:
        """Open the folder of the run; gives whether the run is finished already.

        Raises ConfigError as RunFolder.open does.
        """
        if self.is_main:
            self.folder.open(config, resume=resume)
        self._accelerator.wait_for_everyone()
        return self.folder.result is not None

    def prepare(self, module: nn.Module) -> nn.Module:
        """A module on the device, whose gradients are averaged over the processes."""
        prepared: nn.Module = self._accelerator.prepare(module)
        return prepared

    def add(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on the CPU."""
        if self.processes == 1:
            return values
        total: Tensor = self._accelerator.reduce(values.to(self.device), "sum")
        return total.cpu()

    def train(self, learner: Learner, plot: Callable[[Sequence[Line], Path], None]) -> Loop:
        """Run the loop of a learner, and give it when it is over.

        plot: draws the history into a file, after each validation
        """

        def watch(lines: Sequence[Line]) -> None:
            line = dict(lines[-1])
            self._accelerator.log(line, step=int(line.pop("step")))
            if "loss" not in line:
                plot(lines, self.folder.path / "history.png")

        if self._run.report_to:
            self._accelerator.init_trackers("text-to-lora")
        run = self._run
        loop = Loop(
            learner,
            self.folder,
            log_every=run.log_every,
            save_every=run.save_every,
            checkpoints=run.keep_checkpoints,
            report=self.report,
            watch=watch,
            is_main=self.is_main,
            interruptible=self.processes == 1,
        )
        loop.run()
        for tracker in self._accelerator.trackers:  # `end_training` ends the process group as well
            tracker.finish()
        return loop

    def finish(
        self,
        save: Callable[[Path], None],
        result: Path,
        outcome: Mapping[str, Any],
        *,
        last_counts: bool,
    ) -> None:
        """Write the last weights and the record of the run.

        save: writes the weights as they are; result: receives them too where `last_counts`
        """
        if self.is_main:
            save(self.folder.path / "last")
            if last_counts:
                save(result)
            self.folder.finish(outcome)
        self._accelerator.wait_for_everyone()


@final
class DescentLearner(Learner):
    """Trains a module whose forward pass is this process's share of a step's loss.

    measure: validates the weights as they are, on every process; None never validates
    selected: the name of the figure that is least for the best weights
    save_best: writes the weights as they are as the result; called in the first process alone
    """

    def __init__(
        self,
        module: nn.Module,
        batches: TrainingBatches | LibraryBatches,
        session: Session,
        *,
        run: LengthSection,
        optimizer: AdamWSection,
        unit: str,
        measure: Callable[[], dict[str, float]] | None,
        selected: str,
        save_best: Callable[[], None],
    ) -> None:
        self.unit = unit
        self.num_steps = run.steps
        self.best_step: int | None = None
        self.best_loss: float | None = None
        self._module = module
        self._model = session.prepare(module)
        self._batches = batches
        self._session = session
        self._run = run
        self._settings = optimizer
        moments = optimizer.model_dump(include={"lr", "betas", "eps", "weight_decay"})
        self._optimizer = torch.optim.AdamW(module.parameters(), fused=True, **moments)
        self._measure = measure
        self._selected = selected
        self._save_best = save_best

    def is_over(self, step: int) -> bool:
        """See Learner.is_over; also when validation has not improved for too long."""
        if step >= self.num_steps:
            return True
        if self._run.patience is None or self.best_step is None:
            return False
        return step - self.best_step >= self._run.patience * self._run.eval_every

    def step(self, step: int) -> StepFigures:
        """See Learner.step."""
        batch = self._batches[step]
        processes = self._session.processes
        self._module.train()
        try:
            loss = self._model(batch.to(self._session.device))
        except T2LError as error:
            raise T2LError(f"{error} at step {step + 1}; lower optimizer.lr") from None
        (loss * processes).backward()  # gradients are averaged over the processes
        notes = {"learning_rate": learning_rate(self._settings, step, self.num_steps)}
        if self._settings.max_grad_norm:
            parameters = self._module.parameters()
            norm = nn.utils.clip_grad_norm_(parameters, self._settings.max_grad_norm)
            notes["grad_norm"] = float(norm)
        for group in self._optimizer.param_groups:
            group["lr"] = notes["learning_rate"]
        self._optimizer.step()
        self._optimizer.zero_grad()
        figures = torch.tensor([float(loss.detach()), batch.size], dtype=torch.float64)
        total, units = self._session.add(figures).tolist()
        return StepFigures(total, int(units), notes)

    def estimate(self, seconds: float, steps_left: int) -> str:
        """See Learner.estimate."""
        return estimate_line(seconds, steps_left, self._session.device)

    def validate(self, step: int) -> dict[str, float]:
        """See Learner.validate; every `run.eval_every` steps and at the end."""
        if self._measure is None or (step % self._run.eval_every and step < self.num_steps):
            return {}
        metrics = self._measure()
        loss = metrics[self._selected]
        if not math.isfinite(loss):
            raise T2LError(f"the validation loss is {loss} at step {step}; lower optimizer.lr")
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step = loss, step
            if self._session.is_main:
                self._save_best()
        return metrics

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See Learner.state."""
        tensors = {f"module.{name}": value for name, value in self._module.state_dict().items()}
        for place, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": value for name, value in moments.items()}
        return tensors, self.best()

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """See Learner.load_state."""
        weights: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "module":
                weights[name] = value
            else:
                place, moment = name.split(".")
                moments.setdefault(int(place), {})[moment] = value
        self._module.load_state_dict(weights)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.best_step, self.best_loss = values["best_step"], values["best_loss"]

    def best(self) -> dict[str, Any]:
        """The step of the best weights, and their loss; None without validation."""
        return {"best_step": self.best_step, "best_loss": self.best_loss}


def estimate_line(seconds: float, steps_left: int, device: torch.device) -> str:
    """Time of a step and of those that are left, and the most memory so far.

    seconds: of one step, without validation
    """
    minutes = seconds * steps_left / 60
    left = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return (
        f"measured over {MEASURED_STEPS} steps: {seconds:.2f} s a step, so about {left} for the "
        f"{steps_left:,} steps that are left, without validation; {_memory(device)}"
    )


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        used = torch.cuda.max_memory_reserved(device)
        total = torch.cuda.get_device_properties(device).total_memory
        return f"at most {used / 1e9:.1f} of {total / 1e9:.1f} GB of the GPU's memory so far"
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return "memory is not measured on this system"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"at most {used / 1e9:.1f} GB of memory so far"
