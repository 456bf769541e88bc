"""adapted() and merge() on every family against PEFT, row by row; and where they refuse."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from text_to_lora.errors import SpecError
from text_to_lora.lora import LoraSpec, LoraWeights, adapted, merge, save_adapter

# transformers 5.23 deprecates the names that older 5.x and peft 0.21 know.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning"),
]

Q = "self_attn.q_proj"
# float32 products in another order, logits of size 1 to 10
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 2e-4}
ROWS = [2, 0, 1, 0]


def peft_logits(
    model: PreTrainedModel, weights: LoraWeights, batch: dict[str, torch.Tensor], folder: Path
) -> list[torch.Tensor]:
    """Logits of the whole batch under each adapter, by PEFT from saved folders."""
    logits = []
    for number, adapter in enumerate(weights.unbind()):
        path = save_adapter(adapter, folder / str(number))
        loaded = peft.PeftModel.from_pretrained(deepcopy(model), str(path)).eval()
        logits.append(loaded(**batch).logits)
    return logits


def num_hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def refuse(message: str, model: PreTrainedModel, weights: LoraWeights, **options: Any) -> None:
    """Expect an error on entry, with the model left clean."""
    with pytest.raises(SpecError, match=message), adapted(model, weights, **options):
        pass
    assert num_hooks(model) == 0


def set_checkpointing(model: PreTrainedModel, *, reentrant: bool) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.train()


@pytest.fixture
def weights(kit: Any, llama_spec: LoraSpec) -> LoraWeights:
    return kit.weights(llama_spec, adapters=3)


@torch.no_grad()
def test_unlike_rows_give_pefts_logits(kit: Any, family: str, tmp_path: Path) -> None:
    model = kit.model(kit.config(family))
    spec = LoraSpec.from_config(model.config, targets="all-linear", rank=3, rslora=True)
    weights = kit.weights(spec, adapters=3)
    for side in ("left", "right"):
        batch = kit.batch(4, side=side)
        expected = peft_logits(model, weights, batch, tmp_path / side)
        with adapted(model, weights, ROWS):
            ours = model(**batch).logits
        real = batch["attention_mask"].bool()
        for row, adapter in enumerate(ROWS):
            torch.testing.assert_close(
                ours[row][real[row]], expected[adapter][row][real[row]], **CLOSE
            )
        assert (ours - model(**batch).logits)[real].abs().max() > 0.05
    assert num_hooks(model) == 0


@torch.no_grad()
def test_cached_generation_equals_uncached_and_merged(kit: Any, family: str) -> None:
    model = kit.model(kit.config(family))
    spec = LoraSpec.from_config(model.config, targets="all-linear", rank=3)
    weights = kit.weights(spec, adapters=2)
    batch = kit.batch(3, side="left")
    rows = [1, 0, 1]
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with adapted(model, weights, rows):
        cached = model.generate(**batch, **options, use_cache=True)
        uncached = model.generate(**batch, **options, use_cache=False)
    assert torch.equal(cached, uncached)
    for row, adapter in enumerate(rows):
        merged = deepcopy(model)
        merge(merged, weights.select([adapter]))
        alone = merged.generate(**{k: v[row : row + 1] for k, v in batch.items()}, **options)
        assert torch.equal(alone[0], cached[row])


@torch.no_grad()
def test_beams_and_return_sequences_keep_each_rows_adapter(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights
) -> None:
    batch = kit.batch(2)
    for options in (
        {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
        {"num_beams": 2, "do_sample": False},
    ):
        fixed: dict[str, Any] = options | {"max_new_tokens": 4, "eos_token_id": None}
        with adapted(llama, weights, [2, 0]):
            together = llama.generate(**batch, **fixed)
        for row, adapter in enumerate((2, 0)):
            with adapted(llama, weights.select([adapter])):
                alone = llama.generate(**{k: v[[row]] for k, v in batch.items()}, **fixed)
            assert torch.equal(together.chunk(2)[row], alone)


class Allocations(TorchDispatchMode):
    """Sizes of all tensors that are made, in elements; views are none."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result._is_view():
            self.sizes.append(result.numel())
        return result


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 1, 2, 1]])
def test_adapters_are_not_repeated_per_token_and_the_base_is_not_copied(
    kit: Any, llama: PreTrainedModel, llama_spec: LoraSpec, rows: list[int]
) -> None:
    rank, seq = 64, 9
    weights = kit.weights(llama_spec.with_rank(rank), adapters=3)
    batch = kit.batch(len(rows), seq)
    places = {name: parameter.data_ptr() for name, parameter in llama.named_parameters()}
    modules = list(map(id, llama.modules()))
    with torch.no_grad(), Allocations() as bare:
        llama(**batch)
    with torch.no_grad(), Allocations() as entry, adapted(llama, weights, rows):
        entered = len(entry.sizes)
        llama(**batch)
        assert {name: p.data_ptr() for name, p in llama.named_parameters()} == places
        assert list(map(id, llama.modules())) == modules
    # On entry no more than A and B of each row; then nothing of the size of one factor per token
    # (rank · 32 for each token), only rank numbers for each token and what the base makes itself.
    assert max(entry.sizes[:entered], default=0) <= len(rows) * 2 * rank * 32
    assert max(entry.sizes[entered:]) <= max(*bare.sizes, len(rows) * seq * rank)


