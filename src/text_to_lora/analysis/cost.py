"""What a question costs in operations: prompts against an adapter that is generated for its task.

All counts are floating-point operations of matrix products, a multiplication and an addition each;
norms, activations and softmax are left out, as the paper and torch's own counter leave them out.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.lora.outline import build_meta_model, linear_shape
from text_to_lora.lora.spec import LoraSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Kinds of layers whose attention is over keys and values of earlier tokens, and nothing else.
_ATTENTION: Final = ("full_attention", "sliding_attention")
# Below this name lie routed experts, of which a token passes a few.
_EXPERTS: Final = "experts"
# Names under which configurations say how many experts a token passes.
_CHOSEN: Final = ("num_experts_per_tok", "top_k_experts")
# Bytes of a number in a cache of keys and values, which bases keep in bfloat16.
_CACHE_BYTES: Final = 2
# What counter and formula may differ by: some models make small tables by products.
TOLERANCE: Final = 0.01

# Numbers in the layers' and the output's matrices of Mistral-7B, and its heads.
_MISTRAL_7B: Final = (6_979_321_856, 131_072_000, 32)

# Appendix I of the paper: TFLOPs a question for Mistral-7B, as quoted. Its token counts are not
# published.
PAPER: Final = {"base": 0.827, "3-shot": 4.177, "encoder": 0.029, "hypernetwork": 0.000005}


@dataclass(frozen=True)
class BaseCost:
    """The sizes of a base model that decide its operations.

    name: as the configuration has it
    linear: numbers in the matrices that every token passes; of routed experts, in those that are
        chosen for one token
    head: numbers in the matrices that only a token passes whose successor is asked for
    heads: of the queries; key_dim, value_dim: width of one head's keys and values
    windows: tokens that each layer's attention sees, its own included; None for all
    cached: numbers that the cache keeps of one token, all layers
    """

    name: str
    linear: int
    head: int
    heads: int
    key_dim: int
    value_dim: int
    windows: tuple[int | None, ...]
    cached: int

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> Self:
        """Read the sizes from the model class on the meta device; no weights.

        Raises ConfigError for layers that are no attention over a cache, and for experts whose
        share is not known; SpecError when there is no such model.
        """
        text: Any = config.get_text_config(decoder=True)
        layers: int = text.num_hidden_layers
        window = getattr(text, "sliding_window", None)
        kinds = getattr(text, "layer_types", None)
        if kinds is None:
            windows: list[int | None] = [window] * layers
        else:
            if odd := sorted(set(kinds) - set(_ATTENTION)):
                raise ConfigError(
                    f"{config.model_type!r} has layers of kind {', '.join(odd)}; costs are known "
                    f"of {' and '.join(_ATTENTION)} alone"
                )
            windows = [window if kind == "sliding_attention" else None for kind in kinds]
        heads = getattr(text, "num_attention_heads", None)
        if heads is None:
            raise ConfigError(
                f"{config.model_type!r} has no num_attention_heads; costs are known of models with "
                "attention alone"
            )
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        key_dim = getattr(text, "qk_head_dim", None) or width
        value_dim = getattr(text, "v_head_dim", None) or width
        key_heads = getattr(text, "num_key_value_heads", None) or heads
        linear, head = _matrices(config, text)
        return cls(
            name=str(getattr(config, "name_or_path", "") or config.model_type),
            linear=linear,
            head=head,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            windows=tuple(windows),
            cached=layers * key_heads * (key_dim + value_dim),
        )

    def pass_flops(
        self, tokens: int, *, past: int = 0, predicted: int = 1, masked: bool = False
    ) -> int:
        """FLOPs of one forward pass over new tokens.

        past: tokens before them whose keys and values are cached; a layer with a window keeps one
            fewer than it sees
        predicted: tokens whose successor is asked for
        masked: count only the pairs of tokens that the causal mask and the window let through, as
            FlashAttention computes; False counts the whole rectangle, as plain attention computes
            and as the paper counts

            linear:    2 · linear · tokens
            head:      2 · head · predicted
            attention: 2 · heads · (key_dim + value_dim) · pairs, layer by layer
        """
        pairs = 0
        for window in self.windows:
            if masked:
                pairs += _seen(past + tokens, window) - _seen(past, window)
            else:
                kept = past if window is None else min(past, window - 1)
                pairs += tokens * (kept + tokens)
        products = self.linear * tokens + self.head * predicted
        return 2 * (products + self.heads * (self.key_dim + self.value_dim) * pairs)

    def answer_flops(self, prompt: int, answer: int, *, past: int = 0, masked: bool = False) -> int:
        """FLOPs of reading a prompt and writing an answer token by token, with a cache.

        prompt, answer: tokens; the last token of an answer is not fed back
        past, masked: as in `pass_flops`
        """
        total = self.pass_flops(prompt, past=past, masked=masked)
        for place in range(answer - 1):
            total += self.pass_flops(1, past=past + prompt + place, masked=masked)
        return total

    @property
    def is_mistral_7b(self) -> bool:
        """Whether the matrices are as many and as large as the paper's base has them."""
        return (self.linear, self.head, self.heads) == _MISTRAL_7B

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of the keys and values of a prefix in bfloat16; windows are not cut."""
        return _CACHE_BYTES * self.cached * tokens


@dataclass(frozen=True)
class EncoderCost:
    """The sizes of a text encoder, a bidirectional transformer.

    gated: three matrices in each feed-forward block instead of two
    parameters: all numbers, embeddings included
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    gated: bool
    parameters: int

    def flops(self, tokens: int) -> int:
        """FLOPs of encoding one description of so many tokens.

        2 · layers · ((4 · hidden² + (2 or 3) · hidden · intermediate) · tokens + 2 · hidden · tokens²)
        """
        matrices = 4 * self.hidden**2 + (2 + self.gated) * self.hidden * self.intermediate
        return 2 * self.layers * (matrices * tokens + 2 * self.hidden * tokens**2)


