from collections.abc import Callable, Sequence
from itertools import pairwise
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
from text_to_lora.lora import LoraSpec, adapted
from text_to_lora.training.config import ObjectiveSection
from text_to_lora.training.data import Batch, Part, split_by_length
from text_to_lora.training.module import SftModule
from text_to_lora.training.static import StaticAdapter
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
TOLD = [[40, 41, *prompt] for prompt in PROMPTS]
ANSWERS = [[30], [31, 32, 33], [34, 35], [36, 37], [38, 39, 30, 31]]
ADAPTERS = [2, 0, 1, 2, 0]
NAMES = ["a", "b", "c", "d", "e"]
PLAIN = ObjectiveSection(label_smoothing=0.0, neftune_alpha=0.0, weight_penalty=0.0)


def make_base(name: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(BASES[name](), attn_implementation="eager")
    assert isinstance(model, PreTrainedModel)
    return model


def make_hypernet(base: PreTrainedModel, dropout: float = 0.0) -> Hypernetwork:
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
    return hypernet


def make_batch(
    parts: int = 1,
    rows: Sequence[int] = range(5),
    *,
    teacher: bool = False,
    swapped: Sequence[int] = (),
) -> Batch:
    """Five rows; the teacher sees all of them, or those alone whose task is swapped."""
    lengths = [len(PROMPTS[i]) + len(ANSWERS[i]) for i in rows]
    groups = [[rows[place] for place in group] for group in split_by_length(lengths, parts)]
    answers = [[ANSWERS[i] for i in group] for group in groups]
    taught = [
        [place for place, i in enumerate(group) if teacher or i in swapped] for group in groups
    ]
    return Batch(
        parts=tuple(
            Part(
                student=Rows.join([PROMPTS[i] for i in group], own),
                teacher=Rows.join([TOLD[group[p]] for p in told], [own[p] for p in told])
                if told
                else None,
                taught=tuple(told),
                swapped=tuple(i in swapped for i in group),
                rows=tuple(ADAPTERS[i] for i in group),
                task_names=tuple(NAMES[i] for i in group),
                noise_seeds=tuple(100 + i for i in group),
            )
            for group, own, told in zip(groups, answers, taught, strict=True)
        ),
        embeddings=torch.randn(3, 6, generator=torch.Generator().manual_seed(2)),
        total_rows=5,
        seed=7,
    )


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    module.zero_grad()
    return found


def token_losses(logits: Tensor, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Cross-entropy of each answer token, from the logits of one row without padding."""
    ids = torch.tensor([*prompt, *answer])
    return F.cross_entropy(logits[len(prompt) - 1 : -1], ids[len(prompt) :], reduction="none")


def naive_loss(
    base: PreTrainedModel,
    hypernet: nn.Module,
    objective: ObjectiveSection,
    swapped: Sequence[int] = (),
) -> Tensor:
    """One row at a time, unpadded, logits of every position, all in one graph."""
    batch = make_batch()
    weights = hypernet(batch.embeddings)
    rows = []
    for i, (prompt, told, answer, adapter) in enumerate(
        zip(PROMPTS, TOLD, ANSWERS, ADAPTERS, strict=True)
    ):
        with torch.no_grad():
            teacher = base(torch.tensor([[*told, *answer]])).logits[0, len(told) - 1 : -1]
        own = weights.select([adapter if weights.num_adapters > 1 else 0])
        with adapted(base, own):
            logits = base(torch.tensor([[*prompt, *answer]])).logits[0]
        loss = objective.ce_weight * token_losses(logits, prompt, answer).mean()
        student = logits[len(prompt) - 1 : -1].log_softmax(-1)
        target = teacher.log_softmax(-1)
        kl = (target.exp() * (target - student)).sum(-1).mean()
        factors = [*own.a.values(), *own.b.values()]
        penalty = torch.stack([factor.square().mean() for factor in factors]).sum()
        loss = loss + objective.distill_weight * kl
        if i in swapped:
            loss = objective.swapped_weight * kl
        rows.append(loss + objective.weight_penalty * penalty)
    return torch.stack(rows).mean()


OBJECTIVES = {
    "cross-entropy": PLAIN,
    "penalty": PLAIN.model_copy(update={"weight_penalty": 0.5}),
    "distillation": PLAIN.model_copy(update={"ce_weight": 0.0, "distill_weight": 1.0}),
    "mixed": PLAIN.model_copy(update={"ce_weight": 0.7, "distill_weight": 0.3}),
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_equal_rows_one_by_one(objective: str, parts: int) -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base)
    module = SftModule(hypernet, base, OBJECTIVES[objective])
    loss = module(make_batch(parts, teacher=True))
    loss.backward()
    found = gradients(hypernet)
    expected = naive_loss(base, hypernet, OBJECTIVES[objective])
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, gradient in gradients(hypernet).items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("distill_weight", [0.0, 0.3])
def test_rows_with_a_swapped_task_learn_from_the_teacher_alone(
    parts: int, distill_weight: float
) -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base)
    changes = {"distill_weight": distill_weight, "swapped_weight": 0.6}
    objective = PLAIN.model_copy(update=changes)
    module = SftModule(hypernet, base, objective)
    loss = module(make_batch(parts, teacher=distill_weight > 0, swapped=(1, 4)))
    loss.backward()
    found = gradients(hypernet)
    expected = naive_loss(base, hypernet, objective, swapped=(1, 4))
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, gradient in gradients(hypernet).items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "bert"])
def test_answer_logits_are_those_of_the_whole_forward_pass(family: str) -> None:
    base = make_base(family)
    hypernet = make_hypernet(base)
    module = SftModule(hypernet, base, PLAIN).train()
    loss = module(make_batch(2))
    torch.testing.assert_close(loss, naive_loss(base, hypernet, PLAIN), atol=1e-5, rtol=1e-5)


def test_a_base_that_computes_all_logits_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("llama")
    whole = base.forward

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Any:
        return whole(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(base, "forward", forward)
    hypernet = make_hypernet(base)
    loss = SftModule(hypernet, base, PLAIN)(make_batch(2))
    monkeypatch.undo()
    torch.testing.assert_close(loss, naive_loss(base, hypernet, PLAIN))


@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_dropout_and_noise_do_not_depend_on_parts_or_processes(alpha: float) -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base, dropout=0.3)
    module = SftModule(hypernet, base, PLAIN.model_copy(update={"neftune_alpha": alpha})).train()
    whole = module(make_batch())
    whole.backward()
    expected = gradients(hypernet)
    # Two processes, one of them in two parts: the sum of losses is the loss.
    shares = [module(make_batch(1, [0, 1])), module(make_batch(2, [2, 3, 4]))]
    for share in shares:
        share.backward()
    torch.testing.assert_close(torch.stack(shares).sum(), whole)
    for name, gradient in gradients(hypernet).items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-6, rtol=1e-4)


def test_dropout_and_noise_change_the_loss_and_leave_torchs_generator_alone() -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base, dropout=0.3)
    noisy = PLAIN.model_copy(update={"neftune_alpha": 5.0})
    state = torch.random.get_rng_state()
    dropped = SftModule(hypernet, base, PLAIN).train()(make_batch()).item()
    noised = SftModule(hypernet, base, noisy).train()(make_batch()).item()
    plain = SftModule(hypernet, base, noisy).eval()
    rows = plain.validate(make_batch())
    assert len({dropped, noised, rows.mean().item()}) == 3
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(rows.mean(), naive_loss(base, hypernet.eval(), PLAIN))


def test_noise_is_uniform_within_neftunes_bound() -> None:
    base = make_base("llama")
    table = base.get_input_embeddings()
    seen: list[Tensor] = []
    SftModule(make_hypernet(base), base, PLAIN)(make_batch())
    handle = base.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or (kwargs["hidden_states"],))[0].detach()),
        with_kwargs=True,
    )
    objective = PLAIN.model_copy(update={"neftune_alpha": 5.0})
    batch = make_batch()
    SftModule(make_hypernet(base), base, objective)(batch)
    handle.remove()
    (part,) = batch.parts
    # Packed: rows of one adapter next to each other.
    order = sorted(range(5), key=part.rows.__getitem__)
    rows = [part.student.unbind()[row] for row in order]
    noise = (seen[0] - table(torch.cat(rows)))[0]
    for own in noise.split([len(row) for row in rows]):
        bound = 5.0 / own.numel() ** 0.5
        assert own.abs().max() <= bound * (1 + 1e-5)
        assert own.abs().max() > 0.9 * bound
        assert own.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_smoothing_acts_in_training_and_not_in_validation() -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base)
    smooth = SftModule(hypernet, base, PLAIN.model_copy(update={"label_smoothing": 0.5}))
    plain = SftModule(hypernet, base, PLAIN)
    assert smooth(make_batch()).item() != pytest.approx(plain(make_batch()).item(), rel=1e-3)
    assert torch.equal(smooth.validate(make_batch(2)), plain.validate(make_batch(2)))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_base_stays_frozen_in_eval_mode_and_out_of_the_state(family: str) -> None:
    base = make_base(family)
    hypernet = make_hypernet(base)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    module = SftModule(hypernet, base, PLAIN).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first = module(make_batch())
    first.backward()
    optimizer.step()
    assert module(make_batch()).item() < first.item()
    assert not any(child.training for child in base.modules())
    assert not any(p.requires_grad or p.grad is not None for p in base.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert set(module.state_dict()) == {f"hypernet.{name}" for name in hypernet.state_dict()}


def test_gradients_are_float32_through_a_bfloat16_base() -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base)
    SftModule(hypernet, base, PLAIN)(make_batch()).backward()
    exact = gradients(hypernet)
    SftModule(hypernet, base.bfloat16(), PLAIN)(make_batch(2)).backward()
    rounded = gradients(hypernet)
    assert {gradient.dtype for gradient in rounded.values()} == {torch.float32}
    one, other = (torch.cat([g.flatten() for g in each.values()]) for each in (exact, rounded))
    # bfloat16 keeps 8 bits of every activation; the direction stays.
    assert F.cosine_similarity(one, other, dim=0) > 0.98


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_gradient_checkpointing_recomputes_layers_and_changes_nothing(family: str) -> None:
    base = make_base(family)
    hypernet = make_hypernet(base)
    layers = LoraSpec.from_config(base.config, targets="all-linear").layers_path
    calls: list[nn.Module] = []
    takes_packed_rows(base, 1)  # tries it out, which is no pass to count
    first = base.get_submodule(f"{layers}.0")
    linear = next(child for child in first.modules() if isinstance(child, nn.Linear))
    handle = linear.register_forward_hook(lambda module, args, output: calls.append(module))
    SftModule(hypernet, base, PLAIN).train()(make_batch(2)).backward()
    expected, plain_calls = gradients(hypernet), len(calls)
    module = SftModule(hypernet, base, PLAIN, gradient_checkpointing=True).train()
    module(make_batch(2)).backward()
    handle.remove()
    assert plain_calls == 2 and len(calls) == 6  # each part once, then once more in backward
    assert not any(child.training for child in base.modules() if isinstance(child, nn.Dropout))
    for name, gradient in gradients(hypernet).items():
        torch.testing.assert_close(gradient, expected[name])


def test_one_static_adapter_serves_all_rows() -> None:
    base = make_base("llama")
    spec = LoraSpec.from_config(base.config, targets="all-linear", rank=2, alpha=4)
    static = StaticAdapter(spec)
    with torch.no_grad():
        for b in static.b:
            b.normal_(std=0.1)
    objective = OBJECTIVES["penalty"]
    module = SftModule(static, base, objective)
    loss = module(make_batch(2))
    loss.backward()
    found = gradients(static)
    expected = naive_loss(base, static, objective)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, gradient in gradients(static).items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(
        module.validate(make_batch(1)).mean(), naive_loss(base, static, PLAIN)
    )


def test_each_description_is_generated_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base)
    seen: list[int] = []
    handle = hypernet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    SftModule(hypernet, base, PLAIN)(make_batch(3))
    handle.remove()
    assert seen == [3]


def test_a_loss_that_is_not_finite_names_its_tasks() -> None:
    base = make_base("llama")
    hypernet = make_hypernet(base)
    with torch.no_grad():
        base.get_input_embeddings().weight[38] = float("nan")  # in the answer of row "e"
        base.get_input_embeddings().weight[12] = float("inf")  # in the prompt of row "b"
    with pytest.raises(T2LError, match="the loss of b, e is not finite"):
        SftModule(hypernet, base, PLAIN)(make_batch())


def test_adapters_take_turns_in_one_order() -> None:
    """Rows of one adapter in several parts give it the sum of their gradients."""
    base = make_base("llama")
    hypernet = make_hypernet(base)
    module = SftModule(hypernet, base, PLAIN)
    found = []
    for parts in (1, 2, 5):
        module(make_batch(parts)).backward()
        found.append(gradients(hypernet))
    for one, other in pairwise(found):
        for name, gradient in one.items():
            torch.testing.assert_close(gradient, other[name], atol=2e-6, rtol=1e-4)
