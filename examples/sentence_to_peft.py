"""A sentence becomes a PEFT adapter: python examples/sentence_to_peft.py ["Answer in capitals"].

PEFT itself is no dependency of text-to-lora; install it with `pip install peft`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from peft import PeftModel

from text_to_lora import TextToLora, load_base
from text_to_lora.inference.answers import answer

DESCRIPTION = "Decide whether a film review is positive or negative."
INPUT = "A dull and endless film."


def main() -> None:
    """Generate an adapter, write its folder, and answer an input with PEFT's own model."""
    arguments = argparse.ArgumentParser(description="Turn a sentence into a PEFT adapter.")
    arguments.add_argument("description", nargs="?", default=DESCRIPTION)
    arguments.add_argument("--input", default=INPUT, help="text to answer")
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default: embedded)")
    arguments.add_argument("--base", help="copy of the base model (default: the one that it names)")
    arguments.add_argument("--output", type=Path, default=Path("sentence-adapter"))
    options = arguments.parse_args()

    t2l = TextToLora.from_pretrained(options.model)
    model, tokenizer = load_base(options.base, spec=t2l.spec)
    t2l.attach_base(model, tokenizer)
    (folder,) = t2l.generate([options.description]).save(options.output, overwrite=True)
    print(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")

    (before,) = answer(model, tokenizer, [options.input])
    adapted: Any = PeftModel.from_pretrained(model, str(folder))
    (after,) = answer(adapted, tokenizer, [options.input])
    print(f"base:    {before!r}")
    print(f"adapted: {after!r}")


if __name__ == "__main__":
    main()
