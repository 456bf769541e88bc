"""Refine an adapter on sixteen rows: python examples/refine.py [--model NAME] [--seconds 60]."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from text_to_lora import TextToLora
from text_to_lora.inference.answers import answer

DESCRIPTION = "Give the code of the desk that handles the message: B-17, R-04 or D-22."
ROWS = [
    ("My invoice for May lists the same item twice.", "B-17"),
    ("The kettle stopped heating after two weeks.", "R-04"),
    ("The parcel was due on Monday and is still not here.", "D-22"),
    ("Why was my card charged before the order shipped?", "B-17"),
    ("The hinge of the lid is broken.", "R-04"),
    ("The driver left the box at the wrong house.", "D-22"),
    ("Please send me a receipt with our company name on it.", "B-17"),
    ("The screen flickers when I turn the lamp on.", "R-04"),
    ("Can the package be delivered to a neighbour?", "D-22"),
    ("I was promised a discount that is not on the bill.", "B-17"),
    ("The motor makes a grinding noise.", "R-04"),
    ("The tracking page has not changed for five days.", "D-22"),
    ("How do I change the bank account for my payments?", "B-17"),
    ("A button fell off and the device does not start.", "R-04"),
    ("We moved; please bring the order to the new address.", "D-22"),
    ("The refund has not reached my account yet.", "B-17"),
]
NEW = "The fan does not turn any more."


def main() -> None:
    """Refine, print what was measured, and answer an input that no row has."""
    arguments = argparse.ArgumentParser(description="Refine an adapter on sixteen rows.")
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default: embedded)")
    arguments.add_argument("--seconds", type=float, default=60.0, help="time limit (default: 60)")
    options = arguments.parse_args()

    t2l = TextToLora.from_pretrained(options.model)
    adapters = t2l.refine([DESCRIPTION], [ROWS], seconds=options.seconds)
    record = adapters.provenance[0]["refinement"]
    for name, figures in record["kept_out"].items():
        print(f"{name:9} loss {figures['loss']:.3f}, exact answers {figures['score']:.0%}")
    print(f"chosen: {record['steps']} of {record['steps_tried']} steps; {record['outlook']}")

    with TemporaryDirectory() as folder:
        (written,) = adapters.save(Path(folder) / "desk")
        print("a PEFT folder with", ", ".join(sorted(file.name for file in written.iterdir())))

    model, tokenizer = t2l.base
    (reply,) = answer(model, tokenizer, [NEW], weights=adapters.weights, max_new_tokens=8)
    print(f"{NEW} -> {reply}")


if __name__ == "__main__":
    main()
