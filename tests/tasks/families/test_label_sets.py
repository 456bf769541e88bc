from text_to_lora.tasks.families.label_sets import (
    LABEL_SETS,
    UNSEEN_WORDS,
    VALIDATION_LABEL_SETS,
    VALIDATION_WORDS,
    YES_NO_WORDS,
)


def test_a_set_has_enough_different_words_for_any_task() -> None:
    for name, words in LABEL_SETS.items():
        assert len(words) == len(set(words)) >= 7, name


def test_validation_words_are_in_no_training_set() -> None:
    training = {
        word.lower()
        for name, words in LABEL_SETS.items()
        if name not in VALIDATION_LABEL_SETS
        for word in words
    } | {word.lower() for pair in YES_NO_WORDS for word in pair}
    assert {word.lower() for word in VALIDATION_WORDS}.isdisjoint(training)
    assert set(VALIDATION_LABEL_SETS) <= set(LABEL_SETS)


def test_unseen_words_are_in_no_set() -> None:
    assert UNSEEN_WORDS.isdisjoint(word for words in LABEL_SETS.values() for word in words)
