from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.published import (
    OurSet,
    compare_with_paper,
    find_table,
    published,
    render_published,
    replace_published,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "paper.md"

# The paper prints 55.8, which is the row's mean over the ten benchmarks of Table 2.
SLIP = ("table1", "Base")


def test_every_average_follows_from_its_row_but_the_papers_one_slip() -> None:
    slips = []
    for table in published().tables.values():
        # Figures and averages are both rounded, to a tenth or, in the re-run, a hundredth.
        tolerance = 0.0101 if table.tag == "R" else 0.101
        for row in table.rows:
            for name, over in table.averages.items():
                values = [row.values[benchmark] for benchmark in over]
                printed = row.averages[name]
                if printed is None or None in values:
                    continue
                mean = statistics.mean(value for value in values if value is not None)
                if abs(mean - printed) > tolerance:
                    slips.append((table.id, row.name))
                    assert round(mean, 1) == 57.8 and printed == 55.8
    assert slips == [SLIP]
    assert "57.8" in find_table("table1").notes[0]


def test_the_asked_tables_are_there_with_provenance() -> None:
    known = published()
    assert list(known.tables) == [
        *("table1", "table2", "table7", "table8"),
        *("rerun-mistral", "rerun-llama", "rerun-gemma"),
    ]
    assert {t.tag for t in known.tables.values()} | {s.tag for s in known.sets.values()} == set(
        known.tags
    )
    table = find_table("table2")
    assert set(table.columns) == set(known.sets)
    by_name = {row.name: row for row in table.rows}
    assert by_name["T2L SFT L"].values["openbookqa"] == 75.5
    assert by_name["Arrow routing"].averages["average of 10"] is None
    with pytest.raises(
        ConfigError, match="unknown table 'table9' of the paper; choose among table1"
    ):
        find_table("table9")


def test_the_document_holds_the_tables_of_the_data() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert replace_published(text) == text


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    text = "above\n<!-- published -->\nold\n<!-- /published -->\nbelow\n"
    new = replace_published(text)
    assert new == f"above\n<!-- published -->\n\n{render_published()}\n<!-- /published -->\nbelow\n"
    assert replace_published(new) == new
    for wrong in ("no marks", "<!-- /published --> <!-- published -->", text + text):
        with pytest.raises(ConfigError, match="once each, in order"):
            replace_published(wrong)


def test_averages_stand_beside_the_papers_only_when_all_are_measured() -> None:
    table = find_table("table2")
    ours = {"base": dict.fromkeys(table.columns, 50.0), "matched": {"boolq": 10.0}}
    sets = {name: OurSet("own", 7) for name in table.columns}
    lines = compare_with_paper(ours, sets, base="mine").splitlines()
    assert next(x for x in lines if x.startswith("| Base (base)")).endswith("50.0 / 55.8 |")
    for size in "SML":
        (line,) = (x for x in lines if x.startswith(f"| T2L SFT {size} (matched)"))
        assert "10.0 / 8" in line and "| – / 6" in line


def test_sets_say_where_they_differ() -> None:
    sets = {
        "gsm8k": OurSet("GSM8K main, test", 1319),
        "boolq": OurSet("own rows", 100, "another reader"),
        "medqa": OurSet("MedQA, test", 1273),
    }
    ours = {"base": dict.fromkeys(sets, 1.0), "junk": {"medqa": 2.0}}
    text = compare_with_paper(ours, sets, base="mine", remarks=["read with care"])
    assert "| GSM8K | 1319 | 1319 | nothing known |" in text
    assert (
        "| BoolQ | 100 | 3270 | here own rows, in the paper BoolQ, validation; another reader |"
        in text
    )
    assert "| MedQA | 1273 | not in the paper |  |" in text
    assert "| HellaSwag | – | 10042 | not measured here |" in text
    assert "junk (not in the table)" in text and "2.0 / –" in text
    assert "- read with care" in text
