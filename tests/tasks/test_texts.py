"""Forms in which texts are compared."""

import pytest

from text_to_lora.tasks.texts import normalize_answer, plain_words


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        ("Sci / Tech", "sci/tech"),
        ("Not  paraphrase.", "not paraphrase"),
        ("don ' t", "don't"),
        ("1 , 2", "1, 2"),
        (" -3", "-3"),
    ],
)
def test_case_spacing_and_full_stop_do_not_count(answer: str, output: str) -> None:
    assert normalize_answer(answer) == normalize_answer(output)


@pytest.mark.parametrize(
    ("answer", "output"), [("-3", "3"), ("1 2", "12"), ("yes!", "yes"), ("c++", "c")]
)
def test_other_signs_count(answer: str, output: str) -> None:
    assert normalize_answer(answer) != normalize_answer(output)


def test_plain_words_have_no_case_spaces_or_punctuation() -> None:
    assert plain_words(" Hello,  World! 3") == "hello world 3"
