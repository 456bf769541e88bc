"""Damaged files and odd descriptions: one line for the user, nothing half written, nothing run."""

from __future__ import annotations

import pickle
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.studies.hostile import EXTRA_BYTES, judge, run
from benchmarks.studies.hostile_damage import Marker
from benchmarks.studies.hostile_files import Format
from text_to_lora.errors import T2LError
from text_to_lora.generate import TextToLora

FILES = 300
WINDOWS_DEVICES = ("con", "prn", "aux", "nul", "com1", "lpt1")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
def test_three_hundred_damaged_files_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    result = run(FILES, seed=0, work=tmp_path)
    assert result["shown"] == []
    assert len(result["faults"]) == 8 and not any(result["faults"].values())
    assert sum(result["files_of_format"].values()) == FILES
    assert len(result["files_of_format"]) == 13
    assert result["calls"]["refused"] > FILES / 2


def test_a_damaged_file_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results.append(run(5, seed=1, work=tmp_path / name))
    one, two = results
    assert one["files_of_way"] == two["files_of_way"]


def fail(source: Path, output: Path) -> None:
    raise KeyError("a bug")


def leave_output(source: Path, output: Path) -> None:
    (output / "half").write_text("x")
    raise T2LError("refused")


def change_input(source: Path, output: Path) -> None:
    (source / "file.pickle").write_text("x")


def load_pickle(source: Path, output: Path) -> None:
    pickle.loads((source / "file.pickle").read_bytes())


def fill_memory(source: Path, output: Path) -> None:
    bytearray(EXTRA_BYTES + (1 << 24))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        (fail, "traceback"),
        (leave_output, "half-written output"),
        (change_input, "input changed"),
        (load_pickle, "code executed"),
        (fill_memory, "too much memory"),
    ],
)
def test_a_reader_with_a_fault_is_caught(
    reader: Callable[[Path, Path], None], fault: str, tmp_path: Path
) -> None:
    source = tmp_path / "damaged"
    source.mkdir()
    (source / "file.pickle").write_bytes(pickle.dumps(Marker(tmp_path / "executed")))
    judged = judge(Format(("file.pickle",), (reader,)), 0, source, tmp_path)
    assert [name for name, happened in judged["faults"].items() if happened] == [fault]


def every_character() -> Iterator[str]:
    """Texts that hold together every character that Unicode assigns, of every script."""
    assigned = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) not in ("Cn", "Co", "Cs")
    ]
    for start in range(0, len(assigned), 1000):
        yield "a" + "".join(assigned[start : start + 1000])


@pytest.mark.filterwarnings("ignore::text_to_lora.errors.T2LWarning")  # what is cut is told
def test_every_script_gives_adapters_in_folders_that_every_system_takes(
    described_hypernet_folder: Path, tmp_path: Path
) -> None:
    t2l = TextToLora.from_pretrained(described_hypernet_folder)
    texts = [
        *every_character(),
        "word " * 200_000,  # 1 MB
        "\u202e\u2067שלום\u2069 عربى",
        "a\0b\x07\x1b[31m\r\n\t",
        "\ufeffAnswer",
        "../../up",
        "C:\\x",
        "a/b",
        "~",
        ". .",
        "a.",
        "x" * 300,
        *WINDOWS_DEVICES,
    ]
    adapters = t2l.generate(texts)
    assert len(adapters) == len(texts)
    adapters.weights.check_finite()
    odd = texts[-25:]
    folders = t2l.generate(odd).save(tmp_path / "made")
    names = [folder.name for folder in folders]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(names)
    assert len({name.casefold() for name in names}) == len(odd)
    for name in names:
        assert re.fullmatch(r"[0-9]+-[a-z0-9]+(-[a-z0-9]+)*", name), name
        assert len(name) < 60
        assert name not in WINDOWS_DEVICES


def test_half_of_a_surrogate_pair_is_refused_in_one_line(described_hypernet_folder: Path) -> None:
    t2l = TextToLora.from_pretrained(described_hypernet_folder)
    with pytest.raises(T2LError) as refusal:
        t2l.generate(["half of a pair \ud83c"])
    assert r"\ud83c" in str(refusal.value)
