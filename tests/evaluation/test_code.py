"""Generated code in its sandbox: what passes, what must not, and what code cannot reach."""

from __future__ import annotations

import copy
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.baselines import Base
from text_to_lora.errors import BackendError, ConfigError, T2LWarning, TaskDataError
from text_to_lora.evaluation import code as code_module
from text_to_lora.evaluation.code import (
    CodeGrader,
    CodeRunner,
    CodeTests,
    Isolation,
    Verdict,
    load_code_tests,
    measure_isolation,
    question_key,
    run_code,
)
from text_to_lora.evaluation.readers import reference_code
from text_to_lora.evaluation.samples import read_samples, sample_path
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.tasks.task import Example, Metric, Row, Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux are tested")

DOUBLE = "def double(x):\n    return 2 * x"
TESTS = "assert double(2) == 4"
MIB = 2**20


def run(code: str, tests: str = TESTS, *, seconds: float = 20, memory: int = 512 * MIB) -> Verdict:
    return run_code(code, tests, seconds=seconds, memory=memory)


def test_code_passes_when_its_tests_do() -> None:
    assert run(DOUBLE) == Verdict(True)
    assert run("def double(x):\n    return 3 * x") == Verdict(False, "AssertionError: ")
    assert run("def double(x:").reason.startswith("SyntaxError")
    assert run("def treble(x):\n    return 3 * x").reason.startswith("NameError")


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def double(x):\n    raise SystemExit(0)",
        "def double(x):\n    import os\n    os._exit(0)",
        "import os\nfor number in range(3, 64):\n    os.write(number, b'passed')",
        "import builtins\nbuiltins.exec = lambda *arguments: None\ndouble = None",
        "import os\nos.read = os.write = lambda *arguments: b''\ndouble = None",
        "import os\nfor number in range(3, 64):\n    try:\n        os.close(number)\n"
        "    except OSError:\n        pass\n" + DOUBLE,
        "print('passed')",
    ],
)
def test_leaving_early_printing_and_patching_prove_nothing(code: str) -> None:
    assert not run(code).passed


def test_neither_tests_nor_token_are_in_the_process_when_the_code_runs() -> None:
    # The code looks for the tests in all that it can name or collect, and would give itself away.
    code = (
        "import gc, sys\n"
        "frame, seen = sys._getframe(), []\n"
        "while frame is not None:\n"
        "    seen += [repr(frame.f_locals), repr(sys.argv)]\n"
        "    frame = frame.f_back\n"
        "seen += [repr(found) for found in gc.get_objects() if isinstance(found, dict)]\n"
        "FOUND = any('hidden_' + 'number' in text for text in seen)\n"
    )
    assert run(code, "hidden_number = 7\nassert FOUND is False").passed


def test_endless_code_and_endless_output_are_stopped_in_time() -> None:
    for code in ("while True: pass", "while True: print('x' * 10000)"):
        started = time.monotonic()
        verdict = run(code, seconds=0.5)
        assert verdict == Verdict(False, "took longer than 0.5 s")
        assert time.monotonic() - started < 15


def test_memory_and_file_size_are_limited() -> None:
    assert run("kept = bytearray(2**30)").reason.startswith("MemoryError")
    assert "File too large" in run("open('a', 'wb').write(bytes(2**22))").reason
    assert run("open('a', 'w').write('x' * 1000)\n" + DOUBLE).passed


def test_no_process_starts_and_none_is_signalled_but_threads_run() -> None:
    assert "not permitted" in run("import os\nwhile True: os.fork()").reason
    assert "not permitted" in run("import subprocess\nsubprocess.run(['true'])").reason
    assert "not permitted" in run("import os\nos.kill(os.getppid(), 9)").reason
    threaded = (
        "import threading\nfound = []\ndef double(x):\n"
        "    thread = threading.Thread(target=lambda: found.append(2 * x))\n"
        "    thread.start(); thread.join()\n    return found[0]"
    )
    assert run(threaded).passed


