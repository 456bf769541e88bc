"""lm-eval's tasks on the live base: conditions of the suite, adapters by row, samples and report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

pytest.importorskip("lm_eval")

import lm_eval

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmark_descriptions import load_descriptions
from text_to_lora.evaluation.conditions import Sources, plan_conditions
from text_to_lora.evaluation.lm_eval import LmEvalScorer, LmEvalTasks
from text_to_lora.evaluation.samples import read_samples, sample_path
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.lora.apply import merge
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.prompts import PromptFormat
from text_to_lora.tasks.task import Row
from tiny_models import adapters_of_texts, make_config, make_tokenizer

COLOURS = ("red", "green", "blue", "grey")
DESCRIPTIONS = {"pick": ("Pick the colour.", "Choose a colour."), "write": ("Write the colour.",)}


@pytest.fixture(scope="module")
def include_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks as lm-eval defines them: one compares options, one asks for a written answer."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"Which colour has number {i}?", "options": list(COLOURS), "answer": i % 4}
        for i in range(6)
    ]
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "num_fewshot": 0,
    }
    tasks = (
        {
            "task": "pick",
            "output_type": "multiple_choice",
            "doc_to_choice": "options",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        {
            "task": "write",
            "output_type": "generate_until",
            "doc_to_target": "{{options[answer]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 400},
            "metric_list": [{"metric": "exact_match"}],
        },
    )
    for task in tasks:
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(shared | task))
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(make_config()).eval()


@pytest.fixture(scope="module")
def tasks(include_path: Path) -> LmEvalTasks:
    return LmEvalTasks(["pick", "write"], DESCRIPTIONS, include_path=include_path)


def adapters_of(base: PreTrainedModel, texts: Sequence[str]) -> LoraWeights:
    spec = LoraSpec.from_config(base.config, targets=["q_proj", "v_proj"], rank=2)
    return adapters_of_texts(spec, texts)


@pytest.fixture
def scorer(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: LmEvalTasks
) -> LmEvalScorer:
    return LmEvalScorer(base, tokenizer, tasks, max_new_tokens=3)


def rows_of(tasks: LmEvalTasks, name: str, *ids: int) -> list[Row]:
    (task,) = (task for task in tasks.tasks if task.name == name)
    return [Row(task, task.examples[idx]) for idx in ids]


def option_nll(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, question: str, option: str
) -> float:
    """Negative log likelihood of an option after a question without description, nats."""
    turns = [{"role": "user", "content": question}]
    prompt = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    after = tokenizer(prompt + option, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = base(torch.tensor([after])).logits[0].log_softmax(-1)
    places = range(len(before), len(after))
    return -sum(float(logits[place - 1, after[place]]) for place in places)


def test_rows_carry_the_question_and_the_right_answer(tasks: LmEvalTasks) -> None:
    for task in tasks.tasks:
        assert [example.outputs[0] for example in task.examples] == [
            COLOURS[i % 4] for i in range(6)
        ]
        assert task.examples[3].input == "Which colour has number 3?"
        assert task.descriptions == DESCRIPTIONS[task.name]


def test_the_likeliest_option_is_the_answer(
    scorer: LmEvalScorer,
    tasks: LmEvalTasks,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = rows_of(tasks, "pick", 4, 1)
    for row, answer in zip(rows, scorer.score(rows), strict=True):
        nlls = [option_nll(base, tokenizer, row.example.input, colour) for colour in COLOURS]
        right = COLOURS.index(row.example.outputs[0])
        assert answer.text == COLOURS[nlls.index(min(nlls))]
        assert answer.score == float(nlls.index(min(nlls)) == right)
        assert answer.nll * answer.tokens == pytest.approx(nlls[right], rel=1e-3)


def test_every_row_is_answered_with_its_own_adapter(
    scorer: LmEvalScorer,
    tasks: LmEvalTasks,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = [*rows_of(tasks, "pick", 5, 0, 2), *rows_of(tasks, "write", 2, 1)]
    weights = adapters_of(base, ["one", "two"])
    places = [1, 0, 1, 0, 1]
    answers = scorer.score(rows, weights=weights, adapters=places)
    for place, adapter in enumerate(places):
        merged = LlamaForCausalLM(base.config).eval()
        merged.load_state_dict(base.state_dict())
        merge(merged, weights.select([adapter]))
        (expected,) = LmEvalScorer(merged, tokenizer, tasks, max_new_tokens=3).score([rows[place]])
        assert answers[place].text == expected.text
        assert answers[place].nll == pytest.approx(expected.nll, rel=1e-3)
    assert answers != scorer.score(rows)


def test_written_answers_have_a_score_and_no_likelihood(
    scorer: LmEvalScorer, tasks: LmEvalTasks
) -> None:
    (answer,) = scorer.score(rows_of(tasks, "write", 1))
    assert (answer.score, answer.tokens) == (0.0, 0)


def test_a_description_stands_in_the_prompt(
    scorer: LmEvalScorer,
    tasks: LmEvalTasks,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of(tasks, "pick", 0, 1)
    described, untold = (
        scorer.score(rows, prompt_texts=[text, None]) for text in ("Name it.", None)
    )
    assert described[0] != untold[0] and described[1] == untold[1]
    logged: list[Any] = []

    def spy(**options: Any) -> Any:
        logged.append(lm_eval.evaluator.evaluate(**options))
        return logged[0]

    monkeypatch.setattr("text_to_lora.evaluation.lm_eval.evaluate", spy)
    scorer.score(rows[:1], prompt_texts=["Name it."])
    expected = PromptFormat.for_tokenizer(tokenizer).encode(
        tokenizer, rows[0].example.input, None, "Name it.", max_length=200
    )
    sample = logged[0]["samples"]["pick"][0]
    prompt = tokenizer(sample["arguments"][0][0], add_special_tokens=False).input_ids
    assert prompt == expected.prompt_ids


def test_another_metric_of_lm_eval_can_be_the_score(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: LmEvalTasks
) -> None:
    scorer = LmEvalScorer(base, tokenizer, tasks, metric="acc_norm")
    rows = rows_of(tasks, "pick", 0, 1, 2, 3)
    for row, answer in zip(rows, scorer.score(rows), strict=True):
        nlls = [option_nll(base, tokenizer, row.example.input, c) / len(c) for c in COLOURS]
        right = COLOURS.index(row.example.outputs[0])
        assert answer.score == float(nlls.index(min(nlls)) == right)


def test_the_suite_reports_and_resumes_tasks_of_lm_eval(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: LmEvalTasks,
    quick_reports: object,
    tmp_path: Path,
) -> None:
    sources = Sources(generate=lambda texts: adapters_of(base, texts))
    kinds = ["base", "in_prompt", "matched", "junk"]
    lines: list[str] = []

    def run() -> dict[str, Any]:
        return evaluate_suite(
            base=base,
            tokenizer=tokenizer,
            tasks=tasks.tasks,
            conditions=plan_conditions(kinds, replace(sources, tasks=tasks.tasks)),
            output_dir=tmp_path,
            rows_per_task=3,
            examples=lambda task: task.examples,
            make_scorer=lambda model: LmEvalScorer(model, tokenizer, tasks, max_new_tokens=3),
            progress=lines.append,
        )

    report = run()
    assert report["conditions"]["matched"]["rows"] == 6
    assert report["measures"]["nll"]["rows"] == 3  # of the task that compares options
    assert report["measures"]["score"]["rows"] == 6
    samples, _ = read_samples(sample_path(tmp_path, "matched"))
    assert {sample.adapter_text for sample in samples} == {"Pick the colour.", "Write the colour."}
    assert {sample.nll is None for sample in samples if sample.task == "write"} == {True}
    assert (tmp_path / "conditions.png").is_file()
    assert run() == report
    assert sum("finished before" in line for line in lines) == 4


def test_examples_of_our_own_are_refused(scorer: LmEvalScorer, tasks: LmEvalTasks) -> None:
    (row,) = rows_of(tasks, "pick", 0)
    with pytest.raises(ConfigError, match="use --num-fewshot, not 'icl'"):
        scorer.score([row], shots=[(row.example,)])


def test_a_task_that_lm_eval_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(lm_eval.tasks.TaskManager, include_defaults=False)  # the index takes seconds
    monkeypatch.setattr("text_to_lora.evaluation.lm_eval.TaskManager", quick)
    with pytest.raises(ConfigError, match=r"cannot load 'no_such_task': .*lm_eval ls tasks"):
        LmEvalTasks(["no_such_task"], {})


def test_a_task_without_description_is_named(include_path: Path) -> None:
    with pytest.raises(ConfigError, match="no description of pick; add it to a YAML file"):
        LmEvalTasks(["pick"], {"write": ("Write.",)}, include_path=include_path)


def test_a_task_without_answers_is_refused(include_path: Path, tmp_path: Path) -> None:
    definition = yaml.safe_load((include_path / "write.yaml").read_text())
    del definition["generation_kwargs"]
    definition |= {
        "doc_to_text": "",
        "task": "read",
        "output_type": "loglikelihood_rolling",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    (tmp_path / "read.yaml").write_text(yaml.safe_dump(definition))
    with pytest.raises(
        ConfigError, match="'read' asks for 'loglikelihood_rolling'; tasks with mul"
    ):
        LmEvalTasks(["read"], {"read": ("Read.",)}, include_path=tmp_path)


def test_a_perplexity_is_no_score(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, include_path: Path, tmp_path: Path
) -> None:
    definition = yaml.safe_load((include_path / "write.yaml").read_text())
    del definition["generation_kwargs"]
    definition |= {
        "task": "last",
        "output_type": "loglikelihood",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    }
    (tmp_path / "last.yaml").write_text(yaml.safe_dump(definition))
    tasks = LmEvalTasks(["last"], {"last": ("Name it.",)}, include_path=tmp_path)
    (row,) = rows_of(tasks, "last", 2)
    (answer,) = LmEvalScorer(base, tokenizer, tasks).score([row])
    assert answer.score == 0.0  # of the accuracy; the log likelihood is below zero
    nll = option_nll(base, tokenizer, row.example.input, row.example.outputs[0])
    assert answer.nll * answer.tokens == pytest.approx(nll, rel=0.2)  # with a space before it


def test_descriptions_of_the_package_are_read() -> None:
    descriptions = load_descriptions()
    assert len(descriptions["arc_easy"]) == 3
    assert descriptions["boolq"][0].startswith("Read the passage")


def test_own_descriptions_are_texts_or_lists(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("pick: Pick it.\nwrite: [Write it., Put it down.]\n")
    assert load_descriptions(path) == {
        "pick": ("Pick it.",),
        "write": ("Write it.", "Put it down."),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pick: [1]", r"gives the descriptions \[1\] of 'pick'"),
        ("pick:", r"gives the descriptions \[\] of 'pick'"),
        ("a: [b", "cannot read the descriptions"),
        ("only a text", "of ''"),
    ],
)
def test_descriptions_of_another_form_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_descriptions(path)


def test_programs_are_run_only_when_allowed(tasks: LmEvalTasks, monkeypatch: Any) -> None:
    tasks.check_code(False)
    monkeypatch.setattr(tasks.inner["write"], "UNSAFE_CODE", True, raising=False)
    tasks.check_code(True)
    with pytest.raises(ConfigError, match="write run programs that the model wrote; pass --allow"):
        tasks.check_code(False)
