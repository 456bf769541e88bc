"""What a question costs in operations: prompts against an adapter that is generated for its task.

Operations are counted by torch while the models run on meta tensors, so no weights are read. A
multiplication and an addition are two operations; norms, activations and softmax are not counted.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import torch

from text_to_lora.errors import ConfigError, first_line
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.lora.outline import build_meta_model
from text_to_lora.lora.spec import LoraSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_CACHE_BYTES: Final = 2  # of a number in a cache of keys and values, kept in bfloat16

# Sizes of text encoders as transformers' classes take them.
GTE: Final[dict[str, Any]] = {
    "vocab_size": 30_528,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "type_vocab_size": 2,
}
MINILM: Final[dict[str, Any]] = {
    "vocab_size": 30_522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
ENCODERS: Final = {"gte": "gte-large-en-v1.5", "minilm": "all-MiniLM-L6-v2"}
"""Names of the encoders whose costs are known, by kind."""


def make_encoder(kind: str) -> Any:
    """Build an encoder of one of ENCODERS with random weights, on the default device."""
    from transformers import BertConfig, BertModel
    from transformers.models.gte import GteConfig, GteModel

    if kind == "gte":
        encoder: Any = GteModel(GteConfig(**GTE))
    else:
        encoder = BertModel(BertConfig(**MINILM), add_pooling_layer=False)
    return encoder.eval()


@torch.no_grad()
def count(run: Callable[[], object]) -> int:
    """Count the operations of matrix products while `run` runs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    total: int = counter.get_total_flops()
    return total


