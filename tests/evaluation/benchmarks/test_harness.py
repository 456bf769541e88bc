"""lm-eval's own tasks on ten rows a benchmark, with adapters, without a network."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.evaluation.benchmarks import harness
from text_to_lora.evaluation.benchmarks.catalogue import BENCHMARKS, BenchmarkTask
from text_to_lora.evaluation.benchmarks.harness import HFEngine, TaskResult, load_task, run_task
from text_to_lora.evaluation.benchmarks.rows import read_rows
from text_to_lora.lora.apply import merge
from text_to_lora.lora.peft_format import load_adapter
from text_to_lora.tasks.prompts import PromptFormat

from .conftest import ROWS, adapters_of

TASKS = {task.name: task for benchmark in BENCHMARKS for task in benchmark.tasks}


def right_option(task: str, row: Mapping[str, Any]) -> int:
    """Place of the right option, read off the columns of the hub."""
    match task:
        case "arc_easy" | "arc_challenge" | "openbookqa":
            return int(row["choices"]["label"].index(row["answerKey"]))
        case "winogrande":
            return int(row["answer"]) - 1
        case "pubmedqa":
            return ("yes", "no", "maybe").index(row["final_decision"])
        case _:
            return int(row["label"])


def right_answer(task: str, row: Mapping[str, Any]) -> str:
    """A right answer that is written out."""
    match task:
        case "gsm8k":
            return f"I count 99 steps. It is {row['answer'].split('#### ')[1]}."
        case "humaneval":
            return str(row["canonical_solution"])
        case "mbpp":
            return str(row["code"])
        case _:
            return f" {row['answer'].upper()}."


class Oracle(LM):  # type: ignore[misc]
    """Knows every answer, or takes care to give none that is right."""

    max_length, max_gen_toks = 4096, 256

    def __init__(self, task: str, *, right: bool) -> None:
        super().__init__()
        self.task, self.right = task, right

    def tok_encode(self, text: str) -> list[int]:
        return list(text.encode())

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        hits = [request.idx == right_option(self.task, request.doc) for request in requests]
        return [(-1.0 if hit == self.right else -500.0, False) for hit in hits]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return [right_answer(self.task, r.doc) if self.right else " 98" for r in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def runs(code: str, tests: str) -> bool:
    """Run programs of our own rows in this process."""
    try:
        exec(f"{code}\n{tests}", {})
    except Exception:
        return False
    return True


@cache
def load(name: str) -> harness.LoadedTask:
    """Load a task once; nothing of a run stays in it."""
    return load_task(TASKS[name], rows=read_rows(ROWS, TASKS[name]), run_code=runs)


@pytest.fixture(scope="module")
def engine(base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> HFEngine:
    return HFEngine(base, tokenizer, batch_size=20)


def score(engine: HFEngine, name: str, **options: Any) -> TaskResult:
    given: dict[str, Any] = {"prompt_form": "chat", "shots": 0, "max_new_tokens": 3}
    with engine.using(options.pop("weights", None)) as model:
        return run_task(model, load(name), **(given | options))


@pytest.mark.parametrize("name", TASKS)
def test_every_benchmark_scores_right_answers_only(name: str) -> None:
    task, loaded = TASKS[name], load(name)
    right, wrong = (
        run_task(Oracle(name, right=right), loaded, prompt_form="plain", shots=0)
        for right in (True, False)
    )
    assert len(right.questions) == len(read_rows(ROWS, task)[task.split])
    assert [q.value for q in right.questions] == [1.0] * len(right.questions)
    assert [q.value for q in wrong.questions] == [0.0] * len(right.questions)
    assert right.scores[f"{task.metric},{task.filter}"]["value"] == 1.0
    assert (right.max_new_tokens is None) == (task.chance > 0)


@pytest.mark.parametrize("name", TASKS)
def test_every_benchmark_runs_with_an_adapter_on_the_base(
    engine: HFEngine, base: PreTrainedModel, name: str
) -> None:
    weights = adapters_of(base, ["a description"])
    plain = score(engine, name, limit=2)
    changed = score(engine, name, limit=2, weights=weights)
    again = score(engine, name, limit=2)
    assert [q.doc_id for q in changed.questions] == [0, 1]
    assert again == plain
    assert [q.prompt for q in changed.questions] == [q.prompt for q in plain.questions]


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_likelihoods_are_those_of_the_merged_model(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, form: Any
) -> None:
    weights = adapters_of(base, ["a description"])
    merged = copy.deepcopy(base)
    merge(merged, weights)
    pairs = [("Question: why?\nAnswer:", " because"), ("Two", " and three"), ("A longer one", " x")]
    requests = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
    engine = HFEngine(base, tokenizer, batch_size=3, prompt_form=form)
    with engine.using(weights) as model:
        given = model.loglikelihood(requests, disable_tqdm=True)
    with engine.using(None) as model:
        alone = model.loglikelihood(requests, disable_tqdm=True)
    for (context, continuation), (nats, _), (unlike, _) in zip(pairs, given, alone, strict=True):
        ids = tokenizer(context + continuation, add_special_tokens=False).input_ids
        number = len(tokenizer(continuation, add_special_tokens=False).input_ids)
        with torch.no_grad():
            logits = merged(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(logits[place - 1, ids[place]]) for place in range(-number, 0))
        assert nats == pytest.approx(expected, abs=1e-3)  # sums of float32 in another order
        assert abs(nats - unlike) > 0.1
    with pytest.raises(SpecError, match="inside adapted"), engine.using(weights):
        merge(base, weights)


def test_written_answers_are_those_of_the_merged_model(
    engine: HFEngine, base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    weights = adapters_of(base, ["another description"])
    merged = copy.deepcopy(base)
    merge(merged, weights)
    name = "legalbench_proa"
    given = score(engine, name, weights=weights, max_new_tokens=4)
    expected = score(HFEngine(merged, tokenizer, batch_size=1), name, max_new_tokens=4)
    assert given == expected
    assert given != score(engine, name, max_new_tokens=4)


def test_chat_prompts_are_those_that_adapters_are_trained_on(
    engine: HFEngine, tokenizer: PreTrainedTokenizerFast
) -> None:
    row = read_rows(ROWS, TASKS["arc_easy"])["test"][0]
    text = f"Question: {row['question']}\nAnswer:"
    ours = PromptFormat.for_tokenizer(tokenizer)
    plain = score(engine, "arc_easy", limit=1).questions[0]
    told = score(engine, "arc_easy", limit=1, system="Choose well.").questions[0]
    assert plain.prompt == ours.prompt(text)
    assert told.prompt == ours.prompt(text, "Choose well.")
    assert plain.target == "0"
    assert plain.answer in row["choices"]["text"]


def test_plain_prompts_are_lm_evals_with_the_description_before_them(engine: HFEngine) -> None:
    question = score(engine, "arc_easy", limit=1, prompt_form="plain", system="Choose.")
    text = "Question: Which animal lays eggs?\nAnswer:"
    assert question.questions[0].prompt == f"Choose.\n\n{text}"


def test_a_template_without_a_system_turn_loses_no_description(base: PreTrainedModel) -> None:
    from tiny_models import TEMPLATE, make_tokenizer

    strict = make_tokenizer()
    strict.chat_template = TEMPLATE.replace(
        "Task: {{ message['content'] }}\n", "{{ raise_exception('no system turn') }}"
    )
    engine = HFEngine(base, strict, batch_size=2)
    prompt = score(engine, "arc_easy", limit=1, system="Choose well.").questions[0].prompt
    assert prompt.startswith("Input: Choose well.\n\nQuestion:")


def test_a_base_without_template_gets_plain_prompts_or_a_clear_line(
    base: PreTrainedModel,
) -> None:
    from tiny_models import make_tokenizer

    bare = make_tokenizer()
    bare.chat_template = None
    assert HFEngine(base, bare, batch_size=2).prompt_form == "plain"
    with pytest.raises(ConfigError, match="no chat template; use --prompt plain"):
        HFEngine(base, bare, batch_size=2, prompt_form="chat")


def test_programs_are_the_answer_with_the_tests_of_their_row(engine: HFEngine) -> None:
    seen: list[tuple[str, str]] = []

    def note(code: str, tests: str) -> bool:
        seen.append((code, tests))
        return len(seen) == 1

    values = []
    for name in ("humaneval", "mbpp"):
        task = TASKS[name]
        loaded = load_task(task, rows=read_rows(ROWS, task), run_code=note)
        with engine.using(None) as model:
            result = run_task(
                model, loaded, prompt_form="plain", shots=0, limit=2, max_new_tokens=3
            )
        values += [q.value for q in result.questions]
    assert values == [1.0, 0.0, 0.0, 0.0]
    assert seen[0][0].startswith('def add_one(n):\n    """Return n plus one."""\n')
    assert seen[0][1].endswith("check(add_one)")
    assert "assert first('ab') == 'a'" in seen[3][1]


def test_examples_come_from_training_rows_and_one_condition_does_not_change_the_next(
    engine: HFEngine,
) -> None:
    loaded = load("gsm8k")
    with engine.using(None) as model:
        counts, own = [], []
        for shots in (None, 0, 3, None):
            result = run_task(
                model, loaded, prompt_form="plain", shots=shots, limit=1, max_new_tokens=2
            )
            counts.append(len(re.findall("Question:", result.questions[0].prompt)) - 1)
            own.append(result.shots)
    assert counts == own == [5, 0, 3, 5]


def test_examples_that_are_not_there_are_never_taken_from_scored_rows(engine: HFEngine) -> None:
    with pytest.raises(ConfigError, match=r"'arc_easy' is given 2 examples .* but has 0; add rows"):
        score(engine, "arc_easy", shots=2)


def test_prompts_that_do_not_fit_are_counted(engine: HFEngine, tmp_path: Path) -> None:
    row = {"question": "q", "passage": "word " * 200, "label": 1}
    rows = [row, {**row, "passage": "short"}]
    loaded = load_task(TASKS["boolq"], rows={"validation": rows}, run_code=None)
    with engine.using(None) as model:
        result = run_task(model, loaded, prompt_form="chat")
    assert [q.cut for q in result.questions] == [True, False]


def test_figures_of_all_filters_are_logged(engine: HFEngine) -> None:
    result = score(engine, "gsm8k", limit=2)
    logged = json.loads(result.questions[0].metrics)
    assert set(logged) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    assert set(result.scores) == set(logged)


def test_rows_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to the hub\nmore")

    monkeypatch.setattr(harness.datasets, "load_dataset", unreachable)
    with pytest.raises(ConfigError, match="cannot load 'piqa' from the hub: no route") as caught:
        load_task(TASKS["piqa"], rows=None, run_code=None)
    assert "--rows-dir" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pubmedqa_comes_from_a_set_that_is_no_script(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    rows = read_rows(ROWS, TASKS["pubmedqa"])["test"]

    def hub(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return rows

    monkeypatch.setattr(harness.datasets, "load_dataset", hub)
    loaded = load_task(TASKS["pubmedqa"], rows=None, run_code=None)
    assert asked == [(("qiaojin/PubMedQA", "pqa_labeled"), {"split": "train"})]
    assert [doc["final_decision"] for doc in loaded.inner.eval_docs] == [
        row["final_decision"] for row in rows
    ]
    result = run_task(Oracle("pubmedqa", right=True), loaded, prompt_form="plain", shots=0)
    assert rows[0]["question"] in result.questions[0].prompt
    with pytest.raises(ConfigError, match="'pubmedqa' is given 2 examples"):
        run_task(Oracle("pubmedqa", right=True), loaded, prompt_form="plain", shots=2)


def test_loading_a_task_of_code_leaves_the_package_of_metrics_as_it_was() -> None:
    before = harness.hf_evaluate.load
    task = TASKS["humaneval"]
    load_task(task, rows=read_rows(ROWS, task), run_code=runs)
    assert harness.hf_evaluate.load is before


def test_vllm_that_is_not_installed_is_one_line() -> None:
    from importlib.util import find_spec

    if find_spec("vllm") is not None:
        pytest.skip("vllm is installed")
    with pytest.raises(ConfigError, match="needs the package 'vllm' and a GPU"):
        harness.VLLMEngine("a-base", batch_size=1)


def test_vllm_is_given_the_adapter_as_a_peft_folder(
    monkeypatch: pytest.MonkeyPatch,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    """Of the interface alone: vLLM itself has not been run."""
    given: list[dict[str, Any]] = []
    read: list[Any] = []

    class Recorded:
        def __init__(self, **options: Any) -> None:
            given.append(options)
            self.model = object()
            if folder := options.get("lora_local_path"):
                read.append(load_adapter(folder, base_config=base.config))

    fake = ModuleType("lm_eval.models.vllm_causallms")
    fake.VLLM = Recorded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: fake if name == "vllm" else find(name, *a)
    )
    tokenizer.save_pretrained(tmp_path)
    engine = harness.VLLMEngine(tmp_path, batch_size=4, dtype="bfloat16")
    weights = adapters_of(base, ["a description"])
    with engine.using(None), engine.using(weights):
        pass
    assert not engine.verified
    assert "lora_local_path" not in given[0]
    assert (given[1]["pretrained"], given[1]["dtype"]) == (str(tmp_path), "bfloat16")
    assert given[1]["max_lora_rank"] == 8
    for group in weights.spec.groups:
        expected = weights.delta(group.key)
        assert torch.allclose(read[0].delta(group.key), expected, atol=1e-5)


@pytest.mark.parametrize(("rank", "allowed"), [(1, 8), (8, 8), (9, 16), (512, 512)])
def test_vllm_reads_the_peft_folder_at_a_rank_that_it_takes(rank: int, allowed: int) -> None:
    options = harness.vllm_adapter_options(Path("folder"), rank)
    assert options == {"lora_local_path": "folder", "max_lora_rank": allowed}
    with pytest.raises(ConfigError, match="rank is 513; vLLM takes at most 512"):
        harness.vllm_adapter_options(Path("folder"), 513)


def test_every_task_of_the_catalogue_is_lm_evals() -> None:
    task: BenchmarkTask
    for task in TASKS.values():
        config = load(task.name).inner.config
        assert config.task == task.name
        if not task.runs_code:
            metrics = {entry["metric"] for entry in config.metric_list}
            assert task.metric in metrics
