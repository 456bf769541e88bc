from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Gemma2Config,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from text_to_lora.errors import T2LError
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.inference.packing import takes_packed_rows
from text_to_lora.inference.rows import Rows
from text_to_lora.lora import LoraSpec, LoraWeights, adapted
from text_to_lora.training.batches import Batch, Part, split_by_length
from text_to_lora.training.config import ObjectiveSection
from text_to_lora.training.module import SftModule
from text_to_lora.training.step_adapters import StackedAdapters, StepAdapters, TextAdapters
from tiny_models import make_config

SIZES: dict[str, Any] = {"vocab_size": 97, "pad_token_id": 0, "initializer_range": 0.3}
BASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": make_config,
    # Caps its logits, and scales its embeddings inside the model.
    "gemma2": lambda: Gemma2Config(
        **SIZES,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=2.0,
    ),
    # Absolute positions, which padding on the left must not shift; dropout in training mode.
    "gpt2": lambda: GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "bert": lambda: BertConfig(
        **SIZES,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        is_decoder=True,
    ),
}
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15], [16, 17, 18, 19], [20]]
ANSWERS = [[30], [31, 32, 33], [34, 35], [36, 37], [38, 39, 30, 31]]
ADAPTERS = [2, 0, 1, 2, 0]
NAMES = ["a", "b", "c", "d", "e"]
PLAIN = ObjectiveSection(label_smoothing=0.0, neftune_alpha=0.0, weight_penalty=0.0)


def change(**fields: float) -> ObjectiveSection:
    return PLAIN.model_copy(update=fields)


@pytest.fixture
def base() -> PreTrainedModel:
    return make_base("llama")


