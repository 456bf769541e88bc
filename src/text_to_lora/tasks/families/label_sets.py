"""Words that families use as new labels, and which of them are kept for validation."""

from __future__ import annotations

from text_to_lora.tasks.families.family import load_texts

_TEXTS = load_texts("label_sets")

LABEL_SETS: dict[str, tuple[str, ...]] = {
    name: tuple(words) for name, words in _TEXTS["label_sets"].items()
}

YES_NO_WORDS: tuple[tuple[str, str], ...] = tuple((yes, no) for yes, no in _TEXTS["yes_no_words"])

VALIDATION_LABEL_SETS: tuple[str, ...] = tuple(_TEXTS["validation_label_sets"])
"""Never in training: that a set's words work as labels shows that the description was read.

Themes are whole, so that no neighbour of a validation word was trained as a label; the invented and
the coded set have no meaning that a base model could lean on.
"""

VALIDATION_WORDS: frozenset[str] = frozenset(
    word for name in VALIDATION_LABEL_SETS for word in LABEL_SETS[name]
)

UNSEEN_WORDS: frozenset[str] = frozenset(_TEXTS["unseen_words"])
"""No family asks for these words, so that a demonstration can ask for one that is unseen."""
