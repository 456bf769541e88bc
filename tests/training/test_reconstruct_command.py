"""t2l train reconstruct: from a recipe to a hypernetwork's folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from text_to_lora.cli import main
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, save_library
from text_to_lora.lora import LoraSpec, LoraWeights

Run = Callable[..., tuple[int, str, str]]
QUICK = [
    argument
    for setting in ("run.steps=2", "run.device=cpu", "encoder.name=hash", "hypernet.latent_size=8")
    for argument in ("--set", setting)
]


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


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    spec = LoraSpec.from_config(base, targets=["q_proj"], rank=2)
    weights = LoraWeights(
        spec,
        {"self_attn.q_proj": torch.randn(2, 2, 2, 16)},
        {"self_attn.q_proj": torch.randn(2, 2, 16, 2)},
    )
    entries = [LibraryEntry("yes", ("Say yes.",)), LibraryEntry("no")]
    folder = tmp_path_factory.mktemp("library") / "library"
    return save_library(AdapterLibrary(weights, entries), folder)


def test_it_trains_prints_the_folder_and_leaves_a_plot(
    t2l: Run, library: Path, tmp_path: Path
) -> None:
    command = ("train", "reconstruct", "reconstruct-onehot", "-o", tmp_path / "run")
    command += ("--set", f"data.library={library}", *QUICK)
    code, out, err = t2l(*command)
    assert code == 0, err
    assert out.strip() == str(tmp_path / "run" / "hypernet")
    assert "2 adapters of 128 numbers" in err and "delta_error" in err
    assert (tmp_path / "run" / "history.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = t2l(*command, "--set", "optimizer.lr=0.5")
    assert code == 2 and "optimizer.lr: 0.003 -> 0.5" in err and "--fresh" in err
    code, _, err = t2l(*command, "--set", "optimizer.lr=0.5", "--fresh")
    assert code == 0, err


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        ("reconstruct-embedded", [], "1 of 2 tasks have no description: no; add descriptions"),
        ("reconstruct-onehot", ["hypernet.head=XL"], "hypernet.head is 'XL'"),
        ("reconstruct-onehot", ["data.library=nowhere"], "'nowhere' is not a folder; give the lib"),
        ("embedded", [], "recipe 'embedded' is for `t2l train sft`, not `t2l train reconstruct`"),
    ],
)
def test_what_cannot_work_is_one_line(
    recipe: str, changes: list[str], said: str, t2l: Run, library: Path, tmp_path: Path
) -> None:
    settings = [item for change in changes for item in ("--set", change)]
    command = ("train", "reconstruct", recipe, "-o", tmp_path / "run", *QUICK)
    code, out, err = t2l(*command, "--set", f"data.library={library}", *settings)
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1
