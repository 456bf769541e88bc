"""The paper's tables in docs/paper.md, from the data that comes with the package.

    python benchmarks/judge/paper_tables.py

Rewrites what stands between the two marks; `tests/evaluation/benchmarks/test_published.py` holds
that nothing else stands there.
"""

from __future__ import annotations

from pathlib import Path

from text_to_lora.evaluation.benchmarks.published import replace_published

DOCUMENT = Path(__file__).parents[2] / "docs" / "paper.md"


def main() -> None:
    """Rewrite the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(replace_published(text), encoding="utf-8")


if __name__ == "__main__":
    main()
