"""Every row of a batch has an adapter of its own: python examples/batch_of_sentences.py."""

from __future__ import annotations

import argparse
from typing import Any

from text_to_lora import TextToLora, load_base
from text_to_lora.tasks.prompts import PromptFormat

DESCRIPTIONS = [
    "Answer in capitals.",
    "Reply with the last word of the text.",
    "Say whether the text is about food or about sport.",
]
INPUTS = ["The soup is cold today.", "The match was lost in the last minute."]


def main() -> None:
    """Generate all adapters in one pass and answer every input under every adapter."""
    arguments = argparse.ArgumentParser(description="Answer a batch of rows with unlike adapters.")
    arguments.add_argument("descriptions", nargs="*", default=DESCRIPTIONS)
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default: embedded)")
    arguments.add_argument("--base", help="copy of the base model (default: the one that it names)")
    arguments.add_argument("--max-new-tokens", type=int, default=16, help="most tokens an answer")
    options = arguments.parse_args()

    t2l = TextToLora.from_pretrained(options.model)
    model, tokenizer = load_base(options.base, spec=t2l.spec)
    t2l.attach_base(model, tokenizer)
    adapters = t2l.generate(options.descriptions)

    # The description stands in no prompt: row i of the batch is answered with adapter rows[i].
    frame = PromptFormat.for_tokenizer(tokenizer)
    pairs = [(text, row) for row in range(len(adapters)) for text in INPUTS]
    batch = tokenizer(
        [frame.prompt(text) for text, _ in pairs],
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
    )
    generate: Any = model.generate  # whose types transformers does not give
    with adapters.on(model, rows=[row for _, row in pairs]):
        output = generate(**batch, max_new_tokens=options.max_new_tokens, do_sample=False)
    answers = tokenizer.batch_decode(
        output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    for (text, row), answer in zip(pairs, answers, strict=True):
        print(f"{options.descriptions[row]}  {text!r} -> {answer.strip()!r}")


if __name__ == "__main__":
    main()
