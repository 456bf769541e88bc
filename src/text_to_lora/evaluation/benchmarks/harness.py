"""lm-eval with our adapters applied: the one file that knows its interfaces (release 0.4.13)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import evaluate as hf_evaluate
import lm_eval
from lm_eval.api.task import datasets  # rows are given to lm-eval in the package that it reads
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from text_to_lora.errors import BackendError, ConfigError
from text_to_lora.evaluation.benchmarks.catalogue import BenchmarkTask
from text_to_lora.evaluation.benchmarks.questions import Question
from text_to_lora.evaluation.benchmarks.rows import Rows
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.chat_template import TEMPLATE_OPTIONS, fix_clock
from text_to_lora.tasks.prompts import PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PromptForm = Literal["chat", "plain"]

RunCode = Callable[[str, str], bool]
"""(code, tests) -> whether the tests pass."""

LM_EVAL_VERSION: Final = version("lm_eval")
BOOTSTRAP: Final = 1000  # of lm-eval's standard errors of metrics that are no means; none here is
FEWSHOT_SEED: Final = 1234  # lm-eval's own default
VLLM_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes as max_lora_rank


@dataclass(frozen=True)
class TaskResult:
    """What lm-eval makes of one task under one condition.

    scores: lm-eval's own, by "metric,filter": value and stderr (None where it gives none)
    shots: examples in the prompt; version: of the task's definition
    max_new_tokens: of an answer; None where options are compared
    """

    questions: list[Question]
    scores: dict[str, dict[str, float | None]]
    shots: int
    version: str
    max_new_tokens: int | None


@dataclass(frozen=True)
class LoadedTask:
    """A task of lm-eval with its rows.

    inner: lm-eval's object
    shots: examples that its definition puts into the prompt; None where it says nothing
    answer_length: most tokens of an answer by its definition; None where it says nothing
    """

    task: BenchmarkTask
    inner: Any
    shots: int | None
    answer_length: int | None


class Engine(Protocol):
    """A base model as lm-eval runs it, with one adapter or none.

    verified: whether this path has been run as a whole
    """

    name: str
    verified: bool
    tokenizer: PreTrainedTokenizerBase
    prompt_form: PromptForm

    @contextmanager
    def using(self, weights: LoraWeights | None) -> Iterator[Any]:
        """Give lm-eval's model with this adapter for a `with` block."""
        ...


class HFEngine:
    """lm-eval's Hugging Face model around a live base; `adapted` puts the adapter on it.

    The base is neither copied nor changed. One adapter serves every row of a batch, so the logits
    are those of the merged model.
    prompt_form: None for the chat template where the tokenizer has one

    Raises ConfigError for the form "chat" without a template.
    """

    name = "hf"
    verified = True

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        prompt_form: PromptForm | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt_form = choose_form(tokenizer, prompt_form)
        self._base = base
        with _quiet():
            self._lm = _HFModel(
                pretrained=base,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch_size,
                **_chat_options(self.prompt_form, tokenizer.chat_template),
            )
        self._lm.takes_system = takes_system(tokenizer)

    @contextmanager
    def using(self, weights: LoraWeights | None) -> Iterator[Any]:
        """Give lm-eval's model with this adapter for a `with` block."""
        if weights is None:
            yield self._lm
            return
        with adapted(self._base, weights):
            yield self._lm


class VLLMEngine:
    """lm-eval's vLLM model, started anew for every adapter, which it reads as a PEFT folder.

    Unverified: it has not been run on a GPU.
    base_folder: or its name on the hub; dtype: None for the checkpoint's own; prompt_form: as for
    HFEngine

    Raises ConfigError when vLLM is not installed, or for the form "chat" without a template.
    """

    name = "vllm"
    verified = False

    def __init__(
        self,
        base_folder: Path | str,
        *,
        batch_size: int,
        prompt_form: PromptForm | None = None,
        dtype: str | None = None,
    ) -> None:
        from importlib.util import find_spec

        from transformers import AutoTokenizer

        if find_spec("vllm") is None:
            raise ConfigError(
                "--backend vllm needs the package 'vllm' and a GPU; pip install vllm, or use "
                "--backend hf"
            )
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            base_folder, trust_remote_code=False
        )
        self.prompt_form = choose_form(self.tokenizer, prompt_form)
        self._options: dict[str, Any] = {
            "pretrained": str(base_folder),
            "dtype": dtype or "auto",
            "batch_size": batch_size,
            **_chat_options(self.prompt_form),
        }

    @contextmanager
    def using(self, weights: LoraWeights | None) -> Iterator[Any]:
        """Give lm-eval's model with this adapter for a `with` block."""
        from lm_eval.models.vllm_causallms import VLLM

        class Model(_SystemTurn, VLLM):  # type: ignore[misc]  # lm-eval has no types
            pass

        with TemporaryDirectory() as scratch:
            options = dict(self._options)
            if weights is not None:
                folder = Path(scratch) / "adapter"
                save_adapter(weights, folder)
                options |= vllm_adapter_options(folder, weights.spec.rank)
            model = Model(**options)
            model.takes_system = takes_system(self.tokenizer)
            try:
                yield model
            finally:
                del model.model  # the engine holds the GPU's memory


