"""Which folders are replaced, and locks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.files import check_output, check_results, lock, one_job_a_folder

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.txt")
FORMATS = {
    "hypernet": ("config.json", {"format": "text-to-lora hypernetwork"}),
    "library": ("index.json", {"format": "text-to-lora library"}),
    "export": ("index.json", {"format": "text-to-lora export"}),
    "model": ("config.json", {"model_type": "llama"}),
    "run": ("config.json", {"format": "text-to-lora run"}),
    "evaluation": ("run.json", {"format": "text-to-lora suite"}),
}


def fill(folder: Path, *names: str, kind: str | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    folder.mkdir(exist_ok=True)
    if kind is not None:
        name, payload = FORMATS[kind]
        (folder / name).write_text(json.dumps(payload))
    return folder


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ((), None),
        (ADAPTER, None),
        ((*ADAPTER, "provenance.json"), None),
        ((*ADAPTER, "README.md", "adapter_model.bin", *TOKENIZER), None),
        ((*ADAPTER, *(f"second/{name}" for name in ADAPTER)), None),
        (("1-a/adapter_config.json", "2-b/adapter_config.json"), None),
        (("a/adapter_config.json", "b/adapter_model.bin", "b/adapter_config.json"), "export"),
        (("model.safetensors", "confidence.safetensors"), "hypernet"),
        (("library.safetensors",), "library"),
        (("model.safetensors", "generation_config.json", *TOKENIZER), "model"),
        (("model-00001-of-00002.safetensors", "model.safetensors.index.json"), "model"),
        (("model.safetensors", "additional_chat_templates/rag.jinja"), "model"),
        (("COMPLETE", "model.safetensors", "optimizer.pt", "trainer_state.json"), None),
    ],
)
def test_what_this_program_and_peft_write_is_replaced(
    names: tuple[str, ...], kind: str | None, tmp_path: Path
) -> None:
    check_output(fill(tmp_path / "out", *names, kind=kind), overwrite=True)


@pytest.mark.parametrize(
    ("names", "kind", "foreign"),
    [
        (("thesis.tex",), None, "thesis.tex"),
        (("README.md",), None, "README.md"),
        (("config.json", "model.safetensors"), None, "config.json"),
        (("vocab.txt", "tokenizer.json"), None, "tokenizer.json"),
        (("library.safetensors", "index.json"), None, "index.json"),
        ((*ADAPTER, "notes.md", "zoo"), None, "notes.md"),
        ((*ADAPTER, "optimizer.pt"), None, "optimizer.pt"),
        ((*ADAPTER, ".git/HEAD"), None, ".git/HEAD"),
        ((*ADAPTER, "second/adapter_config.json", "second/mine"), None, "second/mine"),
        (("1-a/adapter_config.json", "2-b/notes"), None, "2-b/notes"),
        (("1-a/adapter_config.json", "list.csv"), None, "list.csv"),
        (("library.safetensors", "a/adapter_config.json"), "library", "a/adapter_config.json"),
        (("model.safetensors", "README.md"), "hypernet", "README.md"),
        (("model.safetensors", "modeling_mine.py"), "model", "modeling_mine.py"),
        (("model.safetensors", "additional_chat_templates/x.py"), "model", None),
        (("hypernet/config.json",), "run", "config.json"),
        (("samples/base.parquet",), "evaluation", "run.json"),
        (("src/deep/main.py",), None, "src/deep/main.py"),
    ],
)
def test_a_folder_with_anything_else_is_refused_and_the_file_is_named(
    names: tuple[str, ...], kind: str | None, foreign: str | None, tmp_path: Path
) -> None:
    out = fill(tmp_path / "out", *names, kind=kind)
    foreign = names[-1] if foreign is None else foreign
    with pytest.raises(ConfigError, match=rf"out' holds '{foreign}', which this program did not"):
        check_output(out, overwrite=True)


def test_an_empty_and_a_linked_folder_below_are_foreign(tmp_path: Path) -> None:
    (tmp_path / "new" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds 'data', which"):
        check_output(tmp_path / "new", overwrite=True)
    fill(tmp_path / "elsewhere", *ADAPTER)
    out = fill(tmp_path / "out", *ADAPTER)
    (out / "second").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="holds 'second', which"):
        check_output(out, overwrite=True)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '{"format": []}', "\udcff"])
def test_a_broken_index_makes_a_folder_one_of_others(content: str, tmp_path: Path) -> None:
    out = fill(tmp_path / "out")
    (out / "index.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"holds 'index\.json', which"):
        check_output(out, overwrite=True)


def hold(file: Path, ready: Any) -> None:
    with lock(file, wait_seconds=0, refusal="another job writes"):
        ready.set()
        time.sleep(60)


def test_a_lock_is_refused_with_who_holds_it_and_given_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / ".lock"
    with lock(file, wait_seconds=0, refusal="another job writes 'x'"):
        for seconds, waited in ((0, ""), (0.01, " and did not end within 0.01 s")):
            with (
                pytest.raises(
                    ConfigError, match=f"another job writes 'x'{waited}; repeat when it has ended"
                ),
                lock(file, wait_seconds=seconds, refusal="another job writes 'x'"),
            ):
                pass
    assert list(tmp_path.iterdir()) == []
    with lock(file, wait_seconds=0, refusal=""):
        pass


def test_a_killed_job_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    job = context.Process(target=hold, args=(tmp_path / ".lock", ready))
    job.start()
    assert ready.wait(60)
    with (
        pytest.raises(ConfigError, match="another job writes"),
        lock(tmp_path / ".lock", wait_seconds=0, refusal="another job writes"),
    ):
        pass
    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    assert (tmp_path / ".lock").exists()
    with lock(tmp_path / ".lock", wait_seconds=0, refusal="another job writes"):
        pass
    assert list(tmp_path.iterdir()) == []


COUNTER = """
import sys
from pathlib import Path
from text_to_lora.files import lock
file = Path(sys.argv[1])
for _ in range(100):
    with lock(file.with_name(".lock"), wait_seconds=60, refusal="another job counts"):
        file.write_text(str(int(file.read_text()) + 1))
