"""The one loop of training: steps, validation, history, checkpoints, and exact resumption."""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, final

from safetensors.torch import load_file, save_file
from torch import Tensor

from text_to_lora.errors import ConfigError
from text_to_lora.files import read_json, write_json
from text_to_lora.training.checkpoints import RunFolder

_SAVE_SECONDS: Final = 10.0  # between states to resume from, where they are saved by time
_SAVE_SHARE: Final = 0.05  # of the time may go into saving them
MEASURED_STEPS: Final = 10
"""Steps whose time foretells that of the others; the first of a session is slower and left out."""

Line = Mapping[str, float]
"""A line of the history."""


@dataclass(frozen=True)
class StepFigures:
    """What a step gave, over all processes.

    loss: of its objective; units: what pace is counted in; notes: more for the history
    """

    loss: float
    units: int
    notes: Line = field(default_factory=dict)


class Learner(ABC):
    """What the loop trains.

    unit: what pace is counted in; the name of its count in history and result
    num_steps: steps of the run, at most

    All randomness is a function of seeds and steps, so that going on depends on the state alone.
    """

    unit: str
    num_steps: int

    def begin(self) -> None:  # noqa: B027
        """Measure what there is before the first step of a fresh run."""

    @abstractmethod
    def is_over(self, step: int) -> bool:
        """Whether no step is left after so many."""

    @abstractmethod
    def step(self, step: int) -> StepFigures:
        """Take a step, counted from 0.

        Raises T2LError naming task and step when a loss is not finite.
        """

    @abstractmethod
    def validate(self, step: int) -> dict[str, float]:
        """Validate what is due after so many steps, and keep what is the best so far.

        Gives figures for the history; none where nothing is due.
        """

    def end(self) -> None:  # noqa: B027
        """Validate what is not validated yet, before a loop ends for good or for lack of time."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and the JSON values that going on depends on."""

    @abstractmethod
    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take what `state` gave."""


@final
class Loop:
    """Runs a learner to its end, from the newest complete checkpoint of its folder.

    folder: keeps checkpoints and history; None keeps nothing
    log_every: steps between lines of the loss; None writes lines of validations alone
    save_every: steps between checkpoints, of which `checkpoints` stay; None saves by time
    seconds: a step that would end later is not begun; earlier sessions count
    report: gets a line of text for each line of the history; watch: gets the history
    estimate: gives a line from the seconds of a step, without validation, and the steps that are left
    is_main: whether this process writes; interruptible: Ctrl-C waits until a step is over and saved
    clock: seconds from any point
    """

    def __init__(
        self,
        learner: Learner,
        folder: RunFolder | None = None,
        *,
        log_every: int | None = None,
        save_every: int | None = None,
        checkpoints: int = 1,
        seconds: float = float("inf"),
        report: Callable[[str], None] = lambda line: None,
        watch: Callable[[Sequence[Line]], None] = lambda lines: None,
        estimate: Callable[[float, int], str] | None = None,
        is_main: bool = True,
        interruptible: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._learner = learner
        self._folder = folder
        self._log_every = log_every
        self._save_every = save_every
        self._checkpoints = checkpoints
        self._limit = seconds
        self._report = report
        self._watch = watch
        self._estimate = estimate
        self._step_seconds: list[float] = []
        self._is_main = is_main
        self._interruptible = interruptible
        self._clock = clock
        self._began = 0.0
        self._loss_sum, self._loss_count = 0.0, 0
        self._saved_step, self._saved_at, self._save_seconds = 0, 0.0, 0.0
        self.step = 0
        self.units = 0
        self.seconds = 0.0
        self.lines: list[Line] = []

    def run(self) -> None:
        """Train; the state is saved at the end, whatever ends it but an error.

        Raises KeyboardInterrupt after Ctrl-C, and ConfigError for a checkpoint of another release.
        """
        if not self._resume():
            self._learner.begin()
        self._began = self._clock() - self.seconds
        self._saved_at = self._clock()
        step_seconds = 0.0
        with _deferred_interrupt(self._interruptible) as is_interrupted:
            while not (self._learner.is_over(self.step) or is_interrupted()):
                began_at = self._look()
                if began_at + step_seconds > self._limit:
                    break
                self._take_step()
                step_seconds = self._look() - began_at
                if self._is_save_due():
                    self._save()
            if not is_interrupted():
                self._learner.end()
            self._look()
            if self._saved_step < self.step:
                self._save()
            if is_interrupted():
                raise KeyboardInterrupt

    def result(self) -> dict[str, Any]:
        """The steps, the units and the seconds of the run, all sessions together."""
        return {"step": self.step, self._learner.unit: self.units, "seconds": self.seconds}

    def _resume(self) -> bool:
        """Go back to the newest checkpoint, if there is one."""
        checkpoint = None if self._folder is None else self._folder.newest_checkpoint()
        if checkpoint is not None:
            tensors, values = checkpoint / "state.safetensors", checkpoint / "history.json"
            state = read_json(values) if values.exists() else {}
            if "step" not in state or not tensors.exists():
                raise ConfigError(
                    f"{str(checkpoint)!r} was written by an earlier release; start anew with "
                    "--fresh, or finish the run with that release"
                )
            self._learner.load_state(load_file(tensors), state["learner"])
            self.step, self.units, self.seconds = state["step"], state["units"], state["seconds"]
            self._loss_sum, self._loss_count = state["loss_sum"], state["loss_count"]
            self.lines = state["lines"]
            self._saved_step = self.step
            self._report(f"resuming after step {self.step}")
        if self._folder is not None and self._is_main:
            self._folder.write_history(self.lines)
        return checkpoint is not None

    def _look(self) -> float:
        """Seconds of training so far."""
        self.seconds = self._clock() - self._began
        return self.seconds

    def _take_step(self) -> None:
        began = self._clock()
        figures = self._learner.step(self.step)
        self.step += 1
        self._time_step(self._clock() - began)
        self.units += figures.units
        self._loss_sum += figures.loss
        self._loss_count += 1
        if self._log_every is not None and self.step % self._log_every == 0:
            loss = self._loss_sum / self._loss_count
            self._loss_sum, self._loss_count = 0.0, 0
            self._add_line({"loss": loss, **figures.notes, self._learner.unit: self.units})
        if metrics := self._learner.validate(self.step):
            self._add_line({f"eval_{key}": value for key, value in metrics.items()})

    def _time_step(self, seconds: float) -> None:
        """Report the estimate once, after the first step of this session and those that are measured."""
        if self._estimate is None or len(self._step_seconds) > MEASURED_STEPS:
            return
        self._step_seconds.append(seconds)
        if len(self._step_seconds) > MEASURED_STEPS:
            mean = sum(self._step_seconds[1:]) / MEASURED_STEPS
            self._report(self._estimate(mean, self._learner.num_steps - self.step))

    def _add_line(self, figures: Line) -> None:
        line = {"step": self.step, **figures, "seconds": self._look()}
        self.lines.append(line)
        if not self._is_main:
            return
        if self._folder is not None:
            self._folder.add_history(line)
        self._report(self._describe(line))
        self._watch(self.lines)

    def _describe(self, line: Line) -> str:
        head = f"step {self.step}/{self._learner.num_steps}"
        if "loss" not in line:
            figures = [
                f"{key.removeprefix('eval_')} {value:.4g}"
                for key, value in line.items()
                if key.startswith("eval_")
            ]
            return f"{head} {', '.join(figures)}"
        unit, seconds = self._learner.unit, max(self.seconds, 1e-9)
        left = (self._learner.num_steps - self.step) * seconds / self.step / 60
        rate = f"lr {line['learning_rate']:.2e}, " if "learning_rate" in line else ""
        return (
            f"{head} loss {line['loss']:.4f}, {rate}{self.units / seconds:.0f} {unit}/s, "
            f"{left:.1f} min left"
        )

    def _is_save_due(self) -> bool:
        if self._save_every is not None:
            return self.step % self._save_every == 0
        if self._folder is None:
            return False
        pause = max(_SAVE_SECONDS, self._save_seconds / _SAVE_SHARE)
        return self._clock() - self._saved_at > pause

    def _save(self) -> None:
        self._saved_step = self.step
        if self._folder is None or not self._is_main:
            return
        saving_at = self._clock()
        tensors, values = self._learner.state()
        with self._folder.checkpoint(self.step, keep=self._checkpoints) as folder:
            save_file(tensors, folder / "state.safetensors")
            state = {
                "step": self.step,
                "units": self.units,
                "seconds": self._look(),
                "loss_sum": self._loss_sum,
                "loss_count": self._loss_count,
                "lines": self.lines,
                "learner": values,
            }
            write_json(folder / "history.json", state)
        self._saved_at = self._clock()
        self._save_seconds = self._saved_at - saving_at


@contextmanager
def _deferred_interrupt(deferred: bool) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait inside the block, whose code asks the given function whether it came.

    A second Ctrl-C does not wait. Nothing changes where `deferred` is false, and in threads other
    than the main one, which alone may handle signals.
    """
    came = False

    def note(number: int, frame: Any) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    if not deferred or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, previous)