def vllm_adapter_options(folder: Path, rank: int) -> dict[str, Any]:
    """Arguments of lm-eval's vLLM model for an adapter.

    Raises ConfigError for a rank that vLLM does not take.
    """
    larger = [allowed for allowed in VLLM_RANKS if allowed >= rank]
    if not larger:
        raise ConfigError(f"the adapter's rank is {rank}; vLLM takes at most {VLLM_RANKS[-1]}")
    return {"lora_local_path": str(folder), "max_lora_rank": larger[0]}


class _SystemTurn:
    """Puts the system turn at the head of the user's where the chat template takes none.

    lm-eval drops it there, and with it the description.
    """

    takes_system = True

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as text."""
        turns = chat_history if self.takes_system else merge_system_turn(chat_history)
        rendered: Any = super()
        return str(rendered.apply_chat_template(turns, add_generation_prompt))


class _HFModel(_SystemTurn, HFLM):  # type: ignore[misc]  # lm-eval has no types
    pass


def choose_form(tokenizer: PreTrainedTokenizerBase, asked: PromptForm | None) -> PromptForm:
    """Give the form of prompts: the one that is asked for, else the chat template if there is one.

    Raises ConfigError for "chat" without a template.
    """
    if asked == "chat" and not tokenizer.chat_template:
        raise ConfigError("the base has no chat template; use --prompt plain")
    return asked or ("chat" if tokenizer.chat_template else "plain")


def merge_system_turn(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Put a system turn before the text of the user turn that follows it."""
    merged = [dict(turn) for turn in turns]
    if len(merged) > 1 and merged[0]["role"] == "system":
        merged[1]["content"] = f"{merged[0]['content'].strip()}\n\n{merged[1]['content']}"
        del merged[0]
    return merged


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the chat template gives a system turn a place of its own."""
    if not tokenizer.chat_template:
        return False
    in_user = PromptFormat.for_tokenizer(tokenizer, description_in="user")
    return PromptFormat.for_tokenizer(tokenizer).told != in_user.told


def load_task(task: BenchmarkTask, *, rows: Rows | None, run_code: RunCode | None) -> LoadedTask:
    """Load lm-eval's own task, with rows of the hub or with local ones.

    run_code: what scores programs, in place of lm-eval's own runner

    Raises ConfigError when the rows cannot be had.
    """
    overrides = _scored_by(run_code) if task.runs_code else {}
    folder = Path(lm_eval.__file__).parent / "tasks" / task.folder
    source = "the hub" if rows is None else "the local files"
    with _quiet(), _no_code_metric():
        manager = TaskManager(include_defaults=False, include_path=str(folder))
        try:
            if rows is None and task.name in HUB_ROWS:
                path, name, split, _ = HUB_ROWS[task.name]
                rows = {task.split: list(datasets.load_dataset(path, name, split=split))}
            if rows is not None:
                overrides |= _rows_given(task, rows)
            # A group of one: the way to lay overrides over a task that lm-eval ships.
            loaded = manager.load(
                {"group": "text-to-lora", "task": [{"task": task.name, **overrides}]}
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            first = next((line for line in str(error).splitlines() if line), type(error).__name__)
            raise ConfigError(
                f"lm-eval {LM_EVAL_VERSION} cannot load {task.name!r} from {source}: {first}; "
                "check the network, or give the rows with --rows-dir"
            ) from error
    inner = loaded["tasks"][task.name]
    options = inner.get_config("generation_kwargs") or {}
    return LoadedTask(task, inner, inner.get_config("num_fewshot"), options.get("max_gen_toks"))


def _pubmedqa(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "QUESTION": row["question"],
        "CONTEXTS": row["context"]["contexts"],
        "final_decision": row["final_decision"],
    }


HUB_ROWS: Final = {"pubmedqa": ("qiaojin/PubMedQA", "pqa_labeled", "train", _pubmedqa)}
"""Data sets in place of lm-eval's own: name, configuration, split, and its row as lm-eval reads it.

