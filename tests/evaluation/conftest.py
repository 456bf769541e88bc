"""A tiny tokenizer, tiny random models, small tasks and made-up adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertLMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from text_to_lora.evaluation import plots, suite
from text_to_lora.evaluation.report import build_report
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Metric, Task
from tiny_models import adapters_of_texts, random_adapters

SPECIAL = ["[PAD]", "[UNK]", "[TASK]", "[INPUT]", "[ANSWER]", "[END]"]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}[TASK] {{ message['content'] }} "
    "{% elif message['role'] == 'user' %}[INPUT] {{ message['content'] }} "
    "{% else %}[ANSWER] {{ message['content'] }}[END]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[ANSWER]{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + 26,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 5,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each single letter, which is a word."""
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, *ascii_lowercase])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[END]",
        chat_template=TEMPLATE,
        padding_side="left",
    )


@pytest.fixture
def base() -> PreTrainedModel:
    """Absolute positions and a cache that can be cropped."""
    return BertLMHeadModel(BertConfig(is_decoder=True, **SIZES)).eval()


@pytest.fixture
def sliding_base() -> PreTrainedModel:
    """A cache that cannot be cropped: its window is shorter than the prompts."""
    config = MistralConfig(sliding_window=4, num_key_value_heads=2, bos_token_id=1, **SIZES)
    return MistralForCausalLM(config).eval()


def spec_of(base: PreTrainedModel) -> LoraSpec:
    bert = base.config.model_type == "bert"
    targets = ["attention.self.query"] if bert else ["q_proj", "v_proj"]
    return LoraSpec.from_config(base.config, targets=targets, rank=2)


@pytest.fixture
def quick_reports(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Let an evaluation write reports of few resamples, with plots of no picture; gives their maker."""
    quick = partial(build_report, resamples=20)
    monkeypatch.setattr(suite, "build_report", quick)
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: path.write_bytes(bytes(200)))
    return quick


@pytest.fixture
def adapters() -> Callable[..., LoraWeights]:
    """Give `count` random adapters of a base that differ strongly."""

    def make(base: PreTrainedModel, count: int, seed: int = 0) -> LoraWeights:
        generator = torch.Generator().manual_seed(seed)
        return random_adapters(spec_of(base), count, generator).scale(2.0)

    return make


@pytest.fixture
def generate() -> Callable[[PreTrainedModel], Callable[[Sequence[str]], LoraWeights]]:
    """Give a function from descriptions to adapters; equal texts give equal adapters."""
    return lambda base: partial(adapters_of_texts, spec_of(base))


@pytest.fixture
def tasks() -> list[Task]:
    """Six tasks of five groups, of three metrics, with unlike labels and numbers of descriptions."""
    metrics = [
        Metric("classification", ("a", "b c")),
        Metric("classification", ("d", "e")),
        Metric("exact_match"),
        Metric("rougeL"),
        Metric("exact_match"),
        Metric("classification", ("f", "g", "h")),
    ]
    return [make_task(place, metric) for place, metric in enumerate(metrics)]


def make_task(place: int, metric: Metric) -> Task:
    letters = ascii_lowercase
    examples = tuple(
        Example(
            " ".join(letters[(place + idx + step) % 26] for step in range(2 + idx % 7)),
            (metric.labels[idx % len(metric.labels)],)
            if metric.labels
            else (" ".join(letters[idx % 20 : idx % 20 + 1 + idx % 3]), letters[idx % 26]),
            idx,
        )
        for idx in range(20)
    )
    definition = f"{letters[place]} {letters[place]} z"
    descriptions = tuple(f"{definition} {letters[word]}" for word in range(place))
    return Task(
        f"task{place}",
        definition,
        descriptions,
        examples,
        metric,
        group=f"g{place // 2 * place}",
        split="dev_heldout",
    )
