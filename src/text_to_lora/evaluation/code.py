"""Generated code against its unit tests: each answer in a process of its own, limited and cut off.

Off unless the user asks for it. What an answer's process gets (`sandbox.py`): a fresh interpreter
(`-I`), an empty environment, a scratch folder, no output, limits of time, memory and file size, and,
where the system can (Linux), no network, no further processes, no signals, no files but Python's own.
Success is a token that enters the process only after the answer has been run, and that leaves it only
once the tests have passed: leaving early, printing or exit codes prove nothing.

This is no boundary against an attacker. The tests run in the interpreter of the code that they test,
so that code written to cheat can walk its frames, replace what the tests use, or return objects that
equal everything; a kernel's bug opens the rest. On systems without Landlock code can read files of
the user. Run untrusted models in a virtual machine.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.errors import BackendError, ConfigError, T2LWarning, TaskDataError
from text_to_lora.evaluation.readers import CodeReader, read_code
from text_to_lora.files import read_task_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from text_to_lora.tasks.task import Row

SECONDS: Final = 10.0
MEMORY_MIB: Final = 1024
FILE_MIB: Final = 1

_SANDBOX = Path(__file__).with_name("sandbox.py")
_STARTING_SECONDS = 60.0  # a loaded machine takes long to start an interpreter
_LARGEST_MESSAGE = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests of one question.

    test: Python that fails by an exception; it runs in the names of the answer
    setup: Python that runs between the answer and the tests
    entry_point: name of a function; then `test` defines `check`, which is called with it
    """

    test: str
    setup: str = ""
    entry_point: str = ""

    @property
    def program(self) -> str:
        """Setup and tests as one text."""
        call = f"check({self.entry_point})" if self.entry_point else ""
        return "\n".join((self.setup, self.test, call))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer passed its tests, and in a few words why not."""

    passed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What was tried from inside a sandbox and did not work there, as it should not."""

    network: bool
    processes: bool
    files: bool


