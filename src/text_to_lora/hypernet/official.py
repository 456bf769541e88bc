"""Reads hypernetworks that the reference implementation saved, and turns them into our folders.

A checkpoint is `hypermod.pt` (a state dict, read with weights_only), `args.yaml` (the run's
options) and `adapter_config.json` (PEFT), the last two beside it or in the run folder above
`checkpoints/`. Sizes and biases are taken from the weights: `args.yaml` does not hold them all, and
its `head_use_bias` says nothing of supervised runs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from text_to_lora.choices import HeadName
from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import (
    CheckpointError,
    ConfigError,
    SpecError,
    T2LWarning,
    first_line,
    list_some,
)
from text_to_lora.files import file_hash, read_json
from text_to_lora.hypernet.checkpoint import save_hypernet
from text_to_lora.hypernet.config import HypernetConfig, OutputName
from text_to_lora.hypernet.heads import module_name
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.lora.spec import Group, LoraSpec
from text_to_lora.lora.tensors import find_differences, find_not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WEIGHTS_FILE: Final = "hypermod.pt"
ARGS_FILE: Final = "args.yaml"
ADAPTER_FILE: Final = "adapter_config.json"

# Tokens of a description that the reference reads at most.
_MAX_TOKENS: Final = 8192
_SFR_PREFIX: Final = "Instruct: Retrieve semantically similar text.\nQuery: "

# Modules whose parameters are the same tensors in both: our prefixes and theirs, first match first.
_RENAMED: Final[Mapping[str, str]] = {
    "backbone.task_encoder.": "task_encoder.mlp.",
    "backbone.depth_encoder.": "layer_depth_encoder.",
    "backbone.type_encoder.": "layer_type_encoder.",
    "backbone.": "",
    "head.side_norm.": "out_emb_norm.",
    "head.rank_encoder.": "pos_emb.",
}
# Per module and factor; all are in every file, zeros when unused.
_PER_FACTOR: Final = ("AB_offset", "mean_recon_target", "std_recon_target")


@dataclass(frozen=True)
class Official:
    """A reference checkpoint in memory.

    hypernet: in eval mode, fp32
    encoder: what makes its task embeddings; None for one-hot task codes, which no text gives
    module_order: modules in the order of their type embeddings in the file
    """

    hypernet: Hypernetwork
    encoder: EncoderConfig | None
    module_order: tuple[str, ...]


def read_official(
    folder: Path | str,
    *,
    base: Path | str | None = None,
    module_order: Sequence[str] | None = None,
) -> Official:
    """Read a reference checkpoint of architecture L, M or S, supervised or reconstruction.

    folder: holds hypermod.pt
    base: the base model's folder or hub name; only config.json is read of it. None for what the
        checkpoint names: a folder beside it, or a model of the hub
    module_order: target modules in the order of their type embeddings. The reference numbers them
        in the order of a Python set, which differs from process to process, and does not store it;
        None for sorted names. Try the other order when adapters make no sense.

    Raises CheckpointError when a file is missing, damaged, not of this format, or of a variant that
    is not read (vera, rotary rank codes, per-rank joint heads); ConfigError for a module order that
    does not fit. Warns (T2LWarning) when the task embeddings are said to be the base model's hidden
    states but have another width.
    Source: Text-to-LoRA (arXiv 2506.06105), released code at 8ba7749.
    """
    weights_file, args_file, adapter_file = _find_files(Path(folder))
    args = _read_args(args_file)
    adapter_config = read_json(adapter_file, CheckpointError)
    state = _read_state(weights_file)
    name, base_config = _find_base(base, args, adapter_config, args_file.parent)
    spec = _read_spec(adapter_config, adapter_file, state, name, base_config)
    config = _read_config(args, state, weights_file)
    modules = sorted(map(_leaf, spec.groups))
    order = tuple(modules if module_order is None else module_order)
    if sorted(order) != modules:
        raise ConfigError(f"module_order is {list(order)}; each of {', '.join(modules)} once")
    hypernet = Hypernetwork.empty(config, spec)
    _check_state(state, hypernet, weights_file)
    hypernet.load_state_dict(_translate(state, hypernet, order), assign=True)
    encoder = _read_encoder(args, config.embedding_dim, spec, base_config)
    return Official(hypernet.eval(), encoder, order)


def convert(
    folder: Path | str,
    output: Path | str,
    *,
    base: Path | str | None = None,
    module_order: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Turn a reference checkpoint into a hypernetwork folder that `load_hypernet` reads.

    base, module_order: as in `read_official`

    Raises what `read_official` and `save_hypernet` raise, and CheckpointError for one-hot task codes.
    """
    official = read_official(folder, base=base, module_order=module_order)
    if official.encoder is None:
        raise CheckpointError(
            f"{str(folder)!r} was trained on one-hot task codes: no description leads to its "
            "adapters; use read_official with your own codes"
        )
    weights_file = _find_files(Path(folder))[0]
    training = {
        "source": "reference implementation",
        "module_order": list(official.module_order),
        "hypermod_sha256": file_hash(weights_file),
    }
    return save_hypernet(
        output, official.hypernet, official.encoder, training=training, overwrite=overwrite
    )