class BaseCost:
    """The operations of a base model, counted on meta tensors; no weights.

    name: under which figures stand; default: as the configuration has it

    Raises SpecError when there is no such model, ConfigError from every method when the model has
    no cache of keys and values or cannot run without numbers.
    """

    def __init__(self, config: PreTrainedConfig, name: str = "") -> None:
        config = copy.deepcopy(config)
        # Experts as batched products: choosing them by number needs the numbers.
        config._experts_implementation = "batched_mm"
        self.name = name or str(getattr(config, "name_or_path", "") or config.model_type)
        self._model: Any = build_meta_model(config)
        self._model.train(False)
        self._kind = config.model_type
        # transformers renamed the argument in 5.24
        parameters = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._counts: dict[tuple[int, int], int] = {}

    def pass_flops(self, tokens: int, *, past: int = 0) -> int:
        """Operations of one forward pass over new tokens; the last one's successor is asked for.

        past: tokens before them whose keys and values are cached
        Attention is counted over the whole rectangle, as plain attention computes it.
        """
        key = tokens, past
        if key not in self._counts:
            cache = self._run(past, None) if past else None
            self._counts[key] = count(lambda: self._run(tokens, cache))
        return self._counts[key]

    def answer_flops(self, prompt: int, answer: int, *, past: int = 0) -> int:
        """Operations of reading a prompt and writing an answer token by token, with a cache.

        prompt, answer: tokens; the last token of an answer is not fed back
        The passes over one token are the mean of the first and the last: each token in the cache
        adds the same number of operations, but for layers whose window is full.
        """
        total = self.pass_flops(prompt, past=past)
        if answer > 1:
            first = self.pass_flops(1, past=past + prompt)
            last = self.pass_flops(1, past=past + prompt + answer - 2)
            total += (answer - 1) * (first + last) // 2
        return total

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of the keys and values of a prefix in bfloat16; windows are not cut."""
        layers = self._run(1, None).layers
        numbers: int = sum(layer.keys.numel() + layer.values.numel() for layer in layers)
        return _CACHE_BYTES * numbers * tokens

    @torch.no_grad()
    def _run(self, tokens: int, cache: Any) -> Any:
        """Run new tokens; gives the cache afterwards."""
        try:
            ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
            options = {self._cache_name: cache, "use_cache": True, "logits_to_keep": 1}
            with torch.device("meta"):
                cache = self._model(ids, **options)[self._cache_name]
            cache.layers[0].keys.numel()
        except (
            AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError,
        ) as error:  # fmt: skip
            raise ConfigError(
                f"the operations of {self._kind!r} cannot be counted: {first_line(error)}; "
                "costs are known of models with a cache of keys and values in every layer"
            ) from error
        return cache


def encoder_cost(kind: str, tokens: int) -> tuple[int, int]:
    """Numbers of an encoder, embeddings included, and its operations for one description.

    kind: one of ENCODERS; tokens: of the description
    """
    with torch.device("meta"):
        model = make_encoder(kind)
        ids = torch.zeros(1, tokens, dtype=torch.long)
        flops = count(lambda: model(input_ids=ids))
    return sum(parameter.numel() for parameter in model.parameters()), flops


def hypernet_flops(config: HypernetConfig, spec: LoraSpec) -> int:
    """Operations of predicting one adapter from one task embedding."""
    # With numbers: meta tensors cannot pass through autocast, which the hypernetwork turns off.
    generator = torch.Generator().manual_seed(0)
    hypernet = Hypernetwork.from_config(config, spec, generator, as_lora=False).eval()
    return count(lambda: hypernet(torch.zeros(1, config.embedding_dim)))


@dataclass(frozen=True)
class Question:
    """Tokens of one question, and of what goes before it.

    prompt: the question with the chat template around it; answer: what is written
    shots: examples in context, each of a prompt and an answer
    description: the task's description

    Raises ConfigError for a count that cannot be.
    """

    prompt: int = 64
    answer: int = 16
    shots: int = 3
    description: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"{field.name} is {value!r}; a whole number of 1 or more is needed"
                )

    @property
    def shot_tokens(self) -> int:
        """Tokens of all examples in context."""
        return self.shots * (self.prompt + self.answer)


@dataclass(frozen=True)
class Way:
    """One way to answer the questions of a task.

    once: operations a task, before its first question; each: operations a question
    held: bytes that have to stay in memory for the task
    """

    name: str
    once: int
    each: int
    held: int

    def flops(self, questions: int) -> int:
        """Operations of so many questions of one task."""
        return self.once + questions * self.each


@dataclass(frozen=True)
class Cost:
    """A base, its adapters, the hypernetwork that makes them and its encoder.

    encoder: a kind of ENCODERS
    itemsize: bytes of a number in adapters and hypernetwork; the encoder is kept in float32
    """

    base: BaseCost
    spec: LoraSpec
    hypernet: HypernetConfig
    encoder: str
    itemsize: int = 2

    def ways(self, question: Question) -> list[Way]:
        """The ways to answer, prompts first; a prefix that is cached is read once a task."""
        base, prompt, answer = self.base, question.prompt, question.answer
        ways = [Way("zero-shot", 0, base.answer_flops(prompt, answer), 0)]
        for name, prefix in (
            ("description in the prompt", question.description),
            (f"{question.shots}-shot", question.shot_tokens),
        ):
            once, each = base.pass_flops(prefix), base.answer_flops(prompt, answer, past=prefix)
            ways += [
                Way(name, 0, base.answer_flops(prefix + prompt, answer), 0),
                Way(f"{name}, prefix cached", once, each, base.cache_bytes(prefix)),
            ]
        _, encoding = encoder_cost(self.encoder, question.description)
        once = encoding + hypernet_flops(self.hypernet, self.spec)
        numbers = self.spec.num_parameters  # an adapter that is not merged: two products a slot
        extra = 2 * numbers * (prompt + answer - 1)
        return [*ways, Way("T2L", once, ways[0].each + extra, numbers * self.itemsize)]

    def to_dict(self, question: Question, *, adapters: int, questions: int) -> dict[str, Any]:
        """All figures as JSON values.

        adapters: in the library; questions: asked of each task
        """
        *others, ours = self.ways(question)
        encoder_numbers, encoding = encoder_cost(self.encoder, question.description)
        numbers = Hypernetwork.empty(self.hypernet, self.spec).num_parameters
        network, encoder = numbers * self.itemsize, 4 * encoder_numbers
        return {
            "base": {"name": self.base.name, "flops_per_token": self.base.pass_flops(1)},
            "adapter": {
                "rank": self.spec.rank,
                "targets": sorted({group.module for group in self.spec.groups}),
                "parameters": self.spec.num_parameters,
                "bytes": ours.held,
            },
            "hypernetwork": {
                "head": self.hypernet.head,
                "parameters": numbers,
                "bytes": network,
                "flops": ours.once - encoding,
            },
            "encoder": {
                "name": ENCODERS[self.encoder],
                "parameters": encoder_numbers,
                "flops": encoding,
                "bytes": encoder,
            },
            "tokens": asdict(question),
            "questions": questions,
            "ways": {
                way.name: {
                    "flops_per_task": way.once,
                    "flops_per_question": way.each,
                    "flops_first_question": way.flops(1),
                    "flops_per_question_amortised": way.flops(questions) / questions,
                    "bytes_kept_per_task": way.held,
                    "t2l_costs_no_more": None if way is ours else cheaper(ours, way),
                }
                for way in (*others, ours)
            },
            "library": {
                "adapters": adapters,
                "bytes": adapters * ours.held,
                "crossing_hypernetwork": crossing(network, ours.held),
                "crossing_with_encoder": crossing(network + encoder, ours.held),
            },
        }


def cheaper(first: Way, other: Way) -> tuple[int, int | None] | None:
    """From and up to how many questions a task the first way costs at most what the other does.

    None in the second place: for ever; None alone: never.
    """
    once, each = first.once - other.once, first.each - other.each
    if each > 0:
        last = -once // each
        return (1, last) if last >= 1 else None
    if each == 0:
        return (1, None) if once <= 0 else None
    return max(1, -(once // each)) if once > 0 else 1, None


def crossing(fixed: int, each: int) -> int:
    """The smallest number of adapters that take more bytes together than what is fixed."""
    return fixed // each + 1


def tera(flops: float) -> str:
    """Give operations in units of 1e12."""
    return f"{flops / 1e12:.4g}"


def size(number: int) -> str:
    """Give bytes in the largest unit that fits."""
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= of:
            return f"{number / of:.3g} {unit}"
    return f"{number} B" if number else "0"


def span(ends: tuple[int, int | None] | None, unit: str = "") -> str:
    """Say from and up to how many a way costs no more; None: never."""
    if ends is None:
        return "never"
    first, last = ends
    if last is None:
        return "always" if first == 1 else f"from {first:,}{unit}"
    return f"up to {last:,}{unit}" if first == 1 else f"{first:,} to {last:,}{unit}"
