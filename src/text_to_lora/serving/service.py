"""A hypernetwork, its base, the engine and the store as one service, whatever carries its requests."""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.export import check_format, export_adapter
from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.inference.answers import context_length
from text_to_lora.inference.generate import find_stop_tokens
from text_to_lora.lora.peft_format import load_adapter
from text_to_lora.serving.adapters import AdapterPool, AdapterRef, check_strength
from text_to_lora.serving.answer import Answer, Piece, Sampling
from text_to_lora.serving.engine import Engine
from text_to_lora.serving.jobs import Job, RefineJobs
from text_to_lora.serving.metrics import Metrics
from text_to_lora.serving.store import AdapterStore, make_id
from text_to_lora.serving.wire import (
    DEFAULT_TOKENS,
    AdapterBody,
    AnswerBody,
    ChatBody,
    CompletionBody,
    RequestError,
)
from text_to_lora.tasks.chat_template import ChatTemplate
from text_to_lora.tasks.prompts import PromptFormat

_COMPLETION_TOKENS: Final = 16  # OpenAI's default for completions


@dataclass(frozen=True)
class Limits:
    """How much a server takes on.

    max_batch, max_queue: answers that run and that wait; max_wait: that the first answer of a batch
        waits for others, in seconds
    max_body: of a request, in bytes; in_memory: adapters that stay in memory
    """

    max_batch: int = 32
    max_queue: int = 256
    max_wait: float = 0.01
    max_body: int = 1_000_000
    in_memory: int = 64

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_body", "in_memory"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; 1 or more is needed")
        if not 0 <= self.max_wait <= 60:
            raise ConfigError(f"max_wait is {self.max_wait} s; 0 to 60 s are allowed")