def _find_files(folder: Path) -> tuple[Path, Path, Path]:
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointError(
            f"{str(folder)!r} holds no {WEIGHTS_FILE}; give the folder of a reference checkpoint"
        )
    run = folder
    if not (folder / ARGS_FILE).is_file() and folder.resolve().parent.name == "checkpoints":
        run = folder.resolve().parent.parent
    for name in (ARGS_FILE, ADAPTER_FILE):
        if not (run / name).is_file():
            raise CheckpointError(f"{str(run)!r} holds no {name}; copy it from the training run")
    return weights, run / ARGS_FILE, run / ADAPTER_FILE


def _read_args(path: Path) -> dict[str, Any]:
    import yaml

    try:
        args = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{str(path)!r} is not plain YAML ({reason}); fetch it anew"
        ) from None
    if not isinstance(args, dict):
        raise CheckpointError(f"{str(path)!r} holds {args!r}; options are expected; fetch it anew")
    for name, allowed in (("training_task", ("sft", "recon")), ("exp_setup", ("hyper_lora",))):
        if args.get(name) not in allowed:
            raise CheckpointError(
                f"{str(path)!r}: {name} is {args.get(name)!r}; read is {' or '.join(allowed)}"
            )
    return args


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise CheckpointError(
            f"{str(path)!r} is damaged or holds more than tensors ({type(error).__name__}); "
            "nothing of it was run; fetch it from a source that you trust"
        ) from error
    if not (
        isinstance(state, Mapping)
        and all(isinstance(name, str) for name in state)
        and all(isinstance(t, Tensor) and t.is_floating_point() for t in state.values())
    ):
        raise CheckpointError(f"{str(path)!r} is no state dict of floating tensors; fetch it anew")
    if broken := find_not_finite(state):
        raise CheckpointError(
            f"{str(path)!r}: NaN or infinity in {list_some(broken)}; use another checkpoint"
        )
    return {name: tensor.float() for name, tensor in state.items()}


def _find_base(
    base: Path | str | None,
    args: Mapping[str, Any],
    adapter_config: Mapping[str, Any],
    folder: Path,
) -> tuple[str, PreTrainedConfig]:
    """Name and configuration of the base model that is given, else of what the checkpoint names."""
    names = [args.get("model_dir"), adapter_config.get("base_model_name_or_path")]
    name = next((name for name in names if isinstance(name, str) and name), "")
    if base is not None:
        name = str(base)
    elif name and (folder / name / "config.json").is_file():
        name = str(folder / name)
    return name, _load_base_config(name)


def _read_spec(
    adapter_config: Mapping[str, Any],
    adapter_file: Path,
    state: Mapping[str, Tensor],
    name: str,
    base_config: PreTrainedConfig,
) -> LoraSpec:
    modules = sorted({name.split(".")[1] for name in state if name.startswith("heads.")})
    place = str(adapter_file)
    targets = adapter_config.get("target_modules")
    if not isinstance(targets, list) or sorted(map(str, targets)) != modules:
        raise CheckpointError(
            f"{place!r} targets {targets!r}, the weights have heads for {modules}"
        )
    if adapter_config.get("layers_to_transform") is not None:
        raise CheckpointError(f"{place!r} adapts some layers only; the reference adapts all")
    try:
        spec = LoraSpec.from_config(
            base_config,
            targets=modules,
            rank=adapter_config.get("r"),  # type: ignore[arg-type]  # checked by LoraSpec
            alpha=adapter_config.get("lora_alpha"),  # type: ignore[arg-type]
            rslora=bool(adapter_config.get("use_rslora")),
            name=name,
        )
    except SpecError as error:
        raise CheckpointError(f"{place!r} does not fit the base model {name!r}: {error}") from error
    if sorted(map(_leaf, spec.groups)) != modules:
        groups = ", ".join(group.key for group in spec.groups)
        raise CheckpointError(f"heads {modules} do not stand for one shape each; base has {groups}")
    return spec