lm-eval takes PubMedQA from a data set that is a script, which datasets 4 and later refuse
(https://github.com/EleutherAI/lm-evaluation-harness/issues/3645).
"""


def _rows_given(task: BenchmarkTask, rows: Rows) -> dict[str, Any]:
    """Overrides by which a task reads rows that are there, and no split that is not."""
    convert = HUB_ROWS[task.name][-1] if task.name in HUB_ROWS else dict
    splits = {
        split: datasets.Dataset.from_list([convert(row) for row in several])
        for split, several in rows.items()
    }
    train = "train" if "train" in rows else None
    overrides: dict[str, Any] = {
        "custom_dataset": lambda **_: datasets.DatasetDict(splits),
        "training_split": train,
        "validation_split": None,
        "test_split": None,
        f"{task.split}_split": task.split,
        "fewshot_split": train,
    }
    if train is None and not task.own_shots:  # else lm-eval takes examples from the scored rows
        overrides["fewshot_config"] = {"sampler": "first_n", "samples": []}
    return overrides


def run_task(
    model: Any,
    loaded: LoadedTask,
    *,
    prompt_form: PromptForm,
    system: str | None = None,
    shots: int | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
) -> TaskResult:
    """Score a loaded task with a model that `Engine.using` gave.

    system: text of the system turn; before the question where no chat template is applied
    shots: examples in the prompt; None for the task's own number
    limit: the first rows alone; None for all
    max_new_tokens: most tokens of an answer; None for the task's own number. At most half of what
        the model reads, so that the prompt keeps the other half.

    Raises ConfigError when the examples of the prompt cannot be had.
    """
    task, chat = loaded.task, prompt_form == "chat"
    if system is not None and not chat:
        system = f"{system.strip()}\n\n"
    given = _set_shots(loaded, shots)
    room = _set_answer_length(loaded, model, max_new_tokens)
    with _quiet():
        results = evaluate(
            lm=model,
            task_dict={"tasks": {task.name: loaded.inner}, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=BOOTSTRAP,
            log_samples=True,
            system_instruction=system,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            confirm_run_unsafe_code=task.runs_code,
        )
    if results is None:
        raise BackendError("lm-eval gave no results: this process is not the first of several")
    return TaskResult(
        questions=_questions(results["samples"][task.name], task, model, room),
        scores=_scores(results["results"][task.name]),
        shots=given,
        version=str(results["versions"][task.name]),
        max_new_tokens=room,
    )


def _set_shots(loaded: LoadedTask, shots: int | None) -> int:
    # As lm-eval has it: a task that says 0 itself, as HumanEval does, has none.
    number = (loaded.shots or 0) if shots is None or loaded.shots == 0 else shots
    inner, name = loaded.inner, loaded.task.name
    inner.set_config(key="num_fewshot", value=number)
    inner.set_fewshot_seed(seed=FEWSHOT_SEED)
    sampler = getattr(inner, "sampler", None)
    there = 0 if sampler is None else len(sampler.df)
    if number > there:
        raise ConfigError(
            f"{name!r} is given {number} examples in its prompt, but has {there}; "
            f"add rows for it ({name}.train.json), or pass --num-fewshot 0"
        )
    return number


def _set_answer_length(loaded: LoadedTask, model: Any, most: int | None) -> int | None:
    if loaded.inner.get_config("output_type") != "generate_until":
        return None
    own = model.max_gen_toks if loaded.answer_length is None else loaded.answer_length
    length = min(most or own, model.max_length // 2)
    options = dict(loaded.inner.get_config("generation_kwargs") or {})
    loaded.inner.set_config(key="generation_kwargs", value={**options, "max_gen_toks": length})
    return int(length)


def _questions(
    logged: Sequence[Mapping[str, Any]], task: BenchmarkTask, model: Any, room: int | None
) -> list[Question]:
    """One question a row; a row is logged once by each filter of the task."""
    by_row: dict[int, dict[str, Mapping[str, Any]]] = {}
    for sample in logged:
        by_row.setdefault(int(sample["doc_id"]), {})[str(sample["filter"])] = sample
    questions = []
    for doc_id, filtered in sorted(by_row.items()):
        sample = filtered[task.filter]
        metrics = {
            f"{name},{filter_name}": float(one[name])
            for filter_name, one in filtered.items()
            for name in one["metrics"]
            if isinstance(one[name], int | float)
        }
        questions.append(
            Question(
                doc_id=doc_id,
                prompt=str(sample["arguments"][0][0]),
                target=str(sample["target"]),
                answer=_answer(sample),
                value=float(sample[task.metric]),
                metrics=json.dumps(metrics, sort_keys=True),
                cut=any(_is_cut(arguments, model, room) for arguments in sample["arguments"]),
            )
        )
    return questions


def _answer(sample: Mapping[str, Any]) -> str:
    given = sample["filtered_resps"]
    if isinstance(given[0], tuple | list) and isinstance(given[0][0], float):  # (nats, greedy)
        best = max(range(len(given)), key=lambda place: float(given[place][0]))
        context, continuation = sample["arguments"][best]
        contexts = {arguments[0] for arguments in sample["arguments"]}
        return str(continuation if len(contexts) == 1 else context + continuation).strip()
    first = given[0][0] if isinstance(given[0], list) else given[0]
    return str(first)


def _is_cut(arguments: Sequence[Any], model: Any, room: int | None) -> bool:
    text, most = arguments[0], model.max_length - (room or 0)
    if room is None:  # the last token of an option is never read
        text, most = arguments[0] + arguments[1], model.max_length + 1
    length: int = len(model.tok_encode(text))
    return bool(length > most)


def _scores(results: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Value and standard error of every figure that lm-eval gives."""
    scores: dict[str, dict[str, float | None]] = {}
    for name, value in results.items():
        metric, _, filter_name = name.partition(",")
        if not filter_name or metric.endswith("_stderr"):
            continue
        error = results.get(f"{metric}_stderr,{filter_name}")
        known = isinstance(error, int | float)
        scores[name] = {"value": float(value), "stderr": float(error) if known else None}  # type: ignore[arg-type]
    return scores


def _scored_by(run_code: RunCode | None) -> dict[str, Any]:
    """Overrides by which programs are scored here; their metric is pass@1 of one answer."""
    assert run_code is not None

    def process(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        code = results[0][0] if isinstance(results[0], list) else results[0]
        if "entry_point" in doc:
            tests = f"{doc['test']}\ncheck({doc['entry_point']})"
        else:
            tests = "\n".join((doc.get("test_setup_code") or "", *doc["test_list"]))
        return {"pass@1": float(run_code(str(code), tests))}

    metric = {"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}
    return {"process_results": process, "metric_list": [metric]}


@contextmanager
def _no_code_metric() -> Iterator[None]:
    """Keep lm-eval's tasks of code from fetching and trying a runner of programs on import."""

    class Nothing:
        def compute(self, **_: Any) -> Any:
            return ({"pass@1": 0.0}, {})

    load = hf_evaluate.load

    def replaced(path: str, *arguments: Any, **options: Any) -> Any:
        return Nothing() if path == "code_eval" else load(path, *arguments, **options)

    hf_evaluate.load = replaced
    try:
        yield
    finally:
        hf_evaluate.load = load


def _chat_options(prompt_form: PromptForm, template: Any = None) -> dict[str, Any]:
    """A chat template writes the special tokens itself; a plain prompt gets the tokenizer's own.

    template: given anew where it reads the clock, with the date that all prompts here have
    """
    if prompt_form == "plain":
        return {}
    arguments = dict(TEMPLATE_OPTIONS)
    if isinstance(template, str) and (fixed := fix_clock(template)) != template:
        arguments["chat_template"] = fixed
    return {"add_bos_token": False, "chat_template_args": arguments}


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out lm-eval's notes; what matters of them (cut prompts, shots) is in the results."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