def loss_and_gradients(
    model: PreTrainedModel, weights: LoraWeights, rows: list[int], batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradients of all factors of one training step inside adapted()."""
    leaves = [t.detach().requires_grad_() for t in (*weights.a.values(), *weights.b.values())]
    half = len(leaves) // 2
    tracked = LoraWeights(
        weights.spec,
        dict(zip(weights.a, leaves[:half], strict=True)),
        dict(zip(weights.b, leaves[half:], strict=True)),
    )
    with adapted(model, tracked, rows):
        loss = model(**batch, labels=batch["input_ids"]).loss
        gradients = torch.autograd.grad(loss, leaves)
    return loss.detach(), list(gradients)


def test_gradients_are_those_of_a_model_with_formed_weights(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights
) -> None:
    batch = kit.batch(4)
    loss, gradients = loss_and_gradients(llama, weights, ROWS, batch)
    leaves = [t.detach().requires_grad_() for t in (*weights.a.values(), *weights.b.values())]
    logits = []
    for row, adapter in enumerate(ROWS):
        formed = dict(llama.named_parameters())
        for group, a, b in zip(weights.spec.groups, leaves[:2], leaves[2:], strict=True):
            for slot, layer in enumerate(group.layers):
                name = f"{weights.spec.module_name(layer, group.module)}.weight"
                delta = 1.5 * b[adapter, slot] @ a[adapter, slot]
                formed[name] = formed[name] + delta
        single = {key: value[[row]] for key, value in batch.items()}
        logits.append(torch.func.functional_call(llama, formed, kwargs=single).logits)
    expected = llama.loss_function(torch.cat(logits), batch["input_ids"], vocab_size=61)
    torch.testing.assert_close(loss, expected.detach(), **CLOSE)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        assert ours.any()


def test_checkpointing_gives_the_same_gradients(kit: Any, family: str) -> None:
    model = kit.model(kit.config(family))
    for module in model.modules():  # train mode without the noise of dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    spec = LoraSpec.from_config(model.config, targets="all-linear", rank=3)
    weights = kit.weights(spec, adapters=3)
    batch = kit.batch(4)
    if family == "gemma3":
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    model.config.get_text_config().attention_dropout = 0.0
    loss, gradients = loss_and_gradients(model, weights, ROWS, batch)
    set_checkpointing(model, reentrant=False)
    loss_again, gradients_again = loss_and_gradients(model, weights, ROWS, batch)
    torch.testing.assert_close(loss_again, loss)
    for again, once in zip(gradients_again, gradients, strict=True):
        torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [None, [1]])
def test_backward_after_the_block_under_checkpointing_is_an_error(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights, rows: list[int] | None
) -> None:
    weights.a[Q].requires_grad_()
    batch = kit.batch(3)
    set_checkpointing(llama, reentrant=False)
    with adapted(llama, weights, rows):
        loss = llama(**batch, labels=batch["input_ids"]).loss
    with pytest.raises(SpecError, match=r"call backward\(\) inside the block"):
        loss.backward()


def test_checkpointed_batches_of_unlike_sizes_run_before_one_backward(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights
) -> None:
    weights.b[Q].requires_grad_()
    gradients = []
    for reentrant in (None, False):
        if reentrant is not None:
            set_checkpointing(llama, reentrant=reentrant)
        with adapted(llama, weights):
            sums = [llama(**kit.batch(rows, seq)).logits.sum() for rows, seq in ((3, 5), (6, 4))]
            (gradient,) = torch.autograd.grad(sums[0] + sums[1], weights.b[Q])
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_hand_made_checkpoint_left_behind_is_an_error(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights
) -> None:
    weights.a[Q].requires_grad_()
    ids = kit.batch(3)["input_ids"]
    with adapted(llama, weights):
        logits = checkpoint(lambda: llama(ids).logits, use_reentrant=False)
    with pytest.raises((SpecError, torch.utils.checkpoint.CheckpointError)):
        logits.sum().backward()


@pytest.mark.parametrize("rows", [None, [1]])
def test_reentrant_checkpointing_is_an_error(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights, rows: list[int] | None
) -> None:
    weights.b[Q].requires_grad_()
    set_checkpointing(llama, reentrant=True)
    hooks = num_hooks(llama)  # transformers' own, which makes embeddings require gradients
    with (
        pytest.raises(SpecError, match=r"reentrant .*use_reentrant=False"),
        adapted(llama, weights, rows),
    ):
        llama(**kit.batch(3))
    assert num_hooks(llama) == hooks


@pytest.mark.parametrize("rows", [None, [1]])
def test_autocast_keeps_gradients(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights, rows: list[int] | None
) -> None:
    weights.b[Q].requires_grad_()
    batch = kit.batch(3)
    with torch.autocast("cpu", torch.bfloat16), adapted(llama, weights, rows):
        rounded = llama(**batch).logits
    with adapted(llama, weights, rows):
        exact = llama(**batch).logits
    rounded.float().sum().backward()
    gradient = weights.b[Q].grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert gradient.any()
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


@torch.no_grad()
def test_model_is_clean_after_an_exception(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights
) -> None:
    batch = kit.batch(3)
    before = llama(**batch).logits
    with pytest.raises(RuntimeError, match="stop"), adapted(llama, weights):
        raise RuntimeError("stop")
    assert num_hooks(llama) == 0
    assert torch.equal(llama(**batch).logits, before)
    with adapted(llama, weights):  # and it can be adapted again
        assert not torch.equal(llama(**batch).logits, before)


def test_rows_in_one_sequence_have_their_own_adapters(
    llama: PreTrainedModel, weights: LoraWeights
) -> None:
    linear = llama.model.layers[0].self_attn.q_proj
    x = torch.randn(1, 9, linear.in_features)
    lengths, rows = [2, 3, 1, 3], [2, 2, 0, 1]
    for chosen in (weights, weights.to(dtype=torch.float64)):
        with adapted(llama, chosen, rows, lengths=lengths):
            together = linear(x)
        start = 0
        for length, row in zip(lengths, rows, strict=True):
            with adapted(llama, weights.select([row])):
                alone = linear(x[:, start : start + length])
            torch.testing.assert_close(together[:, start : start + length], alone, **CLOSE)
            start += length
        assert (together - linear(x)).abs().amax(-1).min() > 0.01  # every token is adapted


@pytest.mark.parametrize(
    "rows", [[0, 0, 1, 1], [1, 0, 2, 1], [1, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2]]
)
@torch.no_grad()
def test_any_pattern_of_rows_gives_each_row_its_adapter(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights, rows: list[int]
) -> None:
    batch = kit.batch(len(rows))
    with adapted(llama, weights, None if rows == [0, 1, 2] else torch.tensor(rows)):
        together = llama(**batch).logits
    for row, adapter in enumerate(rows):
        with adapted(llama, weights.select([adapter])):
            alone = llama(**batch).logits[row]
        torch.testing.assert_close(together[row], alone, **CLOSE)


@pytest.mark.parametrize("outside", [torch.no_grad, torch.enable_grad])
def test_gradients_reach_every_adapter_however_the_block_is_entered_and_left(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights, outside: Any
) -> None:
    weights.b[Q].requires_grad_()
    batch = kit.batch(3)
    with outside(), adapted(llama.train(), weights), torch.enable_grad():
        loss = llama(**batch, labels=batch["input_ids"]).loss
        with torch.no_grad():
            llama(**batch)
            llama.generate(**batch, max_new_tokens=2)
    loss.backward()
    gradient = weights.b[Q].grad
    assert gradient is not None
    assert gradient.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("shape", [(21, 1, 32), (1, 21, 32), (7, 3, 32), (20, 32)])
def test_inputs_whose_rows_cannot_be_told_apart_are_errors(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights, shape: tuple[int, ...]
) -> None:
    """Sequences packed into one row, and a model that reshapes between a layer and its module."""
    packed = kit.batch(3)["input_ids"].flatten()[None]
    with (
        pytest.raises(SpecError, match=r"shape \(1, 21, 32\); .* the 3 rows .*do not pack"),
        adapted(llama, weights),
    ):
        llama(input_ids=packed)
    module = llama.model.layers[0].self_attn.q_proj
    size = 32 * shape[0] * (shape[1] if len(shape) == 3 else 1)
    handle = module.register_forward_pre_hook(
        lambda module, args: args[0].flatten()[:size].reshape(shape)
    )
    with (
        pytest.raises(SpecError, match=r"q_proj got an input of shape .* cannot be told apart"),
        adapted(llama, weights),
    ):
        llama(**kit.batch(3))
    handle.remove()
    assert num_hooks(llama) == 0


@torch.no_grad()
def test_bfloat16_base_takes_float32_adapters(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights
) -> None:
    batch = kit.batch(4)
    with adapted(llama, weights, ROWS):
        exact = llama(**batch).logits
    llama.bfloat16()
    for adapters in (weights, weights.to(dtype=torch.bfloat16)):
        with adapted(llama, adapters, ROWS):
            rounded = llama(**batch).logits
        assert rounded.dtype == torch.bfloat16
        # bfloat16 keeps 8 bits; two layers of it
        assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


def test_rows_lengths_and_blocks_that_cannot_be_are_errors(
    llama: PreTrainedModel, weights: LoraWeights
) -> None:
    for rows in ([0, 3], [-1]):
        refuse("adapters are 0 to 2", llama, weights, rows=rows)
    for odd in ([], [0.5]):
        refuse("a list of adapter numbers", llama, weights, rows=odd)
    refuse("2 lengths for 3 rows; give one for each row", llama, weights, lengths=[3, 4])
    linear = llama.model.layers[0].self_attn.q_proj
    with (
        pytest.raises(
            SpecError, match=r"q_proj .* shape \(1, 4, 32\), in a sequence of 9 tokens for 3 rows"
        ),
        adapted(llama, weights, lengths=[3, 4, 2]),
    ):
        linear(torch.zeros(1, 4, linear.in_features))
    with adapted(llama, weights):
        with pytest.raises(SpecError, match=r"inside adapted\(\) already"), adapted(llama, weights):
            pass
        with pytest.raises(SpecError, match="leave that block before merging"):
            merge(llama, weights.select([0]))
    assert num_hooks(llama) == 0


def test_another_base_and_a_changed_module_are_errors(
    kit: Any, llama: PreTrainedModel, weights: LoraWeights
) -> None:
    config = kit.config("llama")
    config.update({"hidden_size": 64})
    refuse("load the base", kit.model(config), weights)
    refuse(r"no 2 decoder layers at 'model.layers'", kit.model(kit.config("gpt2")), weights)
    attention = llama.model.layers[1].self_attn
    attention.v_proj = torch.nn.Linear(32, 8)
    refuse(r"v_proj' has shape \(32, 8\); the adapter needs \(32, 16\)", llama, weights)
    del attention.v_proj
    with pytest.raises(SpecError, match=r"no module 'model.layers.1.self_attn.v_proj'"):
        merge(llama, weights.select([0]))


def test_merge_refuses_what_it_cannot_do(llama: PreTrainedModel, weights: LoraWeights) -> None:
    broken = weights.select([0])
    broken.a["self_attn.v_proj"][0, 1, 0, 0] = torch.inf
    module = llama.model.layers[1].self_attn.v_proj
    module.weight = torch.nn.Parameter(torch.zeros(16, 32, dtype=torch.int8), requires_grad=False)
    before = deepcopy(llama.state_dict())
    for adapter, message in (
        (weights, "3 adapters to merge"),
        (broken, "holds NaN or infinity"),
        (weights.select([1]), r"quantised weights \(torch.int8\)"),
    ):
        with pytest.raises(SpecError, match=message):
            merge(llama, adapter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