def test_the_sandbox_has_no_environment_and_an_empty_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_GRADER", "1")
    code = "import os, sys\nNAMES, FILES = set(os.environ), os.listdir('.')"
    # Python itself sets the locale's name.
    assert run(code, "assert NAMES <= {'LC_CTYPE'} and FILES == [] and sys.flags.isolated").passed


def test_files_of_the_grader_cannot_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "tests.json"
    secret.write_text("secret")
    for path in (secret, Path(__file__), Path(f"/proc/{os.getpid()}/environ")):
        assert run(f"open({str(path)!r}).read()").reason.startswith("PermissionError"), path
    assert run(f"open({str(tmp_path / 'new')!r}, 'w')").reason.startswith("PermissionError")


def test_a_listener_outside_cannot_be_reached_though_it_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 5).close()
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
        assert not run(code).passed


def test_nothing_of_a_sandbox_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert not run("import os\nos.setsid()\nwhile True: pass", seconds=0.5).passed
    assert list(tmp_path.iterdir()) == []
    running = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            running.append(entry.read_bytes())
        except OSError:
            continue
    assert not any(str(tmp_path).encode() in line for line in running)


def test_a_sandbox_that_does_not_start_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(code_module, "_SANDBOX", tmp_path / "missing.py")
    with pytest.raises(BackendError, match=r"does not start: .*missing\.py"):
        run(DOUBLE)


