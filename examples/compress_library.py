"""A library of adapters becomes one small network: python examples/compress_library.py.

The library here holds adapters that a hypernetwork generates, so that the example needs no other file.
For adapters of your own: `t2l library add FOLDER -o library`, then pass --library library.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from text_to_lora import TextToLora, load_base
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, load_library, save_library
from text_to_lora.training.compression import compress, fit_settings
from text_to_lora.training.config import set_keys
from text_to_lora.training.reconstruction_config import ReconstructionConfig

FORMS = ("Answer in one word", "Answer in capitals", "Answer with a number", "Answer in a sentence")
THEMES = ("weather", "music", "travel", "cooking")


def make_library(options: argparse.Namespace, path: Path) -> Path:
    """Generate one adapter for each form and theme, and write all of them as one library."""
    t2l = TextToLora.from_pretrained(options.model)
    if t2l.reads_with_base:
        t2l.attach_base(*load_base(options.base, spec=t2l.spec))
    texts = [f"{form}: questions about {theme}." for form in FORMS for theme in THEMES]
    entries = [LibraryEntry(f"task-{number}", (text,)) for number, text in enumerate(texts)]
    weights = t2l.generate(texts).weights
    return save_library(AdapterLibrary(weights, entries), path, overwrite=True)


def main() -> None:
    """Train a network that gives each adapter back from its description, and say what it costs."""
    arguments = argparse.ArgumentParser(description="Compress a library of adapters.")
    arguments.add_argument("--library", type=Path, help="library (default: one that is generated)")
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default: embedded)")
    arguments.add_argument("--base", help="copy of the base model (default: the one that it names)")
    arguments.add_argument("--encoder", default="minilm", help="text encoder (default: minilm)")
    arguments.add_argument("--steps", type=int, default=300, help="training steps (default: 300)")
    arguments.add_argument("--output", type=Path, default=Path("compressed"))
    options = arguments.parse_args()

    path = options.library or make_library(options, options.output / "library")
    library = load_library(path)
    settings = fit_settings(library, steps=options.steps)
    set_keys(settings, [f"encoder.name={options.encoder}"])
    config = ReconstructionConfig.from_dict(settings)
    packed = options.output / "hypernet"
    result = compress(library, path, config, output=packed, overwrite=True, report=print)
    print(
        f"{result.adapters} adapters: {result.bytes_before:,} bytes before, {result.bytes_after:,} after "
        f"({result.ratio:.1f} times smaller), relative error of the weight changes {result.delta_error:.3f}"
    )
    adapters = TextToLora.from_pretrained(packed).generate([library.entries[0].descriptions[0]])
    print(
        f"{library.names[0]} comes back as {len(adapters)} adapter of rank {adapters.weights.spec.rank}"
    )


if __name__ == "__main__":
    main()
