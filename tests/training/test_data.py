import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.tasks.task import Example, Metric, Task
from text_to_lora.training.config import RunConfig
from text_to_lora.training.data import (
    Batch,
    Descriptions,
    Part,
    RowEncoder,
    TaskSplit,
    TrainingBatches,
    check_context,
    eval_batches,
    load_tasks,
    pick_eval_rows,
    split_by_group,
    split_by_length,
    warn_long,
)
from tiny_models import make_config, make_tokenizer

Settings = Callable[..., RunConfig]


def make_encoder(
    prompt: int = 64,
    answer: int = 16,
    description: int = 64,
    description_in: Literal["system", "user"] = "system",
) -> RowEncoder:
    return RowEncoder(
        make_tokenizer(),
        description_in=description_in,
        max_prompt_tokens=prompt,
        max_answer_tokens=answer,
        max_description_tokens=description,
    )


@pytest.fixture
def tasks(settings: Settings) -> list[Task]:
    return load_tasks(settings().data)


@pytest.fixture
def descriptions(tasks: list[Task]) -> Descriptions:
    texts = list(dict.fromkeys(text for task in tasks for text in task.descriptions))
    return Descriptions(texts, torch.arange(2.0 * len(texts)).view(-1, 2))


@pytest.fixture
def make_batches(tasks: list[Task], descriptions: Descriptions) -> Callable[..., TrainingBatches]:
    def make(seed: int = 1, encoder: RowEncoder | None = None, **options: Any) -> TrainingBatches:
        sampler = TaskSampler(
            tasks, tasks_per_batch=3, examples_per_task=3, family_share=None, seed=seed
        )
        encoder = encoder or make_encoder()
        return TrainingBatches(sampler, encoder, descriptions, steps=5, **options)

    return make


def rows_of(batches: list[Batch]) -> Counter[tuple[object, ...]]:
    """Every row with all that its loss depends on."""
    found: Counter[tuple[object, ...]] = Counter()
    for batch in batches:
        for part in batch.parts:
            for i, row in enumerate(part.student.unbind()):
                ids = row.tolist()
                labels = ids[-part.student.answer_lengths[i] :]
                embedding = batch.embeddings[part.rows[i]].tolist()
                key = (*ids, "|", *labels, "|", *embedding, part.noise_seeds[i])
                found[(*key, part.task_names[i])] += 1
    return found


def test_the_answer_alone_is_learned_and_the_description_stays_out() -> None:
    encoder, tokenizer = make_encoder(), make_tokenizer()
    prompt, answer = encoder.encode("mood", "red")
    assert tokenizer.decode(prompt) == "Input: mood\nAnswer:"
    assert tokenizer.decode(answer) == " red</s>"
    told, same = encoder.encode("mood", "red", "Say red.")
    assert tokenizer.decode(told) == "Task: Say red.\nInput: mood\nAnswer:"
    assert same == answer


def test_long_rows_are_cut_each_at_its_own_limit() -> None:
    encoder, tokenizer = make_encoder(prompt=24, answer=3, description=6), make_tokenizer()
    prompt, answer = encoder.encode("a" * 30 + "z", "yellow", "describe it")
    text = tokenizer.decode(prompt)
    assert text.startswith("Task: descri\n") and text.endswith("az\nAnswer:")
    assert len(prompt) <= 30
    assert tokenizer.decode(answer) == " ye"


def test_a_batch_is_a_function_of_seed_and_step(
    make_batches: Callable[..., TrainingBatches],
) -> None:
    one, other = make_batches(), make_batches()
    other[0], other[4]  # whatever was read before
    assert rows_of([one[2]]) == rows_of([other[2]])
    assert one[2].seed == other[2].seed != one[3].seed
    assert rows_of([one[2]]) != rows_of([one[3]])
    assert rows_of([one[2]]) != rows_of([make_batches(seed=2)[2]])


