from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.generate import Adapters, TextToLora

TEXTS = ["Answer in capitals", "Reply with the last word only", "Say yes or no"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "change", "saving"),
    [
        ((), lambda adapters: adapters, {}),
        (("--strength=-1.5",), lambda adapters: adapters.scale(-1.5), {}),
        (("--raw-scale",), lambda adapters: adapters, {"scale_safe": False}),
        ((TEXTS[1], "--blend", "mean"), lambda adapters: adapters.blend(), {}),
        ((TEXTS[1], "--blend", "2,-1"), lambda adapters: adapters.blend([2.0, -1.0]), {}),
    ],
)
def test_an_option_gives_the_folder_that_the_facade_writes(
    options: tuple[str, ...],
    change: Callable[[Adapters], Adapters],
    saving: dict[str, Any],
    t2l: Any,
    hypernet_folder: Path,
    tmp_path: Path,
) -> None:
    done = t2l("generate", TEXTS[0], *options, "-o", tmp_path / "out", "-m", hypernet_folder)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{tmp_path / 'out'}  rank ")
    adapters = TextToLora.from_pretrained(hypernet_folder).generate(TEXTS[: 1 + len(options) // 2])
    change(adapters).save(tmp_path / "expected", **saving)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_descriptions_of_the_command_line_and_of_a_file_run_as_one_batch(
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
    options = ("-o", tmp_path / "three", "-m", hypernet_folder, "--json")
    done = t2l("generate", TEXTS[0], "--from-file", listed, *options)
    assert calls == [3]
    entries = json.loads(done.out)
    assert [entry["description"] for entry in entries] == TEXTS
    assert [Path(entry["path"]).name for entry in entries] == [
        "1-answer-in-capitals",
        "2-reply-with-the-last-word-only",
        "3-say-yes-or-no",
    ]
    assert all((Path(entry["path"]) / "adapter_model.safetensors").is_file() for entry in entries)


def test_overwrite_replaces_the_folder_and_others_may_read_it(
    t2l: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    t2l("generate", *TEXTS[:2], "-o", out, "-m", hypernet_folder)
    assert t2l("generate", TEXTS[0], "-o", out, "-m", hypernet_folder, "--overwrite").code == 0
    assert {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()} == dict.fromkeys(
        ("adapter_config.json", "adapter_model.safetensors", "provenance.json"), 0o644
    )


def test_a_folder_of_others_is_refused_before_anything_is_loaded(t2l: Any, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (project / "thesis.tex").write_text("years of work")
    done = t2l("generate", TEXTS[0], "-o", project, "-m", tmp_path / "nothing", "--overwrite")
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


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_a_long_description_is_cut_and_says_so(
    t2l: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    done = t2l("generate", "word " * 600, "-o", tmp_path / "out", "-m", hypernet_folder)
    assert (done.code, done.err.count("\n")) == (0, 1)
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


def test_a_description_far_from_training_is_refused(
    t2l: Any, hypernet_folder: Path, described_hypernet_folder: Path, tmp_path: Path
) -> None:
    options = ("-o", tmp_path / "out", "--min-similarity", 0.9, "-m")
    unknown = t2l("generate", TEXTS[0], *options, hypernet_folder)
    far = t2l("generate", TEXTS[0], "entirely other words", *options, described_hypernet_folder)
    for refused in (unknown, far):
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "stores no training descriptions to compare with" in unknown.err
    assert "nearest to 'entirely other words' has cosine " in far.err
    assert "below 0.9" in far.err and "nothing was written" in far.err
    assert not (tmp_path / "out").exists()
    assert t2l("generate", TEXTS[0], *options, described_hypernet_folder).code == 0
    done = t2l("generate", TEXTS[0], "-o", tmp_path / "new", "-m", hypernet_folder)
    assert "nearest training description: unknown, this hypernetwork stores none" in done.out