def _load_base_config(name: str) -> PreTrainedConfig:
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig

    remedy = "give the base model (--base): a folder with its config.json, or its hub name"
    if not name:
        raise CheckpointError(f"the checkpoint names no base model; {remedy}")
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise CheckpointError(f"the base model's folder {name!r} holds no config.json; {remedy}")
    on_hub = not folder.is_dir()
    try:
        if on_hub:  # one request; AutoConfig makes several, each with long retries
            folder = Path(hf_hub_download(name, "config.json")).parent
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever the hub and transformers raise
        raise CheckpointError(
            f"cannot read the configuration of base model {name!r}: no such folder beside the "
            f"checkpoint, and none on the hub ({first_line(error)}); {remedy}"
        ) from error
    if on_hub:
        config._commit_hash = folder.name  # the hub's cache names a snapshot by its commit
    return config


def _read_config(
    args: Mapping[str, Any], state: Mapping[str, Tensor], path: Path
) -> HypernetConfig:
    def width(name: str, dimension: int) -> int:
        if name not in state or state[name].ndim != 2:
            raise refuse(f"{name} is missing or no matrix; fetch it anew")
        return state[name].shape[dimension]

    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{str(path)!r}: {reason}")

    head: HeadName = "joint"
    if "out_emb_norm.weight" in state:
        head = "rank" if "pos_emb.0.weight" in state else "shared"
    if bool(args.get("autoreg_gen")) != (head == "rank"):
        raise refuse(
            f"autoreg_gen is {args.get('autoreg_gen')!r} with a head of kind {head!r}; of per-rank "
            "heads only the shared one with learned rank codes (S) is read"
        )
    is_reconstruction = args["training_task"] == "recon"
    output: OutputName = "direct"
    if is_reconstruction and args.get("pred_z_score"):
        output = "zscore"
        if not args.get("factorized"):
            raise refuse(
                "pred_z_score without factorized has no defined adapter, in the reference neither; "
                "use another checkpoint"
            )
    elif is_reconstruction and not args.get("factorized"):
        output = "delta"
    if _has_offset(state):
        if is_reconstruction:
            raise refuse("AB_offset in a reconstruction run is not read")
        output = "zscore"  # head + offset is z · 1 + mean
    if output == "zscore" and _has_bias(state):
        raise refuse(
            "heads with a bias under z-scores or AB_offset, which the reference does not write, "
            "are not read"
        )
    try:
        return HypernetConfig(
            head=head,
            embedding_dim=width("task_encoder.mlp.0.weight", 1),
            latent_size=width("mixer.1.weight", 1),
            head_in_size=width("mlp3.4.weight", 0),
            output=output,
            delta_scaling=args.get("delta_w_scaling", 1e4),
        )
    except ConfigError as error:
        raise refuse(str(error)) from error


def _check_state(state: Mapping[str, Tensor], hypernet: Hypernetwork, path: Path) -> None:
    """Raise CheckpointError naming every tensor that is missing, left over or of another shape."""
    config, spec = hypernet.config, hypernet.spec
    needed: dict[str, tuple[int, ...]] = {
        theirs: tuple(hypernet.get_parameter(ours).shape)
        for ours, theirs in _same_names(hypernet).items()
    }
    for group in spec.groups:
        rows = {
            "joint": spec.rank * (group.in_features + group.out_features),
            "shared": spec.rank * max(group.in_features, group.out_features),
            "rank": max(group.in_features, group.out_features),
        }[config.head]
        leaf = _leaf(group)
        needed[f"heads.{leaf}.weight"] = (rows, config.head_in_size)
        if _has_bias(state):
            needed[f"heads.{leaf}.bias"] = (rows,)
        for side, shape in (
            ("A", (len(group.layers), spec.rank, group.in_features)),
            ("B", (len(group.layers), group.out_features, spec.rank)),
        ):
            if config.head != "joint":
                needed[f"out_emb.{leaf}.{side}"] = (config.latent_size,)
            for name in _PER_FACTOR:
                needed[f"{name}.{side}.{leaf}"] = shape
    problems = find_differences(needed, state)
    if problems:
        raise CheckpointError(
            f"{str(path)!r} does not fit its base model and options: {'; '.join(problems)}; "
            "check that the files belong together"
        )