"""


def test_no_two_jobs_hold_a_lock(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    command = [sys.executable, "-c", COUNTER, str(file)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    jobs = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert file.read_text() == "300"


def test_one_job_at_a_time_works_on_a_folder(tmp_path: Path) -> None:
    @one_job_a_folder
    def work(number: int, *, output_dir: Path) -> int:
        (output_dir / "started").touch()
        return work(number - 1, output_dir=output_dir) if number else 7

    assert work(0, output_dir=tmp_path / "out") == 7
    with pytest.raises(ConfigError, match=r"another job writes into '.*out'; repeat when it has"):
        work(1, output_dir=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["started"]


def test_other_processes_of_a_distributed_job_need_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @one_job_a_folder
    def work(*, output_dir: Path) -> int:
        return 7

    monkeypatch.setenv("RANK", "1")
    with lock(tmp_path / ".lock", wait_seconds=0, refusal=""):
        assert work(output_dir=tmp_path) == 7


def test_results_replace_only_those_of_an_earlier_run(tmp_path: Path) -> None:
    names = ("report.json", "report.md")
    check_results(tmp_path, marker="run.json", names=names)
    (tmp_path / "report.md").write_text("of the annual meeting")
    with pytest.raises(
        ConfigError,
        match=r"holds 'report\.md', but no 'run\.json' of an earlier run; choose another",
    ):
        check_results(tmp_path, marker="run.json", names=names)
    (tmp_path / "run.json").touch()
    check_results(tmp_path, marker="run.json", names=names)


def test_a_current_folder_that_was_deleted_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="cannot write 'out': No such file or directory"):
        check_output("out", overwrite=True)
    monkeypatch.chdir(tmp_path)
