"""Public benchmarks: tasks of lm-eval run on the live base under the suite's conditions.

The only file that knows lm-eval's interfaces (release 0.4.13). lm-eval builds the prompts and scores
the answers; rows, conditions, samples and the report are those of `evaluate_suite`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from text_to_lora.errors import BackendError, ConfigError, first_line, list_some
from text_to_lora.evaluation.scoring import Answer
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.chat_template import TEMPLATE_OPTIONS
from text_to_lora.tasks.prompts import PromptFormat
from text_to_lora.tasks.task import Example, Metric, Row, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LM_EVAL_VERSION: Final = version("lm_eval")
FEWSHOT_SEED: Final = 1234  # lm-eval's own default
OUTPUT_TYPES: Final = ("multiple_choice", "loglikelihood", "generate_until")


class LmEvalTasks:
    """Tasks of lm-eval, and the tasks of this package that stand for them.

    names: tasks or groups of lm-eval
    descriptions: by the name of a task, or of the group that was asked for; the first of a task
        stands in prompts and makes the matched adapter
    include_path: folder with further definitions of tasks, as `lm_eval --include_path` takes
    num_fewshot: examples in every prompt; None for each task's own number

    Raises ConfigError when lm-eval cannot load a task, or one has no description.
    """

    def __init__(
        self,
        names: Sequence[str],
        descriptions: Mapping[str, Sequence[str]],
        *,
        include_path: Path | None = None,
        num_fewshot: int | None = None,
    ) -> None:
        self.inner: dict[str, Any] = {}
        self.tasks: list[Task] = []
        with _quiet():
            manager = _task_manager(names, include_path)
            for name in names:
                self._load(manager, name, descriptions)
        for task in self.inner.values():
            if num_fewshot is not None:
                task.set_config(key="num_fewshot", value=num_fewshot)
            task.set_fewshot_seed(seed=FEWSHOT_SEED)

    def check_code(self, allowed: bool) -> None:
        """Raise ConfigError when a task runs what the model wrote and that is not allowed."""
        unsafe = [name for name, task in self.inner.items() if getattr(task, "UNSAFE_CODE", False)]
        if unsafe and not allowed:
            raise ConfigError(
                f"{list_some(unsafe)} run programs that the model wrote; pass "
                "--allow-code-execution and set HF_ALLOW_CODE_EVAL=1, or leave them out"
            )

    def _load(
        self, manager: TaskManager, name: str, descriptions: Mapping[str, Sequence[str]]
    ) -> None:
        try:
            loaded = manager.load([name])["tasks"]
        except Exception as error:  # of lm-eval, datasets, the hub and the tasks' own code
            raise ConfigError(
                f"lm-eval {LM_EVAL_VERSION} cannot load {name!r}: {first_line(error)}; see "
                "`lm_eval ls tasks`, check the network, or give a folder of definitions with --include-path"
            ) from error
        texts = {task: descriptions.get(task) or descriptions.get(name) for task in loaded}
        if silent := [task for task, of_task in texts.items() if not of_task]:
            raise ConfigError(
                f"no description of {list_some(silent)}; add it to a YAML file (NAME: TEXT) and pass "
                "--descriptions"
            )
        for task_name, task in loaded.items():
            if (kind := task.get_config("output_type")) not in OUTPUT_TYPES:
                raise ConfigError(
                    f"{task_name!r} asks for {kind!r}; tasks with {', '.join(OUTPUT_TYPES)} can be "
                    "scored under conditions, leave it out"
                )
            first, *others = texts[task_name] or ()
            rows = [_texts(task, doc) for doc in task.eval_docs]
            examples = tuple(Example(text, (target,), i) for i, (text, target) in enumerate(rows))
            metric = Metric("exact_match")
            self.inner[task_name] = task
            self.tasks.append(
                Task(task_name, first, tuple(others), examples, metric, group=name, split="test")
            )


@final
class LmEvalScorer:
    """Scores rows of lm-eval's tasks through lm-eval, each row with its own adapter.

    tasks: those that the rows are of
    metric: lm-eval's name of the figure that becomes a sample's score, for tasks that have it;
        else the first of the task that lies between 0 and 1. Of several filters the first counts.
    max_new_tokens: most tokens of an answer; None for each task's own number, and at most half of
        what the model reads, so that the prompt keeps the other half
    allow_code_execution: let tasks such as HumanEval run what the model wrote

    Prompts take the chat template where the tokenizer has one. A row's likelihood is that of the
    right option, nats a token; written answers have none.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: LmEvalTasks,
        *,
        metric: str | None = None,
        max_new_tokens: int | None = None,
        allow_code_execution: bool = False,
        batch_size: int = 16,
    ) -> None:
        self._chat = bool(tokenizer.chat_template)
        template = {"add_bos_token": False, "chat_template_args": dict(TEMPLATE_OPTIONS)}
        with _quiet():
            self._model = _Model(
                pretrained=base,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch_size,
                **(template if self._chat else {}),  # the template writes the special tokens
            )
        if self._chat:
            in_user = PromptFormat.for_tokenizer(tokenizer, description_in="user")
            self._model.takes_system = (
                PromptFormat.for_tokenizer(tokenizer).described != in_user.described
            )
        self._tasks = tasks
        self._metric = metric
        self._unsafe = allow_code_execution
        for task in tasks.inner.values():
            self._limit_answers(task, max_new_tokens)

    def check_room(self, prompts: Iterable[tuple[Row, str | None]]) -> None:
        """Check nothing: lm-eval cuts the left of prompts that are too long."""

    def score(
        self,
        rows: Sequence[Row],
        *,
        weights: LoraWeights | None = None,
        adapters: Sequence[int] | None = None,
        prompt_texts: Sequence[str | None] | None = None,
        shots: Sequence[Sequence[Example]] | None = None,
    ) -> list[Answer]:
        """Score every row; arguments and order are those of `Scorer.score`.

        Raises ConfigError for shots, which lm-eval chooses itself.
        """
        if shots and any(shots):
            raise ConfigError("lm-eval chooses the examples itself; use --num-fewshot, not 'icl'")
        runs: dict[tuple[str, str | None, int], list[int]] = {}
        for place, row in enumerate(rows):
            description = prompt_texts[place] if prompt_texts else None
            adapter = adapters[place] if adapters else 0
            runs.setdefault((row.task.name, description, adapter), []).append(place)
        answers: dict[int, Answer] = {}
        for (name, description, adapter), places in runs.items():
            block: AbstractContextManager[None] = nullcontext()
            if weights is not None:
                block = adapted(self._model.model, weights.select([adapter]))
            with block:
                logged = self._evaluate(name, [rows[p].example.idx for p in places], description)
            for place in places:
                sample = logged[rows[place].example.idx]
                answers[place] = self._answer(self._tasks.inner[name], sample)
        return [answers[place] for place in range(len(rows))]

    def _evaluate(
        self, name: str, ids: Sequence[int], description: str | None
    ) -> dict[int, Mapping[str, Any]]:
        """Run lm-eval on rows of one task; gives what it logs of each, by the first filter."""
        system = description
        if description is not None and not self._chat:
            system = f"{description.strip()}\n\n"
        task = self._tasks.inner[name]
        with _quiet():
            results = evaluate(
                lm=self._model,
                task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
                samples={name: sorted(ids)},
                bootstrap_iters=0,
                system_instruction=system,
                apply_chat_template=self._chat,
                fewshot_as_multiturn=self._chat,
                confirm_run_unsafe_code=self._unsafe,
            )
        if results is None:
            raise BackendError("lm-eval gave no results: this process is not the first of several")
        logged: dict[int, Mapping[str, Any]] = {}
        for sample in results["samples"][name]:
            logged.setdefault(int(sample["doc_id"]), sample)
        return logged

    def _answer(self, task: Any, sample: Mapping[str, Any]) -> Answer:
        names = [name for name in sample["metrics"] if _is_share(sample[name])]
        wanted = self._metric if self._metric in names else next(iter(names), None)
        options = [response[0] for response in sample["resps"]]
        text, nll, tokens = sample["filtered_resps"], 0.0, 0
        while isinstance(text, list | tuple) and text:
            text = text[0]
        if isinstance(options[0], tuple | list):  # (log likelihood, whether it is greedy) of each
            best = max(range(len(options)), key=lambda place: float(options[place][0]))
            text = _option(sample["arguments"], best)
            right = _place_of_target(task, sample)
            if right is not None:
                tokens = max(1, len(self._model.tok_encode(sample["arguments"][right][1])))
                nll = -float(options[right][0]) / tokens
        return Answer(
            text=str(text),
            nll=nll,
            tokens=tokens,
            score=None if wanted is None else float(sample[wanted]),
            in_labels=None,
            label_score=None,
            cut=any(self._is_cut(arguments) for arguments in sample["arguments"]),
            shots=0,
        )

    def _is_cut(self, arguments: Sequence[Any]) -> bool:
        context, rest = arguments[0], arguments[1]
        if isinstance(rest, str):  # an option, whose last token is never read
            return bool(len(self._model.tok_encode(context + rest)) > self._model.max_length + 1)
        room = self._model.max_length - rest.get("max_gen_toks", self._model.max_gen_toks)
        return bool(len(self._model.tok_encode(context)) > room)

    def _limit_answers(self, task: Any, most: int | None) -> None:
        if task.get_config("output_type") != "generate_until":
            return
        options = dict(task.get_config("generation_kwargs") or {})
        length = options.get("max_gen_toks", self._model.max_gen_toks)
        options["max_gen_toks"] = min(most or length, self._model.max_length // 2)
        task.set_config(key="generation_kwargs", value=options)


class _Model(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's model around a live base.

    takes_system: whether the chat template has a system turn
    """

    takes_system = True

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation; the system turn joins the user's where the template has none.

        lm-eval drops it there, and with it the description.
        """
        turns = list(chat_history)
        if not self.takes_system and len(turns) > 1 and turns[0]["role"] == "system":
            text = f"{turns[0]['content'].strip()}\n\n{turns[1]['content']}"
            turns = [{**turns[1], "content": text}, *turns[2:]]
        return str(super().apply_chat_template(turns, add_generation_prompt))


def _task_manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """lm-eval's index of tasks; of the user's folder alone where that has all of them.

    lm-eval's own definitions take seconds to index.
    """
    if include_path is not None:
        manager = TaskManager(include_defaults=False, include_path=str(include_path))
        if set(names) <= set(manager.all_tasks):
            return manager
    return TaskManager(include_path=None if include_path is None else str(include_path))


def _texts(task: Any, doc: Mapping[str, Any]) -> tuple[str, str]:
    """The question and the right answer of a row, as far as lm-eval tells them."""
    text, target = task.doc_to_text(doc), task.doc_to_target(doc)
    options: Any = task.doc_to_choice(doc) if task.get_config("doc_to_choice") is not None else []
    if isinstance(text, int):  # several contexts and one continuation, as WinoGrande has
        text, target = json.dumps(doc, ensure_ascii=False, default=str), options[text]
    target = target[0] if isinstance(target, list) and target else target
    if isinstance(target, int) and options:
        target = options[target]
    return str(text), str(target).strip() or "(nothing)"


def _place_of_target(task: Any, sample: Mapping[str, Any]) -> int | None:
    """Which of the options that were compared is right; None where several are or none is."""
    options = [str(arguments[1]).strip() for arguments in sample["arguments"]]
    target = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    if isinstance(target, int):
        return target if 0 <= target < len(options) else None
    return options.index(target.strip()) if str(target).strip() in options else None


def _option(arguments: Sequence[Sequence[str]], place: int) -> str:
    """The text of an option; with its context where that is what differs."""
    context, continuation = arguments[place]
    contexts = {context for context, _ in arguments}
    return (context + continuation if len(contexts) > 1 else continuation).strip()


def _is_share(value: Any) -> bool:
    """Whether a figure of lm-eval can be a score; perplexities and counts cannot."""
    return isinstance(value, int | float) and 0 <= value <= 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out lm-eval's notes; what matters of them (cut prompts) is in the samples."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