# Graders


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend what the system can keep from code."""

    def pretend(**missing: bool) -> None:
        found = Isolation(**{"network": True, "processes": True, "files": True, **missing})
        monkeypatch.setattr(code_module, "measure_isolation", lambda: found)

    return pretend


def test_isolation_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure_isolation.__wrapped__() == Isolation(True, True, True)
    # Without limits, what is tried works: the trial can fail.
    bare = Path(code_module._SANDBOX).read_text().replace("_limit(**read(", "dict(**read(")
    free = Path(os.environ.get("TMPDIR", "/tmp"), f"sandbox-{os.getpid()}.py")
    free.write_text(bare)
    try:
        monkeypatch.setattr(code_module, "_SANDBOX", free)
        assert measure_isolation.__wrapped__() == Isolation(False, False, False)
    finally:
        free.unlink()


def test_a_system_that_cannot_cut_the_network_needs_a_second_permission(
    isolated: Callable[..., None],
) -> None:
    isolated(network=False)
    with pytest.raises(ConfigError, match=r"cannot cut generated code off.*--allow-network"):
        CodeRunner()
    CodeRunner(allow_network=True)


def test_a_system_that_cannot_stop_processes_is_refused(isolated: Callable[..., None]) -> None:
    isolated(processes=False)
    with pytest.raises(ConfigError, match="run as an ordinary user"):
        CodeRunner(allow_network=True)


def test_readable_files_are_warned_of(isolated: Callable[..., None]) -> None:
    isolated(files=False)
    with pytest.warns(T2LWarning, match="can read this user's files"):
        CodeRunner()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"memory_mib": 8}, "memory_mib is 8"),
        ({"workers": 0}, "workers is 0; give 1 to"),
        ({"workers": 10_000}, "workers is 10000; give 1 to"),
    ],
)
def test_limits_that_cannot_work_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CodeRunner(**options)  # type: ignore[arg-type]


QUESTION = '```python\ndef double(x):\n    """Two times x."""\n\n```'
CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0"


def _row(text: str = QUESTION) -> Row:
    example = Example(text, ("return 2 * x",), 5)
    task = Task("mine.code", "Write it.", (), (example,), Metric("code_execution"))
    return Row(task, example)


def _grader(**options: object) -> CodeGrader:
    tests = {
        question_key("mine.code", QUESTION): CodeTests(CHECK, entry_point="double"),
        question_key("mine.code", "Node"): CodeTests("assert root.x == 1", setup="root = Node(1)"),
    }
    return CodeGrader(tests, **options)  # type: ignore[arg-type]


def test_answers_are_graded_by_the_tests_of_their_question() -> None:
    grader = _grader(workers=1)
    answers = ["return 2 * x", "return 2 + x", "```python\ndef double(x): return x + x\n```"]
    assert grader([_row()] * 3, answers) == [1.0, 0.0, 1.0]
    node = "class Node:\n    def __init__(self, x):\n        self.x = x"
    assert grader([_row("Node"), _row()], [node, answers[1]]) == [1.0, 0.0]
    assert grader.grade("mine.code", QUESTION, "return 1").reason.startswith("AssertionError")


def test_the_reader_decides_what_runs() -> None:
    fenced = "```python\ndef double(x): return x + x\n```"
    assert _grader()([_row()], [fenced]) == [1.0]
    assert _grader(reader=reference_code)([_row()], [fenced]) == [0.0]


def test_a_question_without_tests_is_named() -> None:
    with pytest.raises(TaskDataError, match="question 'Other' has no unit tests among 2"):
        _grader()([_row(), _row("Other")], ["x", "x"])
    with pytest.raises(TaskDataError, match="question 'Other' has no unit tests"):
        _grader().check([("mine.code", QUESTION), ("mine.code", "Other")])


def test_a_suite_scores_answers_of_code_by_running_them(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    answer = "two=2"
    words = copy.deepcopy(tokenizer)
    words.add_tokens([answer])
    base.resize_token_embeddings(len(words))
    bias = base.get_output_embeddings().bias
    bias.data[words.convert_tokens_to_ids(answer)] = 1e4  # whatever it is asked
    # The references say the opposite of the tests: nothing but running gives these scores.
    examples = (Example("a", ("b",), 5), Example("b", (answer,), 6))
    task = Task(
        "mine.code", "c", ("d",), examples, Metric("code_execution"), split="dev_heldout", group="g"
    )
    tests = {
        question_key("mine.code", "a"): CodeTests("assert two == 2"),
        question_key("mine.code", "b"): CodeTests("assert two == 3"),
    }
    report = evaluate_suite(
        base=base,
        tokenizer=words,
        tasks=[task],
        baselines=[Base()],
        output_dir=tmp_path / "out",
        max_new_tokens=1,
        max_length=32,
        grade=CodeGrader(tests),
    )
    samples, _ = read_samples(sample_path(tmp_path / "out", "base"))
    assert [(sample.answer, sample.score) for sample in samples] == [(answer, 1.0), (answer, 0.0)]
    assert report["conditions"]["base"]["score"]["mean"] == 0.5


def test_tests_are_read_from_a_file_or_the_folders_of_tasks(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    entry = {"test": CHECK, "entry_point": "double"}
    (tmp_path / "one" / "code_tests.json").write_text(json.dumps({"a|b": entry}))
    (tmp_path / "two" / "code_tests.json").write_text(json.dumps({"c|d": {"test": "assert 1"}}))
    expected = {"a|b": CodeTests(CHECK, "", "double"), "c|d": CodeTests("assert 1")}
    assert load_code_tests(tmp_path) == expected
    assert load_code_tests(tmp_path / "one") == {"a|b": expected["a|b"]}
    assert load_code_tests(tmp_path / "two" / "code_tests.json") == {"c|d": expected["c|d"]}
    assert expected["a|b"].program.endswith("check(double)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "not JSON: Expecting value"),
        ("[]", "holds a list"),
        ('{"a|b": "assert 1"}', r"entry 'a\|b' has fields \[\]"),
        ('{"a|b": {"test": 1}}', r"entry 'a\|b' has fields \['test'\]"),
        ('{"a|b": {"test": "x", "timeout": "1"}}', r"'timeout'"),
    ],
)
def test_a_wrong_file_of_tests_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "tests.json"
    file.write_text(content)
    with pytest.raises(TaskDataError, match=message):
        load_code_tests(file)


def test_missing_tests_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="has no unit tests of code"):
            load_code_tests(path)