def make_base(name: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(BASES[name](), attn_implementation="eager")
    assert isinstance(model, PreTrainedModel)
    return model


def make_adapters(base: PreTrainedModel, dropout: float = 0.0) -> TextAdapters:
    """A network whose adapters differ between tasks and change the base a good deal."""
    generator = torch.Generator().manual_seed(1)
    spec = LoraSpec.from_config(base.config, targets="all-linear", rank=2, alpha=4)
    config = HypernetConfig(
        head="joint", embedding_dim=6, latent_size=8, head_in_size=16, dropout=dropout
    )
    hypernet = Hypernetwork.from_config(config, spec, generator)
    with torch.no_grad():
        for parameter in hypernet.head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return TextAdapters(hypernet)


def make_module(
    adapters: StepAdapters,
    base: PreTrainedModel,
    objective: ObjectiveSection = PLAIN,
    **options: Any,
) -> SftModule:
    return SftModule(
        adapters,
        base,
        label_smoothing=objective.label_smoothing,
        neftune_alpha=objective.neftune_alpha,
        penalty=objective.weight_penalty,
        **options,
    )


def make_batch(parts: int = 1, rows: Sequence[int] = range(5)) -> Batch:
    """Five rows, or some of them."""

    def make_part(group: Sequence[int]) -> Part:
        return Part(
            rows=Rows.join([PROMPTS[row] for row in group], [ANSWERS[row] for row in group]),
            adapters=tuple(ADAPTERS[row] for row in group),
            task_names=tuple(NAMES[row] for row in group),
            noise_seeds=tuple(100 + row for row in group),
        )

    groups = split_by_length([len(PROMPTS[i]) + len(ANSWERS[i]) for i in rows], parts)
    return Batch(
        parts=tuple(make_part([rows[place] for place in group]) for group in groups),
        embeddings=torch.randn(3, 6, generator=torch.Generator().manual_seed(2)),
        texts=(),
        total_rows=5,
        seed=7,
    )


def gradients(module: nn.Module) -> dict[str, Tensor]:
    taken = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        taken[name] = parameter.grad.clone()
    module.zero_grad()
    return taken


def assert_same_gradients(module: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-6, rtol=1e-4)


def token_losses(logits: Tensor, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Cross-entropy of each answer token, from the logits of one row without padding."""
    ids = torch.tensor([*prompt, *answer])
    return F.cross_entropy(logits[len(prompt) - 1 : -1], ids[len(prompt) :], reduction="none")


def naive_loss(
    base: PreTrainedModel, adapters: StepAdapters, objective: ObjectiveSection = PLAIN
) -> Tensor:
    """One row at a time, unpadded, logits of every position, all in one graph."""
    weights: LoraWeights = adapters(make_batch().embeddings, ())
    rows = []
    for prompt, answer, adapter in zip(PROMPTS, ANSWERS, ADAPTERS, strict=True):
        of_row = weights.select([adapter if weights.num_adapters > 1 else 0])
        with adapted(base, of_row):
            logits = base(torch.tensor([[*prompt, *answer]])).logits[0]
        factors = [*of_row.a.values(), *of_row.b.values()]
        penalty = torch.stack([factor.square().mean() for factor in factors]).sum()
        loss = token_losses(logits, prompt, answer).mean()
        rows.append(loss + objective.weight_penalty * penalty)
    return torch.stack(rows).mean()


OBJECTIVES = {"cross-entropy": PLAIN, "penalty": change(weight_penalty=0.5)}


@pytest.mark.parametrize("kind", ["text", "static"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_equal_rows_one_by_one(
    name: str, parts: int, kind: str, base: PreTrainedModel
) -> None:
    adapters: StepAdapters = make_adapters(base)
    if kind == "static":  # one adapter for all rows
        adapters = StackedAdapters(adapters.spec)
        with torch.no_grad():
            for b in adapters.b:
                b.normal_(std=0.1)
    objective = OBJECTIVES[name]
    module = make_module(adapters, base, objective)
    loss = module(make_batch(parts))
    loss.backward()
    taken = gradients(adapters)
    expected = naive_loss(base, adapters, objective)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert_same_gradients(adapters, taken)
    torch.testing.assert_close(module.measure(make_batch())[0].mean(), naive_loss(base, adapters))


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "bert"])
def test_answer_logits_are_those_of_the_whole_forward_pass(family: str) -> None:
    base = make_base(family)
    adapters = make_adapters(base)
    loss = make_module(adapters, base).train()(make_batch(2))
    torch.testing.assert_close(loss, naive_loss(base, adapters), atol=1e-5, rtol=1e-5)


def test_a_base_that_computes_all_logits_serves_too(
    base: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = base.forward

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Any:
        return whole(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(base, "forward", forward)
    adapters = make_adapters(base)
    loss = make_module(adapters, base)(make_batch(2))
    monkeypatch.undo()
    torch.testing.assert_close(loss, naive_loss(base, adapters))


@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_dropout_and_noise_do_not_depend_on_parts_or_processes(
    alpha: float, base: PreTrainedModel
) -> None:
    adapters = make_adapters(base, dropout=0.3)
    module = make_module(adapters, base, change(neftune_alpha=alpha)).train()
    whole = module(make_batch())
    whole.backward()
    expected = gradients(adapters)
    # Two processes, one of them in two parts: the sum of losses is the loss.
    shares = [module(make_batch(1, [0, 1])), module(make_batch(2, [2, 3, 4]))]
    for share in shares:
        share.backward()
    torch.testing.assert_close(torch.stack(shares).sum(), whole)
    assert_same_gradients(adapters, expected)


def test_each_description_makes_its_adapter_once_a_step(base: PreTrainedModel) -> None:
    adapters = make_adapters(base)
    calls: list[int] = []
    adapters.hypernet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    module = make_module(adapters, base)
    for parts in (1, 2, 5):
        module(make_batch(parts)).backward()
    assert calls == [3, 3, 3]


def test_dropout_and_noise_change_the_loss_and_leave_torchs_generator_alone(
    base: PreTrainedModel,
) -> None:
    adapters = make_adapters(base, dropout=0.3)
    noisy = change(neftune_alpha=5.0)
    state = torch.random.get_rng_state()
    dropped = make_module(adapters, base).train()(make_batch()).item()
    noised = make_module(adapters, base, noisy).train()(make_batch()).item()
    rows, _ = make_module(adapters, base, noisy).measure(make_batch())
    assert len({dropped, noised, rows.mean().item()}) == 3
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(rows.mean(), naive_loss(base, adapters.eval()))


def test_noise_is_uniform_within_neftunes_bound(base: PreTrainedModel) -> None:
    table = base.get_input_embeddings()
    seen: list[Tensor] = []
    make_module(make_adapters(base), base)(make_batch())
    handle = base.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or (kwargs["hidden_states"],))[0].detach()),
        with_kwargs=True,
    )
    batch = make_batch()
    make_module(make_adapters(base), base, change(neftune_alpha=5.0))(batch)
    handle.remove()
    (part,) = batch.parts
    # Packed: rows of one adapter next to each other.
    order = sorted(range(5), key=part.adapters.__getitem__)
    rows = [part.rows.unbind()[row] for row in order]
    noise = (seen[0] - table(torch.cat(rows)))[0]
    for of_row in noise.split([len(row) for row in rows]):
        bound = 5.0 / of_row.numel() ** 0.5
        assert 0.9 * bound < of_row.abs().max() <= bound * (1 + 1e-5)
        assert of_row.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_smoothing_acts_in_training_and_not_in_validation(base: PreTrainedModel) -> None:
    plain, smooth = (
        make_module(make_adapters(base), base, change(label_smoothing=share)) for share in (0, 0.5)
    )
    batch = make_batch(2)
    assert smooth(batch).item() != pytest.approx(plain(batch).item(), rel=1e-3)
    assert torch.equal(smooth.measure(batch)[0], plain.measure(batch)[0])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_base_stays_frozen_in_eval_mode_and_out_of_the_state(family: str) -> None:
    base = make_base(family)
    adapters = make_adapters(base)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    module = make_module(adapters, base).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first = module(make_batch())
    first.backward()
    optimizer.step()
    assert module(make_batch()).item() < first.item()
    assert not any(child.training for child in base.modules())
    assert not any(p.requires_grad or p.grad is not None for p in base.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert set(module.state_dict()) == {f"adapters.{name}" for name in adapters.state_dict()}


def test_gradients_are_float32_through_a_bfloat16_base(base: PreTrainedModel) -> None:
    adapters = make_adapters(base)
    make_module(adapters, base)(make_batch()).backward()
    exact = gradients(adapters)
    make_module(adapters, base.bfloat16())(make_batch(2)).backward()
    rounded = gradients(adapters)
    assert {gradient.dtype for gradient in rounded.values()} == {torch.float32}
    one, other = (torch.cat([g.flatten() for g in each.values()]) for each in (exact, rounded))
    # bfloat16 keeps 8 bits of every activation; the direction stays.
    assert F.cosine_similarity(one, other, dim=0) > 0.98


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_gradient_checkpointing_recomputes_layers_and_changes_nothing(family: str) -> None:
    base = make_base(family)
    adapters = make_adapters(base)
    layers = LoraSpec.from_config(base.config, targets="all-linear").layers_path
    calls: list[nn.Module] = []
    takes_packed_rows(base, 1)  # tries it out, which is no pass to count
    first = base.get_submodule(f"{layers}.0")
    linear = next(child for child in first.modules() if isinstance(child, nn.Linear))
    handle = linear.register_forward_hook(lambda module, args, output: calls.append(module))
    make_module(adapters, base).train()(make_batch(2)).backward()
    expected, plain_calls = gradients(adapters), len(calls)
    make_module(adapters, base, gradient_checkpointing=True).train()(make_batch(2)).backward()
    handle.remove()
    assert plain_calls == 2 and len(calls) == 6  # each part once, then once more in backward
    assert not any(child.training for child in base.modules() if isinstance(child, nn.Dropout))
    assert_same_gradients(adapters, expected)


def test_a_loss_that_is_not_finite_names_its_tasks(base: PreTrainedModel) -> None:
    with torch.no_grad():
        base.get_input_embeddings().weight[38] = float("nan")  # in the answer of row "e"
        base.get_input_embeddings().weight[12] = float("inf")  # in the prompt of row "b"
    with pytest.raises(T2LError, match="the loss of b, e is not finite"):
        make_module(make_adapters(base), base)(make_batch())