class CodeRunner:
    """Runs code against tests, in a sandbox for each, within limits.

    seconds: for the code and its tests together, from the sandbox's start
    memory_mib: address space of the sandbox
    workers: most sandboxes at a time, at most the number of processors (the default)
    allow_network: run code also where the system cannot cut it off from the network; where it can,
        code is cut off all the same

    Raises ConfigError for limits that cannot work, and where the system cannot cut code off from
    the network (without `allow_network`) or cannot keep it from starting processes.
    """

    def __init__(
        self,
        *,
        seconds: float = SECONDS,
        memory_mib: int = MEMORY_MIB,
        workers: int | None = None,
        allow_network: bool = False,
    ) -> None:
        processors = os.cpu_count() or 1
        if not (math.isfinite(seconds) and seconds > 0):
            raise ConfigError(f"seconds is {seconds}; give the time of an answer, above 0")
        if memory_mib < 64:
            raise ConfigError(f"memory_mib is {memory_mib}; Python needs at least 64")
        if workers is not None and not 1 <= workers <= processors:
            raise ConfigError(f"workers is {workers}; give 1 to {processors}, or None for all")
        self._seconds = seconds
        self._memory = memory_mib * 2**20
        self._workers = workers or processors
        self._turns = threading.BoundedSemaphore(self._workers)
        _check_isolation(measure_isolation(), allow_network)

    def __call__(self, code: str, tests: str) -> bool:
        """Tell whether the tests pass after the code.

        Raises BackendError when no sandbox starts.
        """
        return self.run(code, tests).passed

    def run(self, code: str, tests: str) -> Verdict:
        """Run the tests after the code.

        Raises BackendError when no sandbox starts.
        """
        with self._turns:
            return run_code(code, tests, seconds=self._seconds, memory=self._memory)

    def run_all(self, programs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Run pairs of code and tests, as many at a time as there are workers; in their order."""
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(lambda program: self.run(*program), programs))


class CodeGrader:
    """Scores answers of code tasks: 1.0 when every test of the question passes, else 0.0.

    tests: by `question_key`; `load_code_tests` reads them from a file
    reader: finds the code in an answer
    The others are those of CodeRunner, and so are the errors.
    """

    def __init__(
        self,
        tests: Mapping[str, CodeTests],
        *,
        seconds: float = SECONDS,
        memory_mib: int = MEMORY_MIB,
        workers: int | None = None,
        allow_network: bool = False,
        reader: CodeReader = read_code,
    ) -> None:
        self._tests = tests
        self._reader = reader
        self._runner = CodeRunner(
            seconds=seconds, memory_mib=memory_mib, workers=workers, allow_network=allow_network
        )

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """Score an answer to each row, as many at a time as there are workers.

        Raises TaskDataError for a question without tests, before any code runs.
        """
        programs = [
            self._program(row.task.name, row.example.input, answer)
            for row, answer in zip(rows, answers, strict=True)
        ]
        return [float(verdict.passed) for verdict in self._runner.run_all(programs)]

    def check(self, questions: Iterable[tuple[str, str]]) -> None:
        """Check that every question, a name of a task and an input, has tests.

        Raises TaskDataError naming the first one without.
        """
        for task, text in questions:
            self._tests_of(task, text)

    def grade(self, task: str, text: str, answer: str) -> Verdict:
        """Run the code of an answer to the question `text` of a task against its tests.

        Raises TaskDataError for a question without tests, BackendError when no sandbox starts.
        """
        return self._runner.run(*self._program(task, text, answer))

    def _program(self, task: str, text: str, answer: str) -> tuple[str, str]:
        """The code of an answer, and its tests."""
        tests = self._tests_of(task, text)
        return self._reader(answer, text, tests.entry_point), tests.program

    def _tests_of(self, task: str, text: str) -> CodeTests:
        tests = self._tests.get(question_key(task, text))
        if tests is None:
            raise TaskDataError(
                f"question {text[:60]!r} has no unit tests among {len(self._tests)}; give a file of "
                'tests that has the key "TASK|INPUT" of every question',
                path=task,
            )
        return tests


def question_key(task: str, text: str) -> str:
    """The key of a question in a file of tests: name of the task, a bar, the input."""
    return f"{task}|{text}"


def load_code_tests(path: Path | str) -> dict[str, CodeTests]:
    """Read tests from JSON {"TASK|INPUT": {"test": ..., "setup": ..., "entry_point": ...}}.

    A folder stands for every `code_tests.json` in it and in its folders of tasks.

    Raises TaskDataError when a file is wrong, ConfigError when there is none.
    """
    root = Path(path)
    files = [root]
    if root.is_dir():
        files = sorted([*root.glob("code_tests.json"), *root.glob("*/code_tests.json")])
    if not files or not files[0].exists():
        raise ConfigError(
            f"{str(root)!r} has no unit tests of code; give a file code_tests.json, or the folder "
            "that has one beside its tasks"
        )
    found: dict[str, CodeTests] = {}
    for file in files:
        found |= _read_tests(file)
    return found


def _read_tests(file: Path) -> dict[str, CodeTests]:
    payload = read_task_json(file)
    if not isinstance(payload, dict):
        raise TaskDataError(
            f'holds a {type(payload).__name__}; expected {{"TASK|INPUT": {{"test": ...}}}}',
            path=file,
        )
    tests = {}
    for key, entry in payload.items():
        fields = entry if isinstance(entry, dict) else {}
        known = {name: fields.get(name, "") for name in ("test", "setup", "entry_point")}
        texts = all(isinstance(value, str) for value in known.values())
        if not texts or not known["test"] or fields.keys() - known.keys():
            raise TaskDataError(
                f"entry {key[:60]!r} has fields {sorted(fields)}; give test, and where needed setup "
                "and entry_point, as texts",
                path=file,
            )
        tests[key] = CodeTests(**known)
    return tests


def run_code(code: str, tests: str, *, seconds: float, memory: int) -> Verdict:
    """Run code and then tests in a sandbox; the code passes when the tests end without exception.

    memory: bytes of address space

    Raises BackendError when the sandbox does not start.
    """
    token = secrets.token_hex(16)
    with _sandbox(seconds, memory) as channel:
        try:
            channel.send({"code": code})
            reply = channel.receive()
            if "defined" in reply:
                channel.send({"tests": tests})
                channel.send({"token": token})
                reply = channel.receive()
        except TimeoutError:
            return Verdict(False, f"took longer than {seconds:g} s")
        except (EOFError, OSError, ValueError):
            return Verdict(False, "ended before its tests had passed")
    if reply.get("token") == token:
        return Verdict(True)
    return Verdict(False, str(reply.get("error", "broke the protocol")))


@cache
def measure_isolation() -> Isolation:
    """Try from inside a sandbox what code must not do: reach a listener here, fork, read a file."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.TemporaryDirectory() as folder,
    ):
        secret = Path(folder, "secret")
        secret.write_text("secret", encoding="utf-8")
        port = listener.getsockname()[1]
        return Isolation(
            network=_fails(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"),
            processes=_fails("import os\nos.fork() or os._exit(0)"),
            files=_fails(f"open({str(secret)!r}).read()"),
        )


def _fails(statement: str) -> bool:
    """Tell whether a statement raises OSError in a sandbox that runs other code."""
    lines = "\n".join(f"    {line}" for line in statement.splitlines())
    tests = f"try:\n{lines}\nexcept OSError:\n    pass\nelse:\n    raise AssertionError"
    verdict = run_code("", tests, seconds=20, memory=MEMORY_MIB * 2**20)
    if not verdict.passed and not verdict.reason.startswith("AssertionError"):
        raise BackendError(f"the sandbox of generated code does not work here: {verdict.reason}")
    return verdict.passed


def _check_isolation(isolation: Isolation, allow_network: bool) -> None:
    if not isolation.processes:
        raise ConfigError(
            "this system does not keep generated code from starting processes (no seccomp, and "
            "limits do not bind root); run as an ordinary user, or leave tasks of code out"
        )
    if not isolation.network and not allow_network:
        raise ConfigError(
            "this system cannot cut generated code off from the network (no user namespaces, no "
            "seccomp); pass --allow-network to run it all the same, or leave tasks of code out"
        )
    if not isolation.files:
        warnings.warn(
            "generated code can read this user's files here (no Landlock); "
            "run it in a virtual machine if that matters",
            T2LWarning,
            stacklevel=3,
        )


class _Channel:
    """Messages to and from a sandbox, until a deadline."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._deadline = time.monotonic() + _STARTING_SECONDS

    def give(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode()
        self._wait()
        self._socket.sendall(len(data).to_bytes(8, "big") + data)

    def receive(self) -> dict[str, Any]:
        size = int.from_bytes(self._exactly(8), "big")
        if size > _LARGEST_MESSAGE:
            raise ValueError(f"a message of {size} bytes")
        message = json.loads(self._exactly(size))
        if not isinstance(message, dict):
            raise ValueError(f"a message that is a {type(message).__name__}")
        return message

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._wait()
            part = self._socket.recv(size - len(data))
            if not part:
                raise EOFError("the sandbox has ended")
            data += part
        return data

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time left")
        self._socket.settimeout(left)


@contextmanager
def _sandbox(seconds: float, memory: int) -> Iterator[_Channel]:
    """Start a sandbox in a scratch folder; kill it and what it started when the block ends."""
    if sys.platform == "win32":
        raise ConfigError("generated code is run on Linux and macOS alone; leave tasks of code out")
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", str(_SANDBOX), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            channel = _Channel(ours)
            limits = {
                "seconds": math.ceil(seconds) + 1,
                "memory": memory,
                "file_bytes": FILE_MIB * 2**20,
                "folder": folder,
            }
            try:
                channel.send(limits)
                channel.receive()
            except (EOFError, OSError, ValueError) as error:
                raise BackendError(
                    f"the sandbox of generated code does not start: {error}; "
                    f"try {sys.executable!r} -I {str(_SANDBOX)!r}"
                ) from error
            channel.give(seconds)
            yield channel
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
