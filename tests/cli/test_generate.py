from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora.generate import TextToLora
from text_to_lora.lora import LoraWeights, load_adapter
from text_to_lora.models.base import load_base_config

TEXTS = ["Answer in capitals", "Reply with the last word only", "Say yes or no"]


@pytest.fixture
def read(base_folder: Path) -> Callable[[Path], LoraWeights]:
    config = load_base_config(base_folder)
    return lambda folder: load_adapter(folder, base_config=config)


def _deltas(weights: LoraWeights) -> dict[str, torch.Tensor]:
    return {key: weights.delta(key) for key in weights.a}


def test_one_description_becomes_the_folder_itself(
    t2l: Any, read: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "one"
    done = t2l("generate", TEXTS[0], "-o", out, "-m", hypernet_folder)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{out}  rank 4, base ")
    expected = TextToLora.from_pretrained(hypernet_folder).generate(TEXTS[:1]).weights
    for key, delta in _deltas(read(out)).items():
        torch.testing.assert_close(delta, expected.delta(key))


def test_several_descriptions_run_as_one_batch(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = TextToLora.generate

    def spy(self: TextToLora, texts: list[str], **options: Any) -> Any:
        calls.append(len(texts))
        return original(self, texts, **options)

    monkeypatch.setattr(TextToLora, "generate", spy)
    listed = tmp_path / "tasks.txt"
    listed.write_text(f"{TEXTS[1]}\n\n  {TEXTS[2]}\r\n", encoding="utf-8-sig")
    out = tmp_path / "three"
    done = t2l(
        "generate", TEXTS[0], "--from-file", listed, "-o", out, "-m", hypernet_folder, "--json"
    )
    assert calls == [3]
    entries = json.loads(done.out)
    assert [entry["description"] for entry in entries] == TEXTS
    assert [Path(entry["path"]).name for entry in entries] == [
        "1-answer-in-capitals",
        "2-reply-with-the-last-word-only",
        "3-say-yes-or-no",
    ]
    assert all((Path(entry["path"]) / "adapter_model.safetensors").is_file() for entry in entries)


def test_strength_multiplies_the_change(
    t2l: Any, read: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    for name, strength in (("plain", 1), ("turned", -1.5)):
        t2l(
            "generate", TEXTS[0], "-o", tmp_path / name, "-m", hypernet_folder,
            f"--strength={strength}",
        )  # fmt: skip
    plain = _deltas(read(tmp_path / "plain"))
    for key, delta in _deltas(read(tmp_path / "turned")).items():
        torch.testing.assert_close(delta, -1.5 * plain[key])


@pytest.mark.parametrize(
    ("blend", "shares"), [("mean", [0.5, 0.5]), ("0.7,0.3", [0.7, 0.3]), ("2,-1", [2.0, -1.0])]
)
def test_blend_is_one_adapter_of_weighted_changes(
    blend: str, shares: list[float], t2l: Any, read: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "both"
    done = t2l("generate", *TEXTS[:2], "-o", out, "-m", hypernet_folder, "--blend", blend)
    assert done.code == 0
    parts = TextToLora.from_pretrained(hypernet_folder).generate(TEXTS[:2]).weights
    for key, delta in _deltas(read(out)).items():
        expected = shares[0] * parts.delta(key)[0] + shares[1] * parts.delta(key)[1]
        torch.testing.assert_close(delta[0], expected, rtol=1e-4, atol=1e-5)


def test_the_raw_form_keeps_alpha_and_the_same_change(
    t2l: Any, read: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    t2l("generate", TEXTS[0], "-o", tmp_path / "safe", "-m", hypernet_folder)
    t2l("generate", TEXTS[0], "-o", tmp_path / "raw", "-m", hypernet_folder, "--raw-scale")
    config = json.loads((tmp_path / "raw" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 16)
    safe = _deltas(read(tmp_path / "safe"))
    for key, delta in _deltas(read(tmp_path / "raw")).items():
        torch.testing.assert_close(delta, safe[key])


def test_overwrite_replaces_the_folder(t2l: Any, hypernet_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    t2l("generate", *TEXTS[:2], "-o", out, "-m", hypernet_folder)
    assert t2l("generate", TEXTS[0], "-o", out, "-m", hypernet_folder, "--overwrite").code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "provenance.json",
    ]


@pytest.mark.parametrize("model", ["hypernet", "nothing"])
def test_a_folder_of_others_is_refused_before_anything_is_loaded(
    t2l: Any, model: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (project / "thesis.tex").write_text("years of work")
    done = t2l("generate", TEXTS[0], "-o", project, "-m", tmp_path / model, "--overwrite")
    assert done.code == 2
    assert f"output folder '{project}' holds '.git/HEAD', which this program did not" in done.err
    assert (project / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_the_current_folder_is_refused_and_nothing_is_left(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for output in (".", "..", "new/.."):
        for overwrite in ([], ["--overwrite"]):
            done = t2l("generate", TEXTS[0], "-o", output, "-m", hypernet_folder, *overwrite)
            assert done.code == 2
            assert f"output folder '{output}' is the current folder, one above it" in done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["above", "here"]


def test_the_hypernetwork_that_is_read_is_not_replaced(t2l: Any, hypernet_folder: Path) -> None:
    done = t2l("generate", TEXTS[0], "-o", hypernet_folder, "-m", hypernet_folder, "--overwrite")
    assert done.code == 2
    assert f"holds what is read, '{hypernet_folder}'; choose another path" in done.err


def test_others_may_read_what_is_written(t2l: Any, hypernet_folder: Path, tmp_path: Path) -> None:
    t2l("generate", TEXTS[0], "-o", tmp_path / "out", "-m", hypernet_folder)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o644}, modes


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_a_long_description_is_cut_and_says_so(
    t2l: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    done = t2l("generate", "word " * 600, "-o", tmp_path / "out", "-m", hypernet_folder)
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert done.err.startswith("warning: the encoder read 512 of 601 tokens of the description")
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_the_nearest_training_description_is_printed_and_recorded(
    t2l: Any, described_hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = t2l("generate", TEXTS[0], "-o", out, "-m", described_hypernet_folder)
    line = "  nearest training description: cosine 1.00, 'Answer in capitals'"
    assert done.out.splitlines()[1:] == [line]
    recorded = json.loads((out / "provenance.json").read_text())["nearest_description"]
    assert recorded == {"text": TEXTS[0], "cosine": pytest.approx(1, abs=1e-3)}


def test_a_hypernetwork_without_training_descriptions_says_so(
    t2l: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    done = t2l("generate", TEXTS[0], "-o", tmp_path / "out", "-m", hypernet_folder)
    assert "nearest training description: unknown, this hypernetwork stores none" in done.out
    options = ("-o", tmp_path / "no", "-m", hypernet_folder, "--min-similarity", 0.5)
    refused = t2l("generate", TEXTS[0], *options)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "stores no training descriptions to compare with" in refused.err
    assert not (tmp_path / "no").exists()


def test_a_description_far_from_training_is_refused(
    t2l: Any, described_hypernet_folder: Path, tmp_path: Path
) -> None:
    options = ("-o", tmp_path / "out", "-m", described_hypernet_folder, "--min-similarity", 0.9)
    far = t2l("generate", TEXTS[0], "entirely other words", *options)
    assert (far.code, far.out, far.err.count("\n")) == (2, "", 1)
    assert "nearest to 'entirely other words' has cosine " in far.err
    assert "below 0.9" in far.err and "nothing was written" in far.err
    assert not (tmp_path / "out").exists()
    assert t2l("generate", TEXTS[0], *options).code == 0


def test_a_similarity_that_cannot_be_is_one_line(
    t2l: Any, described_hypernet_folder: Path, tmp_path: Path
) -> None:
    done = t2l(
        "generate", "x", "-m", described_hypernet_folder, "-o", tmp_path / "x",
        "--min-similarity", 1.5,
    )  # fmt: skip
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "min-similarity is 1.5; a cosine from -1 to 1 is needed" in done.err
