import json
from collections.abc import Callable
from pathlib import Path

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.training.checkpoints import MARK, RunFolder
from text_to_lora.training.config import RunConfig

Settings = Callable[..., RunConfig]


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.open(settings(), resume=True)
    return run


def write(folder: RunFolder, step: int, keep: int = 2) -> None:
    with folder.checkpoint(step, keep=keep) as path:
        (path / "weights").write_text(str(step))


def test_the_newest_complete_checkpoint_counts(folder: RunFolder, settings: Settings) -> None:
    assert folder.newest_checkpoint() is None
    for step in (7, 8, 9, 10):
        write(folder, step, keep=3)
    names = sorted(path.name for path in folder.path.glob("checkpoint-*"))
    assert names == ["checkpoint-10", "checkpoint-8", "checkpoint-9"]  # old ones go
    assert folder.newest_checkpoint() == folder.path / "checkpoint-10"  # by number, not by name
    (folder.path / "checkpoint-10" / MARK).unlink()
    assert folder.newest_checkpoint() == folder.path / "checkpoint-9"
    folder.open(settings(), resume=True)
    names = sorted(path.name for path in folder.path.glob("checkpoint-*"))
    assert names == ["checkpoint-8", "checkpoint-9"]


def test_an_error_while_writing_leaves_the_older_checkpoint(folder: RunFolder) -> None:
    write(folder, 1)
    with pytest.raises(ZeroDivisionError), folder.checkpoint(2, keep=2):
        raise ZeroDivisionError
    assert folder.newest_checkpoint() == folder.path / "checkpoint-1"


def test_what_a_killed_process_left_is_deleted(folder: RunFolder, settings: Settings) -> None:
    half_written = folder.path / ".checkpoint-4.abcd"
    half_written.mkdir()
    (half_written / MARK).touch()
    (folder.path / ".history.jsonl.123").touch()
    (folder.path / ".library.png.t2l-123").mkdir()  # also begins as the leavings of library/ do
    folder.open(settings(), resume=True)
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


def test_what_others_put_into_a_run_stays(folder: RunFolder, settings: Settings) -> None:
    names = [".pre-commit-config.yaml", ".env.local", "history.docx", "checkpoint-notes.md"]
    for name in names:
        (folder.path / name).touch()
    for resume in (True, False):
        folder.open(settings(), resume=resume)
        assert sorted(path.name for path in folder.path.iterdir()) == sorted(
            ["config.json", *names]
        )
    folder.delete()
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(names)


def test_other_settings_are_refused_by_name(folder: RunFolder, settings: Settings) -> None:
    other = settings(optimizer={"lr": 0.5}, run={"steps": 7})
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.01 -> 0.5; run.steps: 6 -> 7.*--fresh"):
        folder.open(other, resume=True)
    (folder.path / "embeddings").mkdir()
    write(folder, 1)
    folder.finish({"step": 1})
    folder.open(other, resume=False)
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.json", "embeddings"]
    folder.open(other, resume=True)
    folder.delete()
    assert not folder.path.exists()


def test_a_run_older_than_a_setting_goes_on_with_its_default(
    folder: RunFolder, settings: Settings
) -> None:
    file = folder.path / "config.json"
    payload = json.loads(file.read_text())
    del payload["tokens"], payload["data"]["in_prompt"]
    file.write_text(json.dumps(payload))
    folder.open(settings(), resume=True)
    with pytest.raises(ConfigError, match=r"tokens\.read: False -> True; choose"):
        folder.open(settings(tokens={"read": True}), resume=True)
    payload["data"]["repeated_rows"] = 1  # an option of an earlier version
    file.write_text(json.dumps(payload))
    with pytest.raises(ConfigError, match=r"data\.repeated_rows: 1 -> no setting of this version"):
        folder.open(settings(), resume=True)
    del payload["data"]["repeated_rows"]
    del payload["base"]["name"]
    file.write_text(json.dumps(payload))
    with pytest.raises(ConfigError, match=r"base\.name: None -> "):
        folder.open(settings(), resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "thesis.tex").touch()
    for resume in (True, False):
        with pytest.raises(ConfigError, match="holds files, but no run"):
            RunFolder(tmp_path).open(settings(), resume=resume)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for resume in (True, False):
        with pytest.raises(ConfigError, match="has format None"):
            RunFolder(tmp_path).open(settings(), resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "thesis.tex"]
