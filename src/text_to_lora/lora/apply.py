"""Adapters on a live model: adapted() gives each batch row its own; merge() keeps one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from text_to_lora.errors import SpecError
from text_to_lora.lora.outline import linear_shape
from text_to_lora.lora.spans import AddBySpans
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights, check_indices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Models inside an adapted() block, and specs whose base check a model has passed (hashing a
# configuration takes about a millisecond, too much for every training step).
_active: WeakSet[nn.Module] = WeakSet()
_checked: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@contextmanager
def adapted(
    model: PreTrainedModel,
    weights: LoraWeights,
    rows: Tensor | Sequence[int] | None = None,
    *,
    lengths: Sequence[int] | None = None,
) -> Iterator[None]:
    """Run a model with adapters inside the block; row i of a batch uses adapter rows[i].

    rows: adapter of each batch row, [rows]; None gives row i adapter i (one adapter: every row).
        A batch of k · len(rows) gives each entry k neighbouring rows, as beams and
        num_return_sequences do.
    lengths: tokens of each row, where the rows stand one after another in one sequence of the
        model's input; None where each is a row of the batch. Rows of one adapter are cheapest next
        to each other.
    The base is neither changed nor copied: forward hooks on the target modules add two batched
    products each. A and B are gathered once on entry, cast to the base's dtype, and carry
    gradients. Works in training, under autocast, in generate(), and with non-reentrant gradient
    checkpointing as long as backward() runs inside the block.

    Raises SpecError when the adapter is for another base, the model is adapted already, a row
    names no adapter, a batch does not divide by the rows or has not the tokens of `lengths`,
    under reentrant checkpointing, and from backward() after the block under checkpointing.
    """
    layers = _decoder_layers(model, weights.spec)
    if layers in _active:
        raise SpecError("this model is inside adapted() already; leave that block first")
    _check_base(model, weights.spec)
    adapters = weights.num_adapters
    index = torch.arange(adapters) if rows is None else check_indices(rows, adapters)
    if lengths is not None and len(index) == 1:
        index = index.repeat(len(lengths))
    if lengths is not None and len(lengths) != len(index):
        raise SpecError(f"{len(lengths)} lengths for {len(index)} rows; give one for each row")
    run = _Run(num_rows=len(index), needs_grad=weights.requires_grad, lengths=lengths)
    with ExitStack() as stack:
        _active.add(layers)
        stack.callback(_active.discard, layers)
        stack.callback(run.leave)
        with torch.enable_grad():  # so that a block entered under no_grad() loses no gradient
            run.install(stack, model, layers, weights, index)
        yield


def is_adapted(layers: nn.Module) -> bool:
    """Whether a model is inside an adapted() block; layers: the list of its decoder layers."""
    return layers in _active


@torch.no_grad()
def merge(model: PreTrainedModel, weights: LoraWeights) -> None:
    """Add one adapter to a model's weights for good, in float32 and then in the weights' dtype.

    Raises SpecError for several adapters, another base, quantised weights, numbers that are not
    finite, or a model inside adapted(); the model is then unchanged.
    """
    spec = weights.spec
    if weights.num_adapters != 1:
        raise SpecError(f"{weights.num_adapters} adapters to merge; blend or select one first")
    layers = _decoder_layers(model, spec)
    if layers in _active:
        raise SpecError("this model is inside adapted(); leave that block before merging")
    _check_base(model, spec)
    weights.check_finite()
    targets = [
        (_target(layers, spec, layer, group.module), group.key, slot)
        for group in spec.groups
        for slot, layer in enumerate(group.layers)
    ]
    for module, key, _ in targets:
        if not _is_plain(module.get_parameter("weight")):
            raise SpecError(
                f"{key!r} holds quantised weights ({module.weight.dtype}); "
                "load the base in a floating dtype to merge"
            )
    for module, key, slot in targets:
        weight = module.get_parameter("weight")
        a = weights.a[key][0, slot].to(weight.device, torch.float32)
        b = weights.b[key][0, slot].to(weight.device, torch.float32)
        delta = spec.scaling * (b @ a)
        weight.copy_(weight.float() + (delta if isinstance(module, nn.Linear) else delta.T))


class _Run:
    """What the hooks of one adapted() block share.

    num_rows: length of the caller's rows; a batch must be a multiple of it
    needs_grad: a gradient is to reach the adapters
    lengths: tokens of each row, where all stand in one sequence
    """

    def __init__(
        self, *, num_rows: int, needs_grad: bool, lengths: Sequence[int] | None = None
    ) -> None:
        self.num_rows = num_rows
        self.needs_grad = needs_grad
        self.lengths = lengths
        self.open = True
        self.grad_outside = False  # gradient mode where the list of layers is called
        # Shapes that layers were called with; a set, since a layer that checkpointing recomputes
        # may not be announced again, and another batch may have run since.
        self.batches: set[int] = set()
        self.tokens: set[int] = set()  # batch · seq

    def leave(self) -> None:
        """Mark the block as left."""
        self.open = False

    def install(
        self,
        stack: ExitStack,
        model: PreTrainedModel,
        layers: nn.ModuleList,
        weights: LoraWeights,
        index: Tensor,
    ) -> None:
        """Register every hook; the stack removes them."""
        spec = weights.spec
        if self.needs_grad:
            parent = model.get_submodule(spec.layers_path.rpartition(".")[0])
            stack.callback(parent.register_forward_pre_hook(self.note_grad_mode).remove)
        for number in sorted({slot.layer for slot in spec.slots}):
            layer = layers[number]
            if self.num_rows > 1:
                handle = layer.register_forward_pre_hook(self.note_batch, with_kwargs=True)
                stack.callback(handle.remove)
            if self.needs_grad and getattr(layer, "gradient_checkpointing", False):
                stack.callback(layer.register_forward_hook(self.guard_backward).remove)
        distinct, spans = _run_heads(index), None
        if self.lengths is not None:
            distinct, spans = _runs(index, self.lengths)
        whole = distinct.tolist() == list(range(weights.num_adapters))
        for group in spec.groups:
            modules = [_target(layers, spec, layer, group.module) for layer in group.layers]
            a, b = weights.a[group.key], weights.b[group.key]
            if not whole:
                on_device = distinct.to(a.device)
                a, b = a.index_select(0, on_device), b.index_select(0, on_device)
            weight = modules[0].get_parameter("weight")
            if not weight.is_meta:  # an offloaded weight does not tell where it will compute
                a, b = a.to(weight.device), b.to(weight.device)
            if _is_plain(weight):
                a, b = a.to(weight.dtype), b.to(weight.dtype)
            for module, layer_number, slot_a, slot_b in zip(
                modules, group.layers, a.unbind(1), b.unbind(1), strict=True
            ):
                name = spec.module_name(layer_number, group.module)
                hook = _TargetHook(self, name, slot_a, slot_b, spec.scaling, spans)
                stack.callback(module.register_forward_hook(hook).remove)

    def note_grad_mode(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Remember the gradient mode outside of any checkpointed layer."""
        self.grad_outside = torch.is_grad_enabled()

    def note_batch(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the batches that run, so that rows can be told apart in each target."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.lengths is not None:
            if hidden.shape[:-1].numel() != sum(self.lengths):
                raise SpecError(
                    f"a decoder layer got an input of shape {tuple(hidden.shape)}; the "
                    f"{self.num_rows} rows of adapted() have {sum(self.lengths)} tokens in one "
                    "sequence"
                )
            return
        if hidden.ndim != 3 or hidden.shape[0] % self.num_rows:
            raise SpecError(
                f"a decoder layer got an input of shape {tuple(hidden.shape)}; its batch must be "
                f"a multiple of the {self.num_rows} rows of adapted(); do not pack or flatten "
                "sequences into one row"
            )
        self.batches.add(hidden.shape[0])
        self.tokens.add(hidden.shape[0] * hidden.shape[1])

    def guard_backward(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Stop a backward pass that would recompute this layer without adapters."""
        if not layer.training:
            return
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(self.check_open)

    def check_open(self, gradient: Tensor) -> None:
        """Raise when the block has been left."""
        if not self.open:
            raise SpecError(
                "backward() ran after adapted() was left; under gradient checkpointing the "
                "layers are recomputed with the adapters, so call backward() inside the block"
            )


class _TargetHook:
    """Adds scaling · B A x to the output of one target module.

    a: [distinct, rank, in]; b: [distinct, out, rank]; each serves an equal run of batch rows, or
        as many tokens of one sequence as `spans` says
    """

    def __init__(
        self,
        run: _Run,
        name: str,
        a: Tensor,
        b: Tensor,
        scaling: float,
        spans: tuple[int, ...] | None = None,
    ) -> None:
        self.run = run
        self.name = name
        self.spans = spans
        self.single = len(a) == 1
        # Products take Aᵀ [.., in, rank] and Bᵀ [.., rank, out]; both are views.
        self.a = a[0].t() if self.single else a.mT
        self.b = b[0].t() if self.single else b.mT
        self.scaling = scaling

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        run = self.run
        x: Tensor = args[0]
        if run.needs_grad and run.grad_outside and not torch.is_grad_enabled():
            raise SpecError(
                "reentrant gradient checkpointing gives adapters no gradient; "
                "checkpoint with use_reentrant=False"
            )
        if run.num_rows > 1:
            self.check_rows(x)
        a, b = self.a, self.b
        if a.dtype != x.dtype or a.device != x.device:
            a, b = a.to(x), b.to(x)
        if self.spans is not None and not self.single:
            add: Any = AddBySpans.apply
            y: Tensor = add(output.to(x.dtype).contiguous(), x, a, b, self.scaling, self.spans)
            return y.to(output.dtype)
        if self.single:
            flat_x, flat_y = x.flatten(0, -2), output.flatten(0, -2)
            low = flat_x @ a
            if low.dtype == output.dtype == b.dtype:
                return torch.addmm(flat_y, low, b, alpha=self.scaling).view_as(output)
        else:
            flat_x = x.reshape(len(a), -1, x.shape[-1])
            flat_y = output.reshape(len(a), -1, output.shape[-1])
            low = torch.bmm(flat_x, a)  # [distinct, tokens, rank]
            if low.dtype == output.dtype == b.dtype:
                return torch.baddbmm(flat_y, low, b, alpha=self.scaling).view_as(output)
        # Under autocast, products and outputs may have unlike dtypes.
        return output + (self.scaling * (low @ b)).to(output.dtype).view_as(output)

    def check_rows(self, x: Tensor) -> None:
        """Raise unless the rows of the running batch can be told apart in this input."""
        run = self.run
        if run.lengths is not None:
            if x.shape[:-1].numel() != sum(run.lengths):
                raise SpecError(
                    f"{self.name} got an input of shape {tuple(x.shape)} in a sequence of "
                    f"{sum(run.lengths)} tokens; its rows cannot be told apart, so use one adapter "
                    "for all"
                )
            return
        by_row = x.ndim == 3 and x.shape[0] in run.batches
        by_token = x.ndim == 2 and x.shape[0] in run.tokens  # as shared experts see it
        if not (by_row or by_token):
            raise SpecError(
                f"{self.name} got an input of shape {tuple(x.shape)}, flattened over a batch of "
                f"{sorted(run.batches)}; its rows cannot be told apart, so use one adapter for all"
            )


def _runs(index: Tensor, lengths: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Adapters of neighbouring rows that share one, and the tokens of these rows."""
    heads, counts = torch.unique_consecutive(index, return_counts=True)
    tokens = torch.split(torch.tensor(lengths), counts.tolist())
    return heads, tuple(int(part.sum()) for part in tokens)


def _run_heads(index: Tensor) -> Tensor:
    """Drop repeats where every entry is repeated equally often in a row: 3 3 1 1 gives 3 1."""
    heads, counts = torch.unique_consecutive(index, return_counts=True)
    return heads if (counts == counts[0]).all() else index


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is stored in the dtype that it computes in; quantised and float8 are not."""
    return weight.is_floating_point() and weight.dtype.itemsize >= 2


def _check_base(model: PreTrainedModel, spec: LoraSpec) -> None:
    if _checked.get(model) != spec.base.config_hash:
        spec.check_base(model.config)
        _checked[model] = spec.base.config_hash


def _decoder_layers(model: PreTrainedModel, spec: LoraSpec) -> nn.ModuleList:
    try:
        layers = model.get_submodule(spec.layers_path)
    except AttributeError:
        layers = None
    if not isinstance(layers, nn.ModuleList) or len(layers) != spec.num_layers:
        raise SpecError(
            f"{type(model).__name__} has no {spec.num_layers} decoder layers at "
            f"{spec.layers_path!r}; pass the model that AutoModelForCausalLM loads for "
            f"{spec.base.name or spec.base.model_type!r}, without wrappers"
        )
    return layers


def _target(layers: nn.ModuleList, spec: LoraSpec, layer: int, path: str) -> nn.Module:
    name = spec.module_name(layer, path)
    expected = [
        (group.in_features, group.out_features)
        for group in spec.groups
        if group.module == path and layer in group.layers
    ]
    try:
        module = layers[layer].get_submodule(path)
    except AttributeError:
        raise SpecError(f"this model has no module {name!r}; load the adapter's base") from None
    shape = linear_shape(module)
    if shape not in expected:
        raise SpecError(f"{name!r} has shape {shape}; the adapter needs {expected[0]}")
    return module
