"""The paper's hypernetwork for one slot of one adapter, line by line in numpy and float64.

What the tests of `hypernet/` compare with. Parameters have the names of the reference
implementation's files; linear layers are applied to one vector at a time.
Source: Text-to-LoRA (arXiv 2506.06105) and its released code at 8ba7749.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from text_to_lora.hypernet import Hypernetwork

Array = Any
Parameters = dict[str, Array]
Factors = tuple[Array, Array]  # A [rank, in], B [out, rank]


def to_arrays(state: Mapping[str, Any]) -> Parameters:
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def linear(p: Parameters, name: str, x: Array) -> Array:
    product = p[f"{name}.weight"] @ x
    return product + p[f"{name}.bias"] if f"{name}.bias" in p else product


def norm(p: Parameters, name: str, x: Array) -> Array:
    centred = x - x.mean()
    unit = centred / np.sqrt((centred**2).mean() + 1e-5)
    return unit * p[f"{name}.weight"] + p[f"{name}.bias"]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def residual(p: Parameters, name: str, x: Array) -> Array:
    hidden = silu(linear(p, f"{name}.mlp.1", norm(p, f"{name}.mlp.0", x)))
    return x + silu(linear(p, f"{name}.mlp.4", hidden))


def latent_code(p: Parameters, embedding: Array, depth: int, kind: int) -> Array:
    task = norm(p, "task_encoder.mlp.1", linear(p, "task_encoder.mlp.0", embedding))
    layer = norm(p, "layer_depth_encoder.1", p["layer_depth_encoder.0.weight"][depth])
    module = norm(p, "layer_type_encoder.1", p["layer_type_encoder.0.weight"][kind])
    x = np.concatenate([task, layer, module])
    mixed = silu(linear(p, "mixer.4", silu(linear(p, "mixer.1", x))))
    return residual(p, "mlp1", mixed)


def head_product(p: Parameters, head: str, code: Array) -> Array:
    hidden = silu(linear(p, "mlp3.1", norm(p, "mlp3.0", code)))
    return linear(p, f"heads.{head}", silu(linear(p, "mlp3.4", hidden)))


def joint(p: Parameters, latent: Array, head: str, rank: int, wide: int, out: int) -> Factors:
    flat = head_product(p, head, residual(p, "mlp2", latent))
    return flat[: rank * wide].reshape(rank, wide), flat[rank * wide :].reshape(rank, out).T


def shared(p: Parameters, latent: Array, head: str, rank: int, wide: int, out: int) -> Factors:
    sides = []
    for side, width in (("A", wide), ("B", out)):
        code = latent + norm(p, "out_emb_norm", p[f"out_emb.{head}.{side}"])
        rows = head_product(p, head, residual(p, "mlp2", code)).reshape(rank, max(wide, out))
        sides.append(rows[:, :width])
    return sides[0], sides[1].T


def by_rank(p: Parameters, latent: Array, head: str, rank: int, wide: int, out: int) -> Factors:
    sides = []
    for side, width in (("A", wide), ("B", out)):
        code = latent + norm(p, "out_emb_norm", p[f"out_emb.{head}.{side}"])
        rows = []
        for row in range(rank):
            position = residual(p, "mlp2", norm(p, "pos_emb.1", p["pos_emb.0.weight"][row]))
            rows.append(head_product(p, head, residual(p, "mlp2", code) + position)[:width])
        sides.append(np.stack(rows))
    return sides[0], sides[1].T


HEADS = {"joint": joint, "shared": shared, "rank": by_rank}


def reference_parameters(hypernet: Hypernetwork) -> Parameters:
    """Parameters of our network under the reference's names, one head for each group key."""
    state = to_arrays(hypernet.state_dict())
    renamed = {
        "backbone.task_encoder": "task_encoder.mlp",
        "backbone.depth_encoder": "layer_depth_encoder",
        "backbone.type_encoder": "layer_type_encoder",
        "backbone": "",
        "head.side_norm": "out_emb_norm",
        "head.rank_encoder": "pos_emb",
    }
    p = {}
    for name, array in state.items():
        for ours, theirs in renamed.items():
            if name.startswith(f"{ours}."):
                p[f"{theirs}{name.removeprefix(ours)}".lstrip(".")] = array
                break
    spec = hypernet.spec
    for number, group in enumerate(spec.groups):
        ours = group.key.replace(".", "/")
        for part in ("weight", "bias") if hypernet.config.head_bias else ("weight",):
            if hypernet.config.head == "joint":
                b = state[f"head.b.{ours}.{part}"]
                by_row = b.reshape(group.out_features, spec.rank, -1).swapaxes(0, 1)
                flat = by_row.reshape(b.shape)
                whole = np.concatenate([state[f"head.a.{ours}.{part}"], flat])
            else:
                whole = state[f"head.linears.{ours}.{part}"]
            p[f"heads.{group.key}.{part}"] = whole
        if hypernet.config.head != "joint":
            for side, code in zip("AB", state["head.side_codes"][number], strict=True):
                p[f"out_emb.{group.key}.{side}"] = code
    return p
