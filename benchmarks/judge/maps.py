"""Maps of descriptions and of the adapters made of them, side by side (Figure 5's form).

    python benchmarks/judge/maps.py --data DIR --work WORK

benchmarks: three descriptions of each benchmark, coloured by benchmark, as in the paper; they serve
this picture alone. training: the definition of every training task, coloured by category. Beside
each picture: how often the nearest description or adapter has the same label, and the silhouette,
with 95% intervals over source groups, beside the same with labels shuffled.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from judging import PLOTS, parser

from recorded import make_cell
from text_to_lora.analysis.maps import make_map, points_of
from text_to_lora.analysis.maps_plots import plot_map
from text_to_lora.errors import T2LWarning
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.folder import load_data_dir

MAPS = {
    "benchmarks": {"split": "benchmarks", "descriptions": 3, "by": "task"},
    "training": {"split": "train", "descriptions": 1, "by": "category"},
}


def main() -> None:
    """Draw what is not drawn yet."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default embedded)")
    arguments.add_argument("--work", type=Path, required=True, help="folder that keeps embeddings")
    arguments.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plots")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", T2LWarning)  # long descriptions, one line each
    t2l = TextToLora.from_pretrained(options.model, cache_dir=options.work / "embeddings")
    for name, settings in MAPS.items():

        def make(name: str = name, settings: dict[str, Any] = settings) -> dict[str, Any]:
            tasks = load_data_dir(options.data, settings["split"])
            made = make_map(
                points_of(tasks, descriptions=settings["descriptions"]),
                t2l.encode,
                lambda texts: t2l.generate(texts).weights,
                by=settings["by"],
                seed=options.row_seed,
            )
            plot_map(made, options.plots / f"map-{name}.png")
            # Without texts of the data, and their places, which the plot shows.
            return {"map": {k: v for k, v in made.items() if k not in ("points", "coordinates")}}

        make_cell(
            options.out / f"map-{name}.json",
            make,
            identity={"hypernet": t2l.fingerprint, "row_seed": options.row_seed, **settings},
            threads=options.threads,
        )


if __name__ == "__main__":
    main()
