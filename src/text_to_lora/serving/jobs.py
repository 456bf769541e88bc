"""Refining jobs: adapters trained on a client's rows, one after another, beside the answering."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from text_to_lora.errors import T2LError, needs_extra
from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.serving.engine import QueueFullError

_log: Final = logging.getLogger(__name__)
_MAX_WAITING: Final = 8  # jobs
_MAX_REMEMBERED: Final = 100  # jobs that have ended


@dataclass
class Job:
    """One adapter that is trained.

    options: of `refine_with`; finish: stores what was trained
    status: "queued", "running", "ready" or "failed"; progress: the newest line of the training
    """

    id: str
    description: str
    examples: Sequence[tuple[str, str]]
    options: dict[str, Any]
    finish: Callable[[Adapters], None]
    status: str = "queued"
    progress: str = ""
    error: str | None = None

    def describe(self) -> dict[str, Any]:
        """The job as the API shows it."""
        names = ("id", "description", "status", "progress", "error")
        return {"object": "adapter"} | {name: getattr(self, name) for name in names}


class RefineJobs:
    """One thread that trains, on a copy of the base that it loads for its first job.

    load: gives a hypernetwork with a base that nothing else uses
    jobs: that wait, run or have failed, by the id of the adapter that each makes
    """

    def __init__(self, load: Callable[[], TextToLora]) -> None:
        self._load = load
        self.jobs: dict[str, Job] = {}
        self._waiting: queue.Queue[Job] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None

    def start(self, job: Job) -> Job:
        """Let a job wait for its turn; one that is under way already is given back.

        Raises QueueFullError when too many wait, ConfigError when training is not installed or the
        rows cannot be trained on.
        """
        known = self.jobs.get(job.id)
        if known is not None and known.status in ("queued", "running"):
            return known
        with needs_extra("train,eval", "training"):
            import text_to_lora.refinement  # noqa: F401
        from text_to_lora.tasks.user_rows import check_rows

        check_rows(job.examples, job.description, task="the task")
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            raise QueueFullError(
                f"{_MAX_WAITING} refining jobs wait already; try again later"
            ) from None
        for old in [key for key, job in self.jobs.items() if job.status == "failed"]:
            if len(self.jobs) >= _MAX_REMEMBERED:
                del self.jobs[old]
        self.jobs[job.id] = job
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="t2l-refine", daemon=True)
            self._thread.start()
        return job

    def _run(self) -> None:
        from text_to_lora.refinement import refine_with

        t2l: TextToLora | None = None
        while True:
            job = self._waiting.get()
            try:
                job.status, job.progress = "running", "loading the base model"
                t2l = t2l or self._load()
                rows, report = [job.examples], partial(setattr, job, "progress")
                job.finish(refine_with(t2l, [job.description], rows, report=report, **job.options))
                job.status = "ready"
                del self.jobs[job.id]
            except T2LError as error:
                job.status, job.error = "failed", str(error)
            except Exception as error:
                _log.exception("the refining job %s failed", job.id)
                job.status, job.error = "failed", f"{type(error).__name__}: {error}"
