"""SftTrainer: Hugging Face's Trainer over batches that are a function of the step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_callback import PrinterCallback

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.config import OptimizerSection, RunConfig
from text_to_lora.training.data import Batch, TrainingBatches
from text_to_lora.training.module import SftModule
from text_to_lora.training.plots import plot_history
from text_to_lora.training.validation import ValidationSet, validate

STATE_FILE: Final = "trainer_state.json"
_SCHEDULES: Final = {"constant": "constant_with_warmup"}


def make_arguments(config: RunConfig, folder: Path) -> TrainingArguments:
    """What Trainer needs to know; the device and the processes of a launcher are found here.

    Raises ConfigError for a logger that is not installed.
    """
    run = config.run
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
        max_grad_norm=config.optimizer.max_grad_norm,
        logging_steps=run.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if config.data.eval_rows else "no",
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


class SftTrainer(Trainer):
    """Trains an SftModule; validates, keeps the best weights, checkpoints whole or not at all.

    sets: validation sets; save_best: writes the weights as they are as the run's result
    report: gets lines of progress
    All randomness is a function of (seed, step), so that a checkpoint needs no generator's state.
    """

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
        self._module = module
        self._config = config
        self._folder = folder
        self._batches = batches
        self._sets = sets
        self._save_best = save_best
        self._report = report
        self._seconds = 0.0
        self._began = time.monotonic()
        super().__init__(
            model=module,
            args=arguments,
            train_dataset=batches,
            eval_dataset=sets,  # read by `evaluate`
            optimizers=_make_optimizer(module, config.optimizer, config.run.steps),
        )
        self.remove_callback(PrinterCallback)

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
        """What came of the run: its last and its best step, best loss, tokens and seconds.

        Tokens are those without padding, over all processes as if each had as many as the first.
        """
        return {
            "step": self.state.global_step,
            "best_step": self.state.best_global_step,
            "best_loss": self.state.best_metric,
            "tokens": self.state.num_input_tokens_seen,
            "seconds": self._elapsed,
        }

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """One finished batch a step; neither shuffled nor divided over processes again."""
        return DataLoader(self._batches, batch_size=1, collate_fn=_only)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The step's loss, so scaled that the mean of gradients over processes is its gradient.

        Raises T2LError naming task and step when the loss is not finite.
        """
        batch: Batch = inputs["batch"]
        self.state.num_input_tokens_seen += batch.num_tokens * self.args.world_size
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
        device = self.args.device
        metrics = validate(
            self._sets,
            lambda batch: self._module.validate(batch.to(device)),
            process=self.args.process_index,
            processes=self.args.world_size,
            add=self._add,
        )
        select_by = self._config.run.select_by
        loss = metrics["mean_loss" if select_by == "mean" else f"{select_by}_loss"]
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
            plot_history(self.state.log_history, self._folder.path / "history.png")
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self.control.should_training_stop |= self._is_over()
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add tokens and seconds, tell the loggers, write the history, report."""
        if "loss" in logs:
            tokens = self.state.num_input_tokens_seen
            logs |= {"tokens": tokens, "seconds": self._elapsed}
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
        step, steps = self.state.global_step, self._config.run.steps
        head = f"step {step}/{steps}"
        if "loss" not in line:
            losses = [f"{k.removeprefix('eval_')} {v:.4f}" for k, v in line.items() if "eval_" in k]
            return f"{head} {', '.join(losses)}"
        seconds = line["seconds"]
        left = (steps - step) * seconds / step / 60
        return (
            f"{head} loss {line['loss']:.4f}, lr {line['learning_rate']:.2e}, "
            f"{line['tokens'] / seconds:.0f} tokens/s, {left:.1f} min left"
        )

    def _is_over(self) -> bool:
        """Whether all steps are done, or validation has not improved for too long."""
        run, state = self._config.run, self.state
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
        step, keep = self.state.global_step, self._config.run.keep_checkpoints
        with self._folder.checkpoint(step, keep=keep) as folder:
            save_file(self._module.state_dict(), folder / "model.safetensors")
            torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
            self.state.save_to_json(str(folder / STATE_FILE))


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
    module: nn.Module, settings: OptimizerSection, steps: int
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


def _only(batches: list[Batch]) -> dict[str, Batch]:
    (batch,) = batches
    return {"batch": batch}
