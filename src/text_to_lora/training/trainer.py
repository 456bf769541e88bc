"""Hugging Face's Trainer over batches that are a function of the step; SftTrainer for task rows."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerState, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_callback import PrinterCallback

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.config import AdamWSection, LengthSection, RunConfig
from text_to_lora.training.data import TrainingBatches
from text_to_lora.training.module import SftModule
from text_to_lora.training.plots import plot_history
from text_to_lora.training.validation import ValidationSet, validate

STATE_FILE: Final = "trainer_state.json"
_SCHEDULES: Final = {"constant": "constant_with_warmup"}


class StepBatch(Protocol):
    """What a process runs of one step."""

    def to(self, device: torch.device) -> Any:
        """The same batch on another device."""
        ...


def make_arguments(
    run: LengthSection, optimizer: AdamWSection, folder: Path, *, evaluate: bool
) -> TrainingArguments:
    """What Trainer needs to know; the device and the processes of a launcher are found here.

    evaluate: every run.eval_every steps

    Raises ConfigError for a logger that is not installed.
    """
    list_loggers: Callable[[], list[str]] = get_available_reporting_integrations
    loggers = list_loggers()
    for name in run.report_to:
        if name not in loggers:
            raise ConfigError(
                f"run.report_to has {name!r}, which is not installed; "
                f"installed: {', '.join(loggers) or 'none'}"
            )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=run.steps,
        per_device_train_batch_size=1,  # of finished batches
        max_grad_norm=optimizer.max_grad_norm,
        logging_steps=run.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=run.eval_every,
        save_strategy="steps",
        save_steps=run.save_every,
        seed=run.seed,
        report_to=list(run.report_to) or "none",
        use_cpu=run.device == "cpu",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs by a launcher, not by DataParallel
    return arguments


class RunTrainer(Trainer, ABC):
    """Trains a module whose forward pass is the loss; checkpoints whole or not at all.

    batches: one finished batch a step; save_best: writes the weights as they are as the result
    report: gets lines of progress
    unit: what pace is counted in; the name of its field in history and summary
    All randomness is a function of (seed, step), so that a checkpoint needs no generator's state.
    """

    unit: ClassVar[str]

    def __init__(
        self,
        module: nn.Module,
        arguments: TrainingArguments,
        folder: RunFolder,
        *,
        run: LengthSection,
        optimizer: AdamWSection,
        batches: Dataset[Any],
        save_best: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._module = module
        self._folder = folder
        self._run = run
        self._batches = batches
        self._save_best = save_best
        self._report = report
        self._seconds = 0.0
        self._began = time.monotonic()
        super().__init__(
            model=module,
            args=arguments,
            train_dataset=batches,
            eval_dataset={},  # `validate` knows its own
            optimizers=_make_optimizer(module, optimizer, run.steps),
        )
        self.remove_callback(PrinterCallback)

    @abstractmethod
    def count(self, batch: Any) -> int:
        """What a batch adds to the run's count of units."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Measure the weights as they are; on every process."""

    @abstractmethod
    def selection(self, metrics: Mapping[str, float]) -> float:
        """The number that is least for the best weights, from what `validate` gave."""

    @abstractmethod
    def plot(self) -> None:
        """Draw the history so far."""

    def run(self) -> None:
        """Train to the end from the newest complete checkpoint, if there is one."""
        checkpoint = self._folder.newest_checkpoint()
        lines: list[dict[str, float]] = []
        if checkpoint is not None:
            self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
            lines = self.state.log_history
            self._seconds = max((line.get("seconds", 0.0) for line in lines), default=0.0)
            self._report(f"resuming after step {self.state.global_step}")
        if self.is_world_process_zero():
            self._folder.write_history(lines)
        if checkpoint is not None and self._is_over():
            self._load_from_checkpoint(str(checkpoint))
        else:
            self._began = time.monotonic()
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def summary(self) -> dict[str, Any]:
        """What came of the run: its last and its best step, best loss, units and seconds.

        Units are counted over all processes as if each had as many as the first.
        """
        return {
            "step": self.state.global_step,
            "best_step": self.state.best_global_step,
            "best_loss": self.state.best_metric,
            self.unit: self.state.num_input_tokens_seen,
            "seconds": self._elapsed,
        }

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One finished batch a step; neither shuffled nor divided over processes again."""
        return DataLoader(self._batches, batch_size=1, collate_fn=_only)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The step's loss, so scaled that the mean of gradients over processes is its gradient.

        Raises T2LError naming task and step when the loss is not finite.
        """
        batch: StepBatch = inputs["batch"]
        self.state.num_input_tokens_seen += self.count(batch) * self.args.world_size
        try:
            loss: Tensor = model(batch.to(self.args.device))
        except T2LError as error:
            raise T2LError(
                f"{error} at step {self.state.global_step + 1}; lower optimizer.lr"
            ) from None
        loss = loss * self.args.world_size
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate, keep the weights if they are the best so far, stop if patience has run out."""
        metrics = self.validate()
        loss = self.selection(metrics)
        if not math.isfinite(loss):
            raise T2LError(
                f"the validation loss is {loss} at step {self.state.global_step}; "
                "lower optimizer.lr"
            )
        if self.state.best_metric is None or loss < self.state.best_metric:
            self.state.best_metric = loss
            self.state.best_global_step = self.state.global_step
            if self.is_world_process_zero():
                self._save_best()
        self.log({f"eval_{key}": value for key, value in metrics.items()})
        if self.is_world_process_zero():
            self.plot()
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self.control.should_training_stop |= self._is_over()
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add units and seconds, tell the loggers, write the history, report."""
        if "loss" in logs:
            seen = self.state.num_input_tokens_seen
            logs |= {self.unit: seen, "seconds": self._elapsed}
        super().log(logs)
        line = self.state.log_history[-1]
        if self.is_world_process_zero() and "train_runtime" not in line:  # Trainer's farewell
            self._folder.add_history(line)
            self._report(self._describe(line))

    @property
    def _elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self._seconds + time.monotonic() - self._began

    def _describe(self, line: Mapping[str, float]) -> str:
        step, steps = self.state.global_step, self._run.steps
        head = f"step {step}/{steps}"
        if "loss" not in line:
            losses = [f"{k.removeprefix('eval_')} {v:.4g}" for k, v in line.items() if "eval_" in k]
            return f"{head} {', '.join(losses)}"
        seconds = line["seconds"]
        left = (steps - step) * seconds / step / 60
        return (
            f"{head} loss {line['loss']:.4f}, lr {line['learning_rate']:.2e}, "
            f"{line[self.unit] / seconds:.0f} {self.unit}/s, {left:.1f} min left"
        )

    def _is_over(self) -> bool:
        """Whether all steps are done, or validation has not improved for too long."""
        run, state = self._run, self.state
        if state.global_step >= run.steps:
            return True
        if run.patience is None or state.best_global_step is None:
            return False
        return state.global_step - state.best_global_step >= run.patience * run.eval_every

    def _add(self, tensor: Tensor) -> Tensor:
        """Sum over processes."""
        if self.args.world_size == 1:
            return tensor
        total: Tensor = self.accelerator.reduce(tensor.to(self.args.device), "sum")
        return total.cpu()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write what `train` resumes from, under the names that Trainer reads."""
        if not self.is_world_process_zero():
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        step, keep = self.state.global_step, self._run.keep_checkpoints
        with self._folder.checkpoint(step, keep=keep) as folder:
            save_file(self._module.state_dict(), folder / "model.safetensors")
            torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
            self.state.save_to_json(str(folder / STATE_FILE))


@final
class SftTrainer(RunTrainer):
    """Trains an SftModule; validates on sets of held-out rows.

    sets: validation sets; the rest as in RunTrainer
    """

    unit = "tokens"

    def __init__(
        self,
        module: SftModule,
        arguments: TrainingArguments,
        config: RunConfig,
        folder: RunFolder,
        *,
        batches: TrainingBatches,
        sets: Mapping[str, ValidationSet],
        save_best: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._sets = sets
        self._sft = module
        self._select_by = config.run.select_by
        super().__init__(
            module,
            arguments,
            folder,
            run=config.run,
            optimizer=config.optimizer,
            batches=batches,
            save_best=save_best,
            report=report,
        )

    def count(self, batch: Any) -> int:
        """See RunTrainer.count; tokens without padding."""
        tokens: int = batch.num_tokens
        return tokens

    def validate(self) -> dict[str, float]:
        """See RunTrainer.validate; losses in nats a token."""
        device = self.args.device
        return validate(
            self._sets,
            lambda batch: self._sft.validate(batch.to(device)),
            process=self.args.process_index,
            processes=self.args.world_size,
            add=self._add,
        )

    def selection(self, metrics: Mapping[str, float]) -> float:
        """See RunTrainer.selection."""
        return metrics["mean_loss" if self._select_by == "mean" else f"{self._select_by}_loss"]

    def plot(self) -> None:
        """See RunTrainer.plot."""
        plot_history(self.state.log_history, self._folder.path / "history.png")


def check_selection(config: RunConfig, sets: Mapping[str, ValidationSet]) -> None:
    """Check that the validation set that picks the weights is there, if there is to be any.

    Raises ConfigError otherwise.
    """
    if not config.data.eval_rows:
        return
    if not sets:
        raise ConfigError(
            "no task has rows to validate on (idx % 10 == 9); add rows, or set data.eval_rows to 0"
        )
    chosen = config.run.select_by
    if chosen != "mean" and chosen not in sets:
        raise ConfigError(
            f"run.select_by is {chosen!r}, but the run has only {', '.join(sets)}; choose one of "
            "these or 'mean', or set tasks aside by data.validation_one_in"
        )


def _make_optimizer(
    module: nn.Module, settings: AdamWSection, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = get_scheduler(
        _SCHEDULES.get(settings.schedule, settings.schedule),
        optimizer,
        num_warmup_steps=round(settings.warmup * steps),
        num_training_steps=steps,
    )
    return optimizer, schedule


def _only(batches: list[StepBatch]) -> dict[str, StepBatch]:
    (batch,) = batches
    return {"batch": batch}