class Service:
    """Answers to requests under the adapter that their model name means.

    t2l: with its base attached; base_names: model names that mean the base without an adapter
    load_copy: gives a hypernetwork with a base of its own, for refining
    """

    def __init__(
        self,
        t2l: TextToLora,
        store: AdapterStore,
        *,
        base_names: Sequence[str] = (),
        limits: Limits | None = None,
        load_copy: Callable[[], TextToLora] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.store = store
        self.metrics = Metrics(lambda: len(store))
        self.base_names = tuple(dict.fromkeys([*filter(None, [t2l.spec.base.name]), *base_names]))
        self._t2l = t2l
        self._model, self._tokenizer = t2l.base
        self.decode: Any = self._tokenizer.decode
        self._frame = PromptFormat.for_tokenizer(self._tokenizer)
        self._template = ChatTemplate(self._tokenizer) if self._tokenizer.chat_template else None
        self._context = context_length(self._model)
        self.pool = AdapterPool(
            t2l,
            store,
            in_memory=self.limits.in_memory,
            note=lambda origin: self.metrics.adapter_uses.labels(origin).inc(),
        )
        self._refining = RefineJobs(load_copy or (lambda: t2l))
        self.engine = Engine(
            self._model,
            t2l.spec,
            find_stop_tokens(self._model, self._tokenizer, self._frame),
            self.pool.fetch,
            self.metrics,
            max_batch=self.limits.max_batch,
            max_wait=self.limits.max_wait,
            max_queue=self.limits.max_queue,
        )

    def submit(
        self, body: ChatBody | CompletionBody, deliver: Callable[[int, Piece], None]
    ) -> list[Answer]:
        """Let the answers that a request asks for wait for the model.

        deliver: gets the number of an answer and its pieces, on the engine's thread

        Raises a T2LError that says what is wrong with the request, and those of `Engine.submit`.
        """
        ref = self._find(body)
        prompts = self._prompts(body)
        if len(prompts) * body.n > self.limits.max_queue:
            raise RequestError(
                f"{len(prompts)} prompts with n={body.n}: {self.limits.max_queue} answers are "
                "allowed in one request",
                param="n",
            )
        answers: list[Answer] = []
        for prompt in prompts:
            sampling = self._sampling(body, len(prompt))
            for number in range(body.n):
                seed = None if sampling.seed is None else (sampling.seed + number) % 2**63
                tell = partial(deliver, len(answers))
                answers.append(self._answer(body, prompt, replace(sampling, seed=seed), tell))
        self.engine.submit(answers, ref)
        return answers

    def make_adapters(self, body: AdapterBody) -> Future[list[dict[str, Any]]]:
        """Generate adapters of descriptions and store them; gives what the API shows of each.

        Raises a T2LError that says what is wrong with the request.
        """
        texts = self._descriptions(body)
        refs = [self.pool.sentence(text, body.strength) for text in texts]
        if body.alias is not None:
            self._check_alias(body.alias, refs[0].id)

        def make() -> list[dict[str, Any]]:
            for result in self.pool.fetch(refs):
                if isinstance(result, T2LError):
                    raise result
            if body.alias is not None:
                self.store.set_alias(body.alias, refs[0].id)
            return [self.store.describe(ref.id) for ref in refs]

        return self.engine.call(make)

    def refine(self, body: AdapterBody) -> dict[str, Any]:
        """Start a training on a client's rows; gives what the API shows of it.

        Raises a T2LError that says what is wrong with the request.
        """
        if len(self._descriptions(body)) != 1 or body.description is None or body.strength != 1:
            raise RequestError("examples go with one description and strength 1", param="examples")
        assert body.examples is not None
        rows = [(row.input, row.output) for row in body.examples]
        limits = {"seconds": body.seconds, "steps": body.steps}
        start = self.pool.sentence(body.description)
        adapter_id = make_id({"start": start.id, "examples": rows, **limits})
        alias = body.alias
        if alias is not None:
            self._check_alias(alias, adapter_id)
        if adapter_id not in self.store:

            def finish(adapters: Adapters) -> None:
                self.store.add(adapter_id, adapters)
                if alias is not None:
                    self.store.set_alias(alias, adapter_id)

            options = {**limits, "state_dir": self.store.unfinished(adapter_id)}
            job = Job(adapter_id, str(start.description), rows, options, finish)
            return self._refining.start(job).describe()
        if alias is not None:
            self.store.set_alias(alias, adapter_id)
        return self.store.describe(adapter_id)

    def list_adapters(self) -> list[dict[str, Any]]:
        """What the API shows of every adapter and every job, the newest use first."""
        jobs = [job.describe() for job in list(self._refining.jobs.values())]
        names = [name for name in reversed(self.store.ids()) if name in self.store]
        return [*jobs, *map(self.store.describe, names)]

    def show_adapter(self, name: str) -> dict[str, Any]:
        """What the API shows of an adapter or of the job that makes it.

        Raises UnknownModelError when there is neither.
        """
        if job := self._refining.jobs.get(name):
            return job.describe()
        return self.store.describe(self.pool.stored_id(name))

    def delete(self, name: str) -> Future[str]:
        """Delete an adapter and its aliases; gives its id.

        Raises UnknownModelError when there is none.
        """
        adapter_id = self.pool.stored_id(name)

        def remove() -> str:
            self.store.delete(adapter_id)
            self.pool.forget(adapter_id)
            return adapter_id

        return self.engine.call(remove)

    def pack(self, name: str, form: str) -> tuple[bytes, str]:
        """An adapter in a format of `t2l export`, and the file's name; a folder becomes a zip file.

        Raises UnknownModelError when there is no such adapter, and what `export_adapter` raises.
        """
        path = self.store.path(self.pool.stored_id(name))
        check_format(form)
        with tempfile.TemporaryDirectory() as temporary:
            if form != "peft":
                target = Path(temporary) / (f"{path.name}.gguf" if form == "gguf" else path.name)
                weights = load_adapter(path, spec=self._t2l.spec)
                path = export_adapter(weights, target, self._model.config, to=form)
            if path.is_file():
                return path.read_bytes(), path.name
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                for file in sorted(path.iterdir()):
                    entry = zipfile.ZipInfo(f"{path.name}/{file.name}")  # of 1980: equal bytes
                    entry.external_attr = 0o644 << 16
                    with archive.open(entry, "w") as target_file, file.open("rb") as source:
                        shutil.copyfileobj(source, target_file)
            return content.getvalue(), f"{path.name}-{form}.zip"

    def _descriptions(self, body: AdapterBody) -> list[str]:
        if (body.description is None) == (body.descriptions is None):
            raise RequestError("give either description or descriptions", param="description")
        texts = [str(body.description)] if body.descriptions is None else body.descriptions
        if body.alias is not None and len(texts) != 1:
            raise RequestError(f"one alias for {len(texts)} descriptions", param="alias")
        return texts

    def _check_alias(self, alias: str, adapter_id: str) -> None:
        if alias in self.base_names:
            raise RequestError(f"alias {alias!r} is the name of the base", param="alias")
        self.store.check_alias(alias, adapter_id)

    def _find(self, body: AnswerBody) -> AdapterRef | None:
        """The adapter that a request names; None for the base."""
        if body.model in self.base_names:
            if body.min_similarity is not None or body.strength != 1:
                raise RequestError("the base has no strength and no similarity", param="strength")
            return None
        check_strength(body.strength)
        if (job := self._refining.jobs.get(body.model)) is not None:
            raise RequestError(
                f"the adapter {body.model} is {job.status}: {job.error or job.progress}",
                status=409,
                param="model",
            )
        ref = self.pool.resolve(body.model)
        return replace(ref, factor=body.strength, min_similarity=body.min_similarity)

    def _prompts(self, body: ChatBody | CompletionBody) -> list[list[int]]:
        if isinstance(body, ChatBody):
            text = self._chat_text(body)
            return [self._tokenizer.encode(text, add_special_tokens=False, verbose=False)]
        prompts = []
        for prompt in body.prompts:
            ids = (
                self._tokenizer.encode(prompt, verbose=False) if isinstance(prompt, str) else prompt
            )
            if not ids or not all(0 <= token < len(self._tokenizer) for token in ids):
                raise RequestError(
                    f"a prompt needs one token or more, from 0 to {len(self._tokenizer) - 1}",
                    param="prompt",
                )
            prompts.append(ids)
        if not prompts:
            raise RequestError("prompt is empty", param="prompt")
        return prompts

    def _chat_text(self, body: ChatBody) -> str:
        """The prompt of a conversation; that of one user turn is the one that evaluation uses."""
        turns = [
            {"role": turn.role.replace("developer", "system"), "content": turn.text.strip()}
            for turn in body.messages
        ]
        if turns[-1]["role"] != "user":
            raise RequestError("the last message has to be of the user", param="messages")
        if self._template is not None:
            return self._template.render(turns, add_generation_prompt=True)
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
        roles = [turn["role"] for turn in turns]
        if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            raise RequestError(
                "this base has no chat template: give a system message or none, then user and "
                "assistant in turn",
                param="messages",
            )
        texts = [turn["content"] for turn in turns]
        shots = list(zip(texts[:-1:2], texts[1::2], strict=True))
        return self._frame.prompt(texts[-1], system, shots)

    def _sampling(self, body: ChatBody | CompletionBody, prompt_tokens: int) -> Sampling:
        room = self._context - prompt_tokens
        asked = body.max_tokens
        if isinstance(body, ChatBody):
            asked = body.max_completion_tokens or asked
            default, count = DEFAULT_TOKENS, body.top_logprobs if body.logprobs else None
        else:
            default, count = _COMPLETION_TOKENS, body.logprobs
        if room < max(1, asked or 1):
            raise RequestError(
                f"this model reads {self._context} tokens of prompt and answer together; the prompt "
                f"has {prompt_tokens} and the answer may have {asked or 1}",
                code="context_length_exceeded",
                param="messages" if isinstance(body, ChatBody) else "prompt",
            )
        return Sampling(
            asked or min(default, room),
            body.temperature,
            body.top_p,
            body.seed,
            body.stops,
            count,
        )

    def _answer(
        self,
        body: ChatBody | CompletionBody,
        prompt: Sequence[int],
        sampling: Sampling,
        deliver: Callable[[Piece], None],
    ) -> Answer:
        read: Any = partial(self._tokenizer.decode, skip_special_tokens=True)
        hidden = ""
        if isinstance(body, ChatBody):
            read = partial(self._frame.read_answer, self._tokenizer)
            hidden = self._frame.bare.lead.strip()
        return Answer(prompt, sampling, read, deliver, hidden=hidden, streams=body.stream)
