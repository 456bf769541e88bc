"""Adapters on a live model: adapted() gives each batch row its own; merge() keeps one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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
    run = _Run(index, lengths, needs_grad=weights.requires_grad)
    with ExitStack() as stack:
        _active.add(layers)
        stack.callback(_active.discard, layers)
        stack.callback(setattr, run, "open", False)
        with torch.enable_grad():  # so that a block entered under no_grad() loses no gradient
            for handle in run.install(model, layers, weights):
                stack.callback(handle.remove)
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
        a, b = (
            side[key][0, slot].to(weight.device, torch.float32) for side in (weights.a, weights.b)
        )
        delta = spec.scaling * (b @ a)
        weight.copy_(weight.float() + (delta if isinstance(module, nn.Linear) else delta.T))


class _Run:
    """What the hooks of one adapted() block share.

    index: adapter of each row of the caller, [rows]; a batch must be a multiple of it
    lengths: tokens of each row, where all stand in one sequence
    needs_grad: a gradient is to reach the adapters
    """

    def __init__(self, index: Tensor, lengths: Sequence[int] | None, *, needs_grad: bool) -> None:
        self.num_rows = len(index)
        self.needs_grad = needs_grad
        self.open = True
        self.grad_outside = False  # gradient mode where the list of layers is called
        # Shapes that layers were called with; a set, since a layer that checkpointing recomputes
        # may not be announced again, and another batch may have run since.
        self.batches: set[int] = set()
        self.tokens: set[int] = set()  # batch · seq
        # Neighbouring rows of one adapter are one row of the products.
        self.adapters, counts = torch.unique_consecutive(index, return_counts=True)
        self.spans: list[int] | None = None  # tokens of each adapter in one sequence
        if lengths is not None:
            parts = torch.split(torch.tensor(lengths), counts.tolist())
            self.spans = [int(part.sum()) for part in parts]
        elif not (counts == counts[0]).all():
            self.adapters = index

    def install(
        self, model: PreTrainedModel, layers: nn.ModuleList, weights: LoraWeights
    ) -> Iterator[RemovableHandle]:
        """Register every hook, one after another."""
        spec = weights.spec
        if self.needs_grad:
            parent = model.get_submodule(spec.layers_path.rpartition(".")[0])
            yield parent.register_forward_pre_hook(self.note_grad_mode)
        for number in sorted({slot.layer for slot in spec.slots}):
            layer = layers[number]
            if self.num_rows > 1 and self.spans is None:
                yield layer.register_forward_pre_hook(self.note_batch, with_kwargs=True)
            if self.needs_grad and getattr(layer, "gradient_checkpointing", False):
                yield layer.register_forward_hook(self.guard_backward)
        for group in spec.groups:
            modules = [_target(layers, spec, number, group.module) for number in group.layers]
            # By unbind, since the backward pass of an index fills a tensor for all slots each time.
            a = self.gather(weights.a[group.key], modules[0]).unbind(1)
            b = self.gather(weights.b[group.key], modules[0]).unbind(1)
            for place, module in enumerate(modules):
                name = spec.module_name(group.layers[place], group.module)
                hook = _TargetHook(self, name, a[place], b[place], spec.scaling)
                yield module.register_forward_hook(hook)

    def gather(self, factors: Tensor, module: nn.Module) -> Tensor:
        """The factors of the adapters in use, in the dtype and on the device of a module."""
        if self.adapters.tolist() != list(range(len(factors))):
            factors = factors.index_select(0, self.adapters.to(factors.device))
        weight = module.get_parameter("weight")
        if not weight.is_meta:  # an offloaded weight does not tell where it will compute
            factors = factors.to(weight.device)
        return factors.to(weight.dtype) if _is_plain(weight) else factors

    def note_grad_mode(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Remember the gradient mode outside of any checkpointed layer."""
        self.grad_outside = torch.is_grad_enabled()

    def note_batch(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the batches that run, so that rows can be told apart in each target."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.ndim != 3 or hidden.shape[0] % self.num_rows:
            raise SpecError(
                f"a decoder layer got an input of shape {tuple(hidden.shape)}; its batch must be "
                f"a multiple of the {self.num_rows} rows of adapted(); do not pack or flatten "
                "sequences into one row"
            )
        self.batches.add(hidden.shape[0])
        self.tokens.add(hidden.shape[0] * hidden.shape[1])

    def check_rows(self, x: Tensor, name: str) -> None:
        """Raise unless the rows of the running batch can be told apart in a target's input."""
        if self.spans is not None:
            distinguishable = x.shape[:-1].numel() == sum(self.spans)
            place = f"in a sequence of {sum(self.spans)} tokens for {self.num_rows} rows"
        else:
            by_row = x.ndim == 3 and x.shape[0] in self.batches
            by_token = x.ndim == 2 and x.shape[0] in self.tokens  # as shared experts see it
            distinguishable = by_row or by_token
            place = f"flattened over a batch of {sorted(self.batches)}"
        if not distinguishable:
            raise SpecError(
                f"{name} got an input of shape {tuple(x.shape)}, {place}; its rows cannot be told "
                "apart, so use one adapter for all"
            )

    def guard_backward(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Stop a backward pass that would recompute this layer without adapters."""
        hidden = output[0] if isinstance(output, tuple) else output
        if layer.training and hidden.requires_grad:
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
        as many tokens of one sequence as the run's `spans` says
    """

    def __init__(self, run: _Run, name: str, a: Tensor, b: Tensor, scaling: float) -> None:
        self.run = run
        self.name = name
        self.single = len(a) == 1
        self.rows = () if self.single else (len(a),)
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
            run.check_rows(x, self.name)
        a, b = self.a, self.b
        if a.dtype != x.dtype or a.device != x.device:
            a, b = a.to(x), b.to(x)
        if run.spans is not None and not self.single:
            add: Any = AddBySpans.apply
            y: Tensor = add(output.to(x.dtype).contiguous(), x, a, b, self.scaling, run.spans)
            return y.to(output.dtype)
        flat_x = x.reshape(*self.rows, -1, x.shape[-1])
        flat_y = output.reshape(*self.rows, -1, output.shape[-1])
        multiply, add = (torch.mm, torch.addmm) if self.single else (torch.bmm, torch.baddbmm)
        low = multiply(flat_x, a)  # [distinct, tokens, rank]
        if low.dtype == output.dtype == b.dtype:
            sums: Tensor = add(flat_y, low, b, alpha=self.scaling)
            return sums.view_as(output)
        # Under autocast, products and outputs may have unlike dtypes.
        return output + (self.scaling * (low @ b)).to(output.dtype).view_as(output)


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
