"""Rows as tokens, batches of a step, validation rows, and the split of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.tasks.task import Example, Metric, Task
from text_to_lora.training.batches import Batch, TrainingBatches, split_by_length
from text_to_lora.training.config import RunConfig
from text_to_lora.training.encoding import RowEncoder, TextEmbeddings, check_positions
from text_to_lora.training.split import TaskSplit, load_tasks, split_by_group
from text_to_lora.training.validation import make_batches as make_validation_batches
from text_to_lora.training.validation import pick_rows
from tiny_models import make_config, make_tokenizer

Settings = Callable[..., RunConfig]
Make = Callable[..., TrainingBatches]
TOKENIZER = make_tokenizer()


def make_encoder(
    prompt: int = 64, answer: int = 16, description: int = 64, **options: Any
) -> RowEncoder:
    limits = {"max_prompt_tokens": prompt, "max_answer_tokens": answer}
    return RowEncoder(TOKENIZER, **limits, max_description_tokens=description, **options)


@pytest.fixture
def tasks(settings: Settings) -> list[Task]:
    return load_tasks(settings().data)


@pytest.fixture
def embeddings(tasks: list[Task]) -> TextEmbeddings:
    texts = list(dict.fromkeys(text for task in tasks for text in task.descriptions))
    return TextEmbeddings(texts, torch.arange(2.0 * len(texts)).view(-1, 2))


@pytest.fixture
def make_batches(tasks: list[Task], embeddings: TextEmbeddings) -> Make:
    def make(
        *,
        seed: int = 1,
        encoder: RowEncoder | None = None,
        table: TextEmbeddings = embeddings,
        **options: int,
    ) -> TrainingBatches:
        sampler = TaskSampler(
            tasks, tasks_per_batch=3, examples_per_task=3, family_share=None, seed=seed
        )
        return TrainingBatches(sampler, encoder or make_encoder(), table, **options)

    return make


def rows_of(batches: list[Batch]) -> Counter[tuple[object, ...]]:
    """Every row with all that its loss depends on."""
    counts: Counter[tuple[object, ...]] = Counter()
    for batch in batches:
        for part in batch.parts:
            for i, row in enumerate(part.rows.unbind()):
                ids = tuple(row.tolist())
                embedding = tuple(batch.embeddings[part.adapters[i]].tolist())
                length = part.rows.answer_lengths[i]
                counts[(ids, length, embedding, part.noise_seeds[i], part.task_names[i])] += 1
    return counts


def test_the_answer_alone_is_learned_and_the_description_stays_out() -> None:
    encoder = make_encoder()
    prompt, answer = encoder.encode("mood", "red")
    assert TOKENIZER.decode(prompt) == "Input: mood\nAnswer:"
    assert TOKENIZER.decode(answer) == " red</s>"
    described, same = encoder.encode("mood", "red", "Say red.")
    assert TOKENIZER.decode(described) == "Task: Say red.\nInput: mood\nAnswer:"
    assert same == answer


def test_long_rows_are_cut_each_at_its_own_limit() -> None:
    encoder = make_encoder(prompt=24, answer=3, description=6)
    prompt, answer = encoder.encode("a" * 30 + "z", "yellow", "describe it")
    text = TOKENIZER.decode(prompt)
    assert text.startswith("Task: descri\n") and text.endswith("az\nAnswer:")
    assert len(prompt) <= 30
    assert TOKENIZER.decode(answer) == " ye"


def test_a_batch_is_a_function_of_seed_and_step(make_batches: Make) -> None:
    one, other = make_batches(), make_batches()
    other[0], other[4]  # whatever was read before
    assert rows_of([one[2]]) == rows_of([other[2]])
    assert one[2].seed == other[2].seed != one[3].seed
    assert rows_of([one[2]]) != rows_of([one[3]])
    assert rows_of([one[2]]) != rows_of([make_batches(seed=2)[2]])


@pytest.mark.parametrize(("processes", "parts"), [(1, 4), (2, 1), (2, 3), (4, 2), (9, 3)])
def test_processes_and_parts_share_out_the_rows_of_a_step(
    make_batches: Make, processes: int, parts: int
) -> None:
    whole = make_batches()[1]
    shares = [
        make_batches(process=process, processes=processes, parts=parts)[1]
        for process in range(processes)
    ]
    assert rows_of(shares) == rows_of([whole])
    for share in shares:
        assert share.total_rows == 9
        assert len(share.parts) == min(parts, sum(len(part.rows) for part in share.parts))
        # The whole step's adapters, in one order, so that dropout is alike everywhere.
        assert torch.equal(share.embeddings, whole.embeddings)
        assert (share.seed, share.texts) == (whole.seed, whole.texts)
    with pytest.raises(ConfigError, match="a step has 9 rows, too few for 10 processes"):
        make_batches(processes=10)


def test_parts_hold_rows_of_like_length() -> None:
    assert list(split_by_length([9, 1, 5, 8, 2], 2)) == [[1, 4], [2, 3, 0]]
    assert list(split_by_length([3, 2], 5)) == [[1], [0]]


def test_the_definition_is_in_the_prompt_when_asked(make_batches: Make) -> None:
    closing = " Please complete the task without any explanation."
    for turn, after in (("system", "\n"), ("user", closing)):
        encoder = make_encoder(in_prompt=True, description_in=turn)
        (part,) = make_batches(encoder=encoder)[0].parts
        for name, ids in zip(part.task_names, part.rows.unbind(), strict=True):
            text = TOKENIZER.decode(ids)
            assert f"Say {name.removeprefix('say-')}.{after}" in text
            assert (closing in text) == (turn == "user")


def test_a_share_of_the_rows_has_the_definition_in_its_prompt(
    tasks: list[Task], make_batches: Make
) -> None:
    encoder = make_encoder(in_prompt=0.25)
    texts = [
        TOKENIZER.decode(ids)
        for step in range(40)
        for part in make_batches(encoder=encoder)[step].parts
        for ids in part.rows.unbind()
    ]
    assert 60 < sum("Say " in text for text in texts) < 120  # of 360
    assert rows_of([make_batches(encoder=encoder)[3]]) == rows_of(
        [make_batches(encoder=encoder)[3]]
    )
    # A row of validation has it only where every row of training has.
    assert encoder.prompt_row("a", "x", tasks[0]) == ("a", "x", None)


def test_an_adapter_for_each_input_when_inputs_are_read(
    tasks: list[Task], make_batches: Make
) -> None:
    inputs = list(dict.fromkeys(e.input for task in tasks for e in task.examples))
    table = TextEmbeddings(inputs, torch.arange(float(len(inputs))).view(-1, 1), reads="input")
    read = make_batches(table=table)[2]
    (plain,), (part,) = make_batches()[2].parts, read.parts
    assert torch.equal(part.rows.tokens, plain.rows.tokens)
    for i, place in enumerate(part.adapters):
        text = inputs[int(read.embeddings[place].item())]
        assert text == read.texts[place] and text in TOKENIZER.decode(part.rows.unbind()[i])
    assert len(read.embeddings) == len(set(part.adapters)) > len(set(plain.adapters))


def test_equal_texts_share_an_adapter() -> None:
    table = TextEmbeddings(["a", "b", "c"], torch.tensor([[1.0], [2.0], [3.0]]))
    vectors, places = table.batch(["c", "a", "c"])
    assert vectors.tolist() == [[3.0], [1.0]]
    assert places == (0, 1, 0)


def test_validation_rows_are_held_out_and_even_over_tasks(tasks: list[Task]) -> None:
    rows = pick_rows(tasks, 9, seed=0)
    counts = Counter(row.task.name for row in rows)
    assert set(counts.values()) == {1, 2} and len(counts) == 6
    held_out = {(task.name, example.input) for task in tasks for example in task.validation()}
    assert {(row.task.name, row.input) for row in rows} <= held_out
    assert len(pick_rows(tasks, 1000, seed=0)) == 12  # as many as there are
    assert len(pick_rows(tasks, 1000, seed=0, held_out=False)) == 120
    assert rows == pick_rows(tasks, 9, seed=0)


def test_a_shuffled_description_is_of_another_group_and_of_other_labels(tasks: list[Task]) -> None:
    by_text = {text: task for task in tasks for text in task.descriptions}
    twins = [replace(task, name=f"{task.name}-twin") for task in tasks[:2]]
    for row in pick_rows([*tasks, *twins], 20, seed=0):
        assert row.shuffled is not None
        other = by_text[row.shuffled]
        assert other.group != row.task.group
        assert other.metric.labels != row.task.metric.labels
    assert pick_rows([tasks[0], twins[0]], 2, seed=0)[0].shuffled is None


def test_validation_batches_hold_every_row_once(
    tasks: list[Task], embeddings: TextEmbeddings
) -> None:
    rows = pick_rows(tasks, 10, seed=0)
    texts = [row.description for row in rows]
    batches = make_validation_batches(rows, texts, make_encoder(), embeddings, size=4)
    assert [batch.total_rows for batch in batches] == [3, 3, 4]
    names = Counter(name for batch in batches for name in batch.parts[0].task_names)
    assert names == Counter(row.task.name for row in rows)
    for batch in batches:
        (part,) = batch.parts
        for name, place in zip(part.task_names, part.adapters, strict=True):
            texts = [row.description for row in rows if row.task.name == name]
            assert batch.embeddings[place].tolist() in embeddings.batch(texts)[0].tolist()


def test_whole_groups_are_set_aside_whatever_other_tasks_there_are(tasks: list[Task]) -> None:
    training, held_out = split_by_group(tasks, 3)
    assert training and held_out
    assert not {task.group for task in training} & {task.group for task in held_out}
    assert split_by_group(training, 3) == (training, [])
    assert split_by_group(tasks, 0) == (tasks, [])


def test_a_split_shortens_descriptions_and_leaves_out_empty_sets(
    tasks: list[Task], settings: Settings
) -> None:
    split = TaskSplit.make(tasks, settings(data={"descriptions_per_task": 1}).data)
    assert {len(task.descriptions) for task in split.training} == {1}
    assert set(split.evaluation) == {"seen_tasks", "unseen_tasks"}
    assert not {t.name for t in split.training} & {t.name for t in split.evaluation["unseen_tasks"]}
    assert TaskSplit.make(tasks, settings(data={"eval_rows": 0}).data).evaluation == {}
    with pytest.raises(ConfigError, match="all 6 tasks are set aside"):
        TaskSplit.make(tasks, settings(data={"validation_one_in": 1}).data)


def test_a_smaller_number_of_tasks_is_a_part_of_a_larger_whatever_their_order(
    tasks: list[Task], settings: Settings
) -> None:
    def names(order: list[Task], **data: int) -> set[str]:
        split = TaskSplit.make(order, settings(data=data).data)
        assert split.evaluation.get("seen_tasks", split.training) == split.training
        return {task.name for task in split.training}

    one, two, every = (names(tasks, count=n) for n in (1, 2, 3))
    assert one < two < every
    assert names(tasks[::-1], count=2) == two
    with pytest.raises(ConfigError, match=r"count is 99, but \d tasks have data\.min_desc.*=1"):
        names(tasks, count=99)


def test_tasks_with_few_descriptions_are_not_trained_on_when_asked(
    tasks: list[Task], settings: Settings
) -> None:
    training, held_out = split_by_group(tasks, 3)
    rich = replace(
        training[0], descriptions=(*training[0].descriptions, "One more.", "And one more.")
    )
    least = len(rich.descriptions)
    chosen = settings(data={"min_descriptions": least}).data
    split = TaskSplit.make([rich, *training[1:], *held_out], chosen)
    assert [task.name for task in split.training] == [rich.name]
    assert {t.name for t in split.evaluation["unseen_tasks"]} == {t.name for t in held_out}


def test_tasks_must_be_there_and_have_names_of_their_own(
    settings: Settings, task_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="no tasks; set "):
        load_tasks(settings(data={"folders": []}).data)
    twice = settings(data={"folders": [str(task_folder), str(task_folder)]})
    with pytest.raises(ConfigError, match="two tasks are named 'say-red'"):
        load_tasks(twice.data)


def test_rows_must_fit_the_positions_of_the_base() -> None:
    base = make_config()  # 256 positions
    check_positions((200, 16), base)
    with pytest.raises(ConfigError, match=r"280 tokens \(200 \+ 16 \+ 64\) .* 256 positions"):
        check_positions((200, 16, 64), base)


def test_rows_train_on_any_accepted_answer_and_validate_on_the_first() -> None:
    rows = tuple(Example("q", ("first", "second"), idx) for idx in (0, 9))
    task = Task("t", "Do it.", (), rows, Metric("exact_match"))
    assert {row.output for row in pick_rows([task], 9, seed=0)} == {"first"}