@pytest.mark.parametrize(("processes", "parts"), [(1, 4), (2, 1), (2, 3), (4, 2), (9, 3)])
def test_processes_and_parts_share_out_the_rows_of_a_step(
    make_batches: Callable[..., TrainingBatches], processes: int, parts: int
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
        assert share.seed == whole.seed


def test_parts_hold_rows_of_like_length() -> None:
    groups = list(split_by_length([9, 1, 5, 8, 2], 2))
    assert groups == [[1, 4], [2, 3, 0]]
    assert list(split_by_length([3, 2], 5)) == [[1], [0]]


def test_too_few_rows_for_the_processes_are_refused(
    make_batches: Callable[..., TrainingBatches],
) -> None:
    with pytest.raises(ConfigError, match="a step has 9 rows, too few for 10 processes"):
        make_batches(processes=10)


def test_the_teacher_reads_the_description_and_the_same_answer(
    make_batches: Callable[..., TrainingBatches],
) -> None:
    tokenizer = make_tokenizer()
    for part in make_batches(distill=True, parts=2)[0].parts:
        assert part.teacher is not None
        assert torch.equal(part.teacher.targets, part.student.targets)
        for name, ids in zip(part.task_names, part.teacher.unbind(), strict=True):
            assert name.removeprefix("say-") in tokenizer.decode(ids).partition("Input:")[0]


def test_a_swapped_row_keeps_its_input_and_is_told_another_task_by_the_teacher(
    make_batches: Callable[..., TrainingBatches],
) -> None:
    plain, swapped = make_batches()[2].parts[0], make_batches(swapped=1)[2].parts[0]
    own = {seed: place for place, seed in enumerate(plain.noise_seeds)}
    tokenizer = make_tokenizer()

    def prompt(part: Part, row: int) -> list[int]:
        ids: list[int] = part.student.unbind()[row].tolist()
        return ids[: -part.student.answer_lengths[row]]

    assert sum(swapped.swapped) == 3  # one row of each of three tasks
    assert swapped.taught == tuple(i for i, other in enumerate(swapped.swapped) if other)
    for i, seed in enumerate(swapped.noise_seeds):
        before = own[seed]
        assert prompt(swapped, i) == prompt(plain, before)
        assert (swapped.task_names[i] != plain.task_names[before]) is swapped.swapped[i]
        answer = swapped.student.unbind()[i][-swapped.student.answer_lengths[i] :].tolist()
        assert tokenizer.decode(answer).strip() == (
            swapped.task_names[i].removeprefix("say-") + "</s>"
        )
    assert swapped.teacher is not None
    for row, i in enumerate(swapped.taught):
        told = tokenizer.decode(swapped.teacher.unbind()[row]).partition("Input:")[0]
        assert swapped.task_names[i].removeprefix("say-") in told


def test_rows_are_swapped_from_a_step_on(make_batches: Callable[..., TrainingBatches]) -> None:
    plain, later = make_batches(), make_batches(swapped=1, swapped_after=3)
    assert rows_of([later[2]]) == rows_of([plain[2]])
    assert not any(later[2].parts[0].swapped) and later[2].parts[0].teacher is None
    assert sum(later[3].parts[0].swapped) == 3


def test_swapping_needs_another_task_and_a_row_that_is_not_swapped(
    make_batches: Callable[..., TrainingBatches],
) -> None:
    with pytest.raises(ConfigError, match=r"swapped_examples is 3 of data\.examples_per_task=3"):
        make_batches(swapped=3)


def test_the_definition_is_in_the_prompt_when_asked(
    make_batches: Callable[..., TrainingBatches],
) -> None:
    own, paper = (
        make_batches(in_prompt=True, encoder=make_encoder(description_in=turn))[0].parts[0]
        for turn in ("system", "user")
    )
    closing = " Please complete the task without any explanation."
    for part, after in ((own, "\n"), (paper, closing)):
        for name, ids in zip(part.task_names, part.student.unbind(), strict=True):
            text = make_tokenizer().decode(ids)
            assert f"Say {name.removeprefix('say-')}.{after}" in text
    assert closing not in make_tokenizer().decode(own.student.unbind()[0])


def test_an_adapter_for_each_input_when_inputs_are_read(
    tasks: list[Task], make_batches: Callable[..., TrainingBatches]
) -> None:
    inputs = list(dict.fromkeys(e.input for task in tasks for e in task.examples))
    table = Descriptions(inputs, torch.arange(float(len(inputs))).view(-1, 1))
    sampler = TaskSampler(tasks, tasks_per_batch=3, examples_per_task=3, family_share=None, seed=1)
    read = TrainingBatches(sampler, make_encoder(), table, steps=5, reads_input=True)[2]
    (plain,) = make_batches()[2].parts
    (part,) = read.parts
    assert torch.equal(part.student.tokens, plain.student.tokens)
    tokenizer = make_tokenizer()
    for i, place in enumerate(part.rows):
        text = inputs[int(read.embeddings[place].item())]
        assert text in tokenizer.decode(part.student.unbind()[i])
    assert len(read.embeddings) == len(set(part.rows))
    assert len(read.embeddings) > len(set(plain.rows))


def test_the_papers_protocol_puts_the_definition_into_the_users_turn() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    sizes = {"max_prompt_tokens": 64, "max_answer_tokens": 16, "max_description_tokens": 64}
    encoder = RowEncoder(tokenizer, description_in="user", **sizes)
    prompt, _ = encoder.encode("mood", "red", "Say red.")
    assert tokenizer.decode(prompt) == "<user>Say red.\n\nmood</s><assistant>"


def test_equal_texts_share_an_adapter() -> None:
    descriptions = Descriptions(["a", "b", "c"], torch.tensor([[1.0], [2.0], [3.0]]))
    embeddings, rows = descriptions.batch(["c", "a", "c"])
    assert embeddings.tolist() == [[3.0], [1.0]]
    assert rows == (0, 1, 0)


def test_validation_rows_are_held_out_and_even_over_tasks(tasks: list[Task]) -> None:
    rows = pick_eval_rows(tasks, 9, seed=0)
    counts = Counter(row.task.name for row in rows)
    assert set(counts.values()) == {1, 2} and len(counts) == 6
    held_out = {(task.name, example.input) for task in tasks for example in task.validation()}
    assert {(row.task.name, row.input) for row in rows} <= held_out
    assert len(pick_eval_rows(tasks, 1000, seed=0)) == 12  # as many as there are
    assert len(pick_eval_rows(tasks, 1000, seed=0, held_out=False)) == 120
    assert rows == pick_eval_rows(tasks, 9, seed=0)


def test_a_shuffled_description_is_of_another_group_and_of_other_labels(
    tasks: list[Task],
) -> None:
    by_text = {text: task for task in tasks for text in task.descriptions}
    twins = [replace(task, name=f"{task.name}-twin") for task in tasks[:2]]
    for row in pick_eval_rows([*tasks, *twins], 20, seed=0):
        assert row.shuffled is not None
        other = by_text[row.shuffled]
        assert other.group != row.task.group
        assert other.metric.labels != row.task.metric.labels
    assert pick_eval_rows([tasks[0], twins[0]], 2, seed=0)[0].shuffled is None


def test_validation_batches_hold_every_row_once(
    tasks: list[Task], descriptions: Descriptions
) -> None:
    rows = pick_eval_rows(tasks, 10, seed=0)
    texts = [row.description for row in rows]
    batches = eval_batches(rows, texts, make_encoder(), descriptions, size=4)
    assert [batch.total_rows for batch in batches] == [3, 3, 4]
    names = Counter(name for batch in batches for name in batch.parts[0].task_names)
    assert names == Counter(row.task.name for row in rows)
    for batch in batches:
        (part,) = batch.parts
        for i, name in enumerate(part.task_names):
            own = descriptions.batch([row.description for row in rows if row.task.name == name])
            assert batch.embeddings[part.rows[i]].tolist() in own[0].tolist()


def test_whole_groups_are_set_aside_whatever_other_tasks_there_are(tasks: list[Task]) -> None:
    kept, aside = split_by_group(tasks, 3)
    assert kept and aside
    assert not {task.group for task in kept} & {task.group for task in aside}
    assert split_by_group(kept, 3) == (kept, [])
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
    kept, aside = split_by_group(tasks, 3)
    rich = replace(kept[0], descriptions=(*kept[0].descriptions, "One more.", "And one more."))
    least = len(rich.descriptions)
    chosen = settings(data={"min_descriptions": least}).data
    split = TaskSplit.make([rich, *kept[1:], *aside], chosen)
    assert [task.name for task in split.training] == [rich.name]
    assert {t.name for t in split.evaluation["unseen_tasks"]} == {t.name for t in aside}


def test_tasks_must_be_there_and_have_names_of_their_own(
    settings: Settings, task_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="no tasks; set "):
        load_tasks(settings(data={"folders": []}).data)
    twice = settings(data={"folders": [str(task_folder), str(task_folder)]})
    with pytest.raises(ConfigError, match="two tasks are named 'say-red'"):
        load_tasks(twice.data)


def test_rows_must_fit_the_positions_of_the_base(settings: Settings) -> None:
    base = make_config()  # 256 positions
    data = settings(data={"max_prompt_tokens": 200}).data
    check_context(data, base, described=False)
    with pytest.raises(ConfigError, match=r"280 tokens \(200 \+ 16 \+ 64\) .* 256 positions"):
        check_context(data, base, described=True)


def test_long_descriptions_are_warned_of_once() -> None:
    with pytest.warns(T2LWarning, match="reads 5 tokens of a description; 2 of 3 are longer"):
        warn_long(["a", "b", "c"], [5, 6, 7], 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_long(["a"], [5], 5)


def test_rows_train_on_any_accepted_answer_and_validate_on_the_first() -> None:
    rows = tuple(Example("q", ("first", "second"), idx) for idx in (0, 9))
    task = Task("t", "Do it.", (), rows, Metric("exact_match"))
    assert {row.output for row in pick_eval_rows([task], 9, seed=0)} == {"first"}
