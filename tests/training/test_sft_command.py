import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from text_to_lora.cli import main
from text_to_lora.training.config import RunConfig

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def t2l(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `t2l` with these arguments; gives its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2l", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


def test_sft_trains_from_a_file_and_prints_the_folder_of_the_result(
    t2l: Run, settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(settings().to_dict()))
    changes = ["--set", "run.steps=2", "--set", "data.eval_rows=0"]
    code, out, err = t2l("train", "sft", recipe, "-o", tmp_path / "run", *changes)
    assert code == 0, err
    assert out.strip() == str(tmp_path / "run" / "hypernet")
    assert "step 2/2 loss" in err
    code, _, err = t2l("train", "sft", recipe, "-o", tmp_path / "run")
    assert code == 2
    assert "run.steps: 2 -> 6" in err and "--fresh" in err


def test_sft_refuses_an_unknown_key_in_one_line(t2l: Run, tmp_path: Path) -> None:
    code, out, err = t2l(
        "train", "sft", "embedded", "-o", tmp_path / "run", "--set", "optimizer.learning_rat=1"
    )
    assert (code, out) == (2, "")
    assert "unknown key 'optimizer.learning_rat', nearest" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