def _translate(
    state: Mapping[str, Tensor], hypernet: Hypernetwork, order: Sequence[str]
) -> dict[str, Tensor]:
    """Our state dict; type embeddings are brought into the order of our groups."""
    config, spec = hypernet.config, hypernet.spec
    ours = {name: state[theirs] for name, theirs in _same_names(hypernet).items()}
    rows = [order.index(_leaf(group)) for group in spec.groups]
    types = "backbone.type_encoder.0.weight"
    ours[types] = ours[types][rows]
    if config.head != "joint":
        codes = [state[f"out_emb.{_leaf(g)}.{side}"] for g in spec.groups for side in "AB"]
        ours["head.side_codes"] = torch.unflatten(torch.stack(codes), 0, (-1, 2))
    for group in spec.groups:
        name, leaf = module_name(group.key), _leaf(group)
        parts = {"weight": state[f"heads.{leaf}.weight"]}
        if config.head_bias:  # a supervised run without offset always has one
            bias = state.get(f"heads.{leaf}.bias")
            parts["bias"] = torch.zeros(len(parts["weight"])) if bias is None else bias
        for part, tensor in parts.items():
            if config.head == "joint":
                split = spec.rank * group.in_features
                ours[f"head.a.{name}.{part}"] = tensor[:split]
                # theirs is [rank, out], ours [out, rank]
                b = torch.unflatten(tensor[split:], 0, (spec.rank, group.out_features))
                ours[f"head.b.{name}.{part}"] = b.transpose(0, 1).flatten(0, 1)
            else:
                ours[f"head.linears.{name}.{part}"] = tensor
        if config.output == "zscore":
            for side in "AB":
                offset, mean, std = (state[f"{name}.{side}.{leaf}"] for name in _PER_FACTOR)
                if _has_offset(state):  # in fp32 1 + 1e-10 is 1, so it is added exactly
                    mean, std = offset, torch.ones_like(offset)
                prefix = f"output.{side.lower()}.{name}"
                ours[f"{prefix}.mean"], ours[f"{prefix}.std"] = mean, std
    return ours


def _has_offset(state: Mapping[str, Tensor]) -> bool:
    """Whether a multi-task adapter is added to what the heads give (supervised runs only)."""
    return any(t.any() for name, t in state.items() if name.startswith("AB_offset."))


def _has_bias(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("heads.") and name.endswith(".bias") for name in state)


def _same_names(hypernet: Hypernetwork) -> dict[str, str]:
    """Our and their name of every parameter that is the same tensor in both."""
    names = {}
    for name, _ in hypernet.named_parameters():
        prefix = next(filter(name.startswith, _RENAMED), None)
        if prefix is not None:
            names[name] = _RENAMED[prefix] + name.removeprefix(prefix)
    return names


def _read_encoder(
    args: Mapping[str, Any], embedding_dim: int, spec: LoraSpec, base_config: PreTrainedConfig
) -> EncoderConfig | None:
    if args.get("use_one_hot_task_emb"):
        return None
    name = str(args.get("emb_model") or "")
    is_sfr, is_gte = "SFR" in name, "gte" in name
    if name and not is_sfr and not is_gte:
        raise CheckpointError(
            f"text encoder {name!r} is none that the reference uses (gte, SFR, or the base model)"
        )
    max_tokens = _MAX_TOKENS
    if not name:
        base = base_config.get_text_config(decoder=True)
        max_tokens = min(max_tokens, base.max_position_embeddings)
        if base.hidden_size != embedding_dim:
            warnings.warn(
                "args.yaml takes task embeddings from the base model, whose hidden states are "
                f"{base.hidden_size} wide; the weights read {embedding_dim}, so that no "
                "description can be encoded with it: correct emb_model and convert again",
                T2LWarning,
                stacklevel=4,
            )
    return EncoderConfig(
        kind="gte" if is_gte else "language-model",
        name=name or spec.base.name,
        revision=None if name else spec.base.revision,
        embedding_dim=embedding_dim,
        max_tokens=max_tokens,
        pooling="cls" if is_gte else "last",
        prefix=_SFR_PREFIX if is_sfr else "",
        add_full_stop=not is_sfr,
        norm=math.sqrt(embedding_dim),
        fingerprint="",
    )


def _leaf(group: Group) -> str:
    return group.module.rpartition(".")[2]
