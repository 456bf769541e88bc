from text_to_lora.tasks.overlap import Overlap, find_overlaps, normalize
from text_to_lora.tasks.task import Example, Metric, Task


def make_task(name: str, description: str, *inputs: str) -> Task:
    examples = tuple(Example(text, ("x",), i) for i, text in enumerate(inputs))
    return Task(name, description, (), examples, Metric("exact_match"))


def test_normalizing_drops_case_spaces_and_punctuation() -> None:
    assert normalize(" Hello,  World! 3") == "hello world 3"


def test_equal_and_nearly_equal_texts_are_found_and_others_are_not() -> None:
    train = make_task("train", "Say it.", "the cat sat", "A dog, ran!", "alone", "!?")
    held = make_task("held", "say it", "the cat sat", "a dog ran", "other", "...")
    assert find_overlaps([train], [held]) == [
        Overlap("description", "train", "held", "Say it.", exact=False),
        Overlap("input", "train", "held", "the cat sat", exact=True),
        Overlap("input", "train", "held", "A dog, ran!", exact=False),
    ]


def test_short_texts_can_be_passed_over() -> None:
    train, held = make_task("train", "One.", "cat"), make_task("held", "Two.", "cat")
    assert find_overlaps([train], [held], min_words=2) == []
    assert len(find_overlaps([train], [held])) == 1
