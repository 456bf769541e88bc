"""Write docs/results.md, docs/cost.md and docs/reliability.md from the committed results.

    python -m benchmarks.render [--check]

The pages are the templates of `benchmarks/pages/`; a part whose results are not there is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.lib import RESULTS, ROOT
from benchmarks.studies import ablations, refine_report
from text_to_lora.analysis.cost import size, span, tera
from text_to_lora.evaluation.tables import number, show, show_paired
from text_to_lora.files import read_json, write_text

PAGES = Path(__file__).parent / "pages"


def read_results(folder: Path) -> dict[str, Any]:
    """Results by the name of their file; None where there is none.

    speed: of every benchmark of benchmarks/speed that has been run
    """
    files = {
        "suite": "suite/report",
        "suite_facts": "suite/facts",
        "suite_public": "suite-public/report",
        "suite_public_facts": "suite-public/facts",
        "suite_bbh": "suite-bbh/report",
        "suite_bbh_facts": "suite-bbh/facts",
        "obedience": "obedience/everyday/report",
        "obedience_new_words": "obedience/new_words/report",
        "validation": "validation/report",
        "validation_facts": "validation/facts",
        "words": "validation_words",
    }
    files |= {
        name: name
        for name in ("alignment", "harm", "mismatch", "cost", "hostile", "crash", "endurance")
    }
    speed = {path.stem: path.stem for path in sorted((ROOT / "benchmarks/speed").glob("*.py"))}

    def read(names: dict[str, str]) -> dict[str, Any]:
        paths = {name: folder / f"{file}.json" for name, file in names.items()}
        return {name: read_json(p) if p.is_file() else None for name, p in paths.items()}

    results = read(files) | {
        "ablations": ablations.summarise(folder / "ablations"),
        "refine": refine_report.summarise(folder / "refine"),
        "refine_titles": refine_report.TITLES,
    }
    speed.pop("cost")
    results["speed"] = {name: result for name, result in read(speed).items() if result}
    return results


def render(results: dict[str, Any]) -> dict[str, str]:
    """The pages as Markdown, by their names."""
    environment = Environment(
        loader=FileSystemLoader(PAGES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = {"size": size, "span": span, "tera": tera, "number": number, "show": show}
    environment.filters |= filters | {"paired": show_paired}
    names = [path.name for path in sorted(PAGES.glob("*.md.j2"))]
    return {
        name.removesuffix(".j2"): environment.get_template(name).render(results) for name in names
    }


def main() -> None:
    """Write the pages, or with --check fail where one differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a page differs")
    options = parser.parse_args()
    for name, text in render(read_results(RESULTS)).items():
        path = ROOT / "docs" / name
        if options.check and path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"docs/{name} differs; run python -m benchmarks.render")
        write_text(path, text)


if __name__ == "__main__":
    main()