# Sizes from the models' own configurations; tests hold them against transformers' classes.
ENCODERS: Final = {
    "gte": EncoderCost("gte-large-en-v1.5", 24, 1024, 4096, True, 434_139_136),
    "minilm": EncoderCost("all-MiniLM-L6-v2", 6, 384, 1536, False, 22_713_216),
}


def hypernet_flops(config: HypernetConfig, spec: LoraSpec) -> int:
    """FLOPs of predicting one adapter from one task embedding.

    With d = latent_size, h = head_in_size, S slots, and rows = S for "joint", 2 S for "shared" and
    2 S · rank for "rank":

        task code:     2 · embedding_dim · d / 2
        mixer, mlp1:   2 · 16 d² · S
        mlp2:          2 · 8 d² · (S, 2 S, or 2 S + rank)
        mlp3:          2 · (4 d² + 4 d h) · rows
        heads:         2 · h · (numbers of the adapter)
    """
    latent, slots = config.latent_size, len(spec.slots)
    sides = slots if config.head == "joint" else 2 * slots
    codes = sides + (spec.rank if config.head == "rank" else 0)
    rows = sides * (spec.rank if config.head == "rank" else 1)
    read = config.embedding_dim
    task = 0
    if config.task_vector_dim is not None:
        task, read = config.embedding_dim * config.task_vector_dim, config.task_vector_dim
    task += read * (latent // 2)
    blocks = 16 * latent**2 * slots + 8 * latent**2 * codes
    last = (4 * latent**2 + 4 * latent * config.head_in_size) * rows
    return 2 * (task + blocks + last + config.head_in_size * spec.num_parameters)


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

    once: FLOPs a task, before its first question; each: FLOPs a question
    kept: bytes that have to stay in memory for the task
    """

    name: str
    once: int
    each: int
    kept: int

    def flops(self, questions: int) -> int:
        """FLOPs of so many questions of one task."""
        return self.once + questions * self.each

    def per_question(self, questions: int) -> float:
        """FLOPs a question when so many are asked of one task."""
        return self.flops(questions) / questions


@dataclass(frozen=True)
class Cost:
    """A base, its adapters, the hypernetwork that makes them and its encoder.

    itemsize: bytes of a number in adapters and hypernetwork; the encoder is kept in float32
    """

    base: BaseCost
    spec: LoraSpec
    hypernet: HypernetConfig
    hypernet_parameters: int
    encoder: EncoderCost
    itemsize: int = 2

    @property
    def adapter_bytes(self) -> int:
        """Bytes of one adapter's numbers."""
        return self.spec.num_parameters * self.itemsize

    @property
    def hypernet_bytes(self) -> int:
        """Bytes of the hypernetwork's numbers."""
        return self.hypernet_parameters * self.itemsize

    @property
    def encoder_bytes(self) -> int:
        """Bytes of the encoder's numbers."""
        return 4 * self.encoder.parameters

    def library_bytes(self, adapters: int) -> int:
        """Bytes of a library's numbers."""
        return adapters * self.adapter_bytes

    def adapter_flops(self, tokens: int) -> int:
        """FLOPs that an adapter which is not merged adds to so many tokens."""
        return 2 * self.spec.num_parameters * tokens

    def ways(self, question: Question) -> list[Way]:
        """The ways to answer, prompts first; a prefix that is cached is read once a task."""
        base, prompt, answer = self.base, question.prompt, question.answer
        found = [Way("zero-shot", 0, base.answer_flops(prompt, answer), 0)]
        for name, prefix in (
            ("description in the prompt", question.description),
            (f"{question.shots}-shot", question.shot_tokens),
        ):
            found += [
                Way(name, 0, base.answer_flops(prefix + prompt, answer), 0),
                Way(
                    f"{name}, prefix cached",
                    base.pass_flops(prefix, predicted=0),
                    base.answer_flops(prompt, answer, past=prefix),
                    base.cache_bytes(prefix),
                ),
            ]
        once = self.encoder.flops(question.description) + hypernet_flops(self.hypernet, self.spec)
        extra = self.adapter_flops(prompt + answer - 1)
        return [*found, Way("T2L", once, found[0].each + extra, self.adapter_bytes)]

    def to_dict(self, question: Question, *, adapters: int, questions: int) -> dict[str, Any]:
        """All figures as JSON values.

        adapters: in the library; questions: asked of each task
        """
        ways = self.ways(question)
        ours = ways[-1]
        return {
            "base": asdict(self.base) | {"windows": sorted({w or 0 for w in self.base.windows})},
            "adapter": {
                "rank": self.spec.rank,
                "targets": sorted({group.module for group in self.spec.groups}),
                "parameters": self.spec.num_parameters,
                "bytes": self.adapter_bytes,
            },
            "hypernetwork": {
                "head": self.hypernet.head,
                "parameters": self.hypernet_parameters,
                "bytes": self.hypernet_bytes,
                "flops": hypernet_flops(self.hypernet, self.spec),
            },
            "encoder": {
                "name": self.encoder.name,
                "parameters": self.encoder.parameters,
                "bytes": self.encoder_bytes,
                "flops": self.encoder.flops(question.description),
            },
            "tokens": asdict(question),
            "questions": questions,
            "ways": {
                way.name: {
                    "flops_per_task": way.once,
                    "flops_per_question": way.each,
                    "flops_first_question": way.flops(1),
                    "flops_per_question_amortised": way.per_question(questions),
                    "bytes_kept_per_task": way.kept,
                    "t2l_costs_no_more": None if way is ours else cheaper(ours, way),
                }
                for way in ways
            },
            "library": {
                "adapters": adapters,
                "bytes": self.library_bytes(adapters),
                "crossing_hypernetwork": crossing(self.hypernet_bytes, self.adapter_bytes),
                "crossing_with_encoder": crossing(
                    self.hypernet_bytes + self.encoder_bytes, self.adapter_bytes
                ),
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


def prompt_of(base: BaseCost, flops: float) -> int:
    """Tokens of the longest prompt that is read, and one token answered, for so many FLOPs."""
    low, high = 0, 1
    while base.answer_flops(high, 1) <= flops:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if base.answer_flops(middle, 1) <= flops else (low, middle)
    return low


@torch.no_grad()
def count_flops(config: PreTrainedConfig, prompt: int, answer: int) -> int:
    """FLOPs that torch counts while the base reads a prompt and writes an answer, on meta tensors.

    Raises ConfigError when the model cannot run without numbers.
    """
    from torch.utils.flop_counter import FlopCounterMode

    config = copy.deepcopy(config)
    # Experts as batched products: choosing them by number needs the numbers.
    config._experts_implementation = "batched_mm"
    model: Any = build_meta_model(config)
    model.eval()
    # transformers renamed the argument in 5.24
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        cache = None
        try:
            for place in range(answer):
                tokens = torch.zeros(1, 1 if place else prompt, dtype=torch.long)
                out = model(tokens, **{name: cache}, use_cache=True, logits_to_keep=1)
                cache = out[name]
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"operations of {config.model_type!r} cannot be counted without numbers: {reason}"
            ) from error
        total: int = counter.get_total_flops()
    return total


def check_count(base: BaseCost, config: PreTrainedConfig, prompt: int, answer: int) -> int:
    """Count a base's operations as torch runs them, and give the count.

    Raises ConfigError when the formula is off by more than TOLERANCE, or nothing can be counted.
    """
    counted, formula = count_flops(config, prompt, answer), base.answer_flops(prompt, answer)
    if abs(counted - formula) > TOLERANCE * counted:
        raise ConfigError(
            f"{config.model_type!r} takes {counted:,} FLOPs and the formula says {formula:,}; "
            "the costs of this architecture are not known"
        )
    return counted


def _matrices(config: PreTrainedConfig, text: Any) -> tuple[int, int]:
    """Numbers in the matrices that each token passes, and in those of the output."""
    model: Any = build_meta_model(config)
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    linear = head = experts = 0
    for path, module in model.named_modules():
        routed = _EXPERTS in path.split(".")
        shape = linear_shape(module)
        if routed:
            experts += sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)
        elif shape is not None and id(module) in inside:
            linear += shape[0] * shape[1]
        elif shape is not None:
            head += shape[0] * shape[1]
        elif type(module).__name__.endswith("Router"):  # a matrix without a module of its own
            linear += sum(p.numel() for p in module.parameters(recurse=False) if p.ndim == 2)
    if not experts:
        return linear, head
    number = next(
        (n for key in ("num_local_experts", "num_experts", "n_routed_experts")
         if (n := getattr(text, key, None))),
        None,
    )  # fmt: skip
    chosen = next((n for key in _CHOSEN if (n := getattr(text, key, None))), None)
    if number is None or chosen is None:
        raise ConfigError(
            f"{config.model_type!r} has routed experts, and its configuration does not say how many "
            "a token passes; its costs are not known"
        )
    return linear + experts * chosen // number, head


def _seen(tokens: int, window: int | None) -> int:
    """Pairs of a token and one that it sees, over the first tokens of a text."""
    if window is None or tokens <= window:
        return tokens * (tokens + 1) // 2
    return window * (window + 1) // 2 + (tokens - window) * window
