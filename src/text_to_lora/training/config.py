"""RunConfig: everything that decides a training run, read from a recipe and overrides."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, overload

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from text_to_lora.choices import HeadName
from text_to_lora.errors import ConfigError
from text_to_lora.files import JsonError, read_bytes

_MAX_BYTES = 1 << 20  # of a recipe; the YAML reader takes a second or more for so many

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A frozen part of a RunConfig; unknown fields are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, use_attribute_docstrings=True
    )


class BaseSection(Section):
    """The frozen base model."""

    name: str
    """"embedded", a folder, or a repository of the hub"""
    revision: str | None = None
    """commit or tag of the hub; null for the newest"""
    alias: str | None = None
    """name that adapters carry for the base; null for `name`"""
    dtype: Literal["auto", "float32", "bfloat16"] = "bfloat16"
    """of the base's weights and activations; "auto" is bfloat16 where the device multiplies it
    fast, else float32; the hypernetwork is float32 always"""
    attention: str | None = None
    """attention implementation of transformers, such as "flash_attention_2"; null for its choice"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, about a third more time"""


class AdapterSection(Section):
    """The adapters that are generated."""

    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    """names of linear modules, paths below a layer, or "all-linear\""""
    rank: Count = 8
    """rows of A"""
    alpha: Positive = 16.0
    """LoRA numerator"""
    rslora: bool = True
    """scaling alpha / sqrt(rank), else alpha / rank"""
    layers: tuple[Natural, ...] | None = None
    """layers to adapt, counted from 0; null for all"""


class EncoderSection(Section):
    """The frozen text encoder."""

    name: str = "gte"
    """as for `load_encoder`: "minilm", "gte", "hash", a model, or KIND:NAME"""
    revision: str | None = None
    """commit or tag of the hub; null for the newest"""
    cache_dir: Path | None = None
    """folder that keeps task embeddings, to share between runs; null for one in the run's folder"""


class SizesSection(Section):
    """Variant and sizes of a hypernetwork."""

    head: HeadName = "joint"
    """L, M or S"""
    latent_size: Count = 128
    """width of the latent codes, in numbers; a multiple of 4"""
    head_in_size: Count = 512
    """width of the heads' input, in numbers"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """share of the hypernetwork's activations dropped in training"""


class TokensSection(Section):
    """What a hypernetwork reads of a description besides its sentence embedding."""

    read: bool = False
    """the base's states of the description, token by token"""
    attention_size: Count = 128
    """width of the cross-attention over all heads, in numbers"""
    heads: Count = 2
    """heads of the cross-attention"""
    layer_stride: Count = 3
    """states are read at every layer whose number this divides"""
    direct: tuple[str, ...] = ()
    """paths of modules that write into the residual stream and may store words themselves"""
    max_tokens: Count = 128
    """tokens of a description that are read"""


class HypernetSection(SizesSection):
    """What is trained."""

    kind: Literal["text", "static"] = "text"
    """"text": the hypernetwork; "static": one adapter for all tasks, the multi-task baseline"""
    reads: Literal["description", "input"] = "description"
    """what an adapter is made from: a description of the row's task, or the row's own input, an
    adapter for each (Hyperdecoders, the baseline that cannot be told anything)"""
    start_from: Path | None = None
    """folder of a hypernetwork to go on from, as of a reconstruction: its weights, head, sizes and
    kind of output count, whatever is set above; adapter, base and encoder have to be its own"""

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.kind == "static" and self.start_from is not None:
            raise ValueError(
                f"start_from is {str(self.start_from)!r} but kind is 'static', which has no "
                "hypernetwork; set start_from to null or kind to 'text'"
            )
        return self


class SourcesSection(Section):
    """Where tasks come from; sources add up."""

    data_dir: Path | None = None
    """folder of task collections with a splits.json"""
    split: str = "train"
    """split of `data_dir` to train on"""
    folders: tuple[Path, ...] = ()
    """task folders of our own form"""
    sni: Path | None = None
    """copy of the Super-NaturalInstructions repository"""
    hub: tuple[str, ...] = ()
    """data sets of the Lots-of-LoRAs collection on the hub, or copies of them"""


class DataSection(SourcesSection):
    """Tasks and batches."""

    min_descriptions: Natural = 1
    """tasks with fewer descriptions are not trained on"""
    count: Count | None = None
    """real tasks trained on, the first in an order by hash of their names, so that a smaller number
    is a part of a larger; null for all. Synthetic tasks come on top"""
    descriptions_per_task: Count | None = None
    """descriptions used of each task, from the first; null for all"""
    validation_one_in: Natural = 16
    """one source group in this many is set aside whole, by hash of its name; 0 sets none aside"""
    family_tasks: Natural = 800
    """synthetic tasks whose input does not tell the task"""
    family_word_share: Share = 0.5
    """share of the synthetic tasks whose description carries words that the answer needs"""
    validation_family_tasks: Natural = 64
    """synthetic tasks of families that are never trained on"""
    family_share: Share = 0.3
    """share of training rows that are of synthetic tasks"""
    family_seed: int = 0
    """seed of the synthetic tasks and the validation rows; apart from run.seed, so that runs of
    several seeds compare on the same ones"""
    tasks_per_batch: Count = 8
    """tasks of one optimiser step, over all processes"""
    examples_per_task: Count = 1
    """rows of each of these tasks"""
    one_description: bool = False
    """give the rows of a task in a step one description, and so one adapter: less to generate"""
    max_prompt_tokens: Annotated[int, Field(ge=8)] = 256
    """tokens of format and input; longer inputs lose their left"""
    max_description_tokens: Count = 128
    """tokens of a description where one is in a prompt, on top; longer ones lose their right"""
    max_answer_tokens: Count = 64
    """tokens of the answer; longer ones lose their right"""
    in_prompt: Share = 0.0
    """share of training rows whose prompt holds the task's definition as well; true is 1, the paper's,
    with which validation has it too"""
    definition_in: Literal["user", "system"] = "user"
    """where: in the user's turn with a closing request, the paper's form, or where descriptions
    stand in this project's prompts"""
    eval_rows: Natural = 256
    """rows of each validation set; 0 turns validation off"""

    @model_validator(mode="after")
    def _check_families(self) -> Self:
        if self.family_share > 0 and self.family_tasks == 0:
            raise ValueError(
                f"family_share is {self.family_share} but family_tasks is 0; "
                "set family_share to 0 or family_tasks above 0"
            )
        return self


class AdamWSection(Section):
    """AdamW on every parameter, biases included, as the reference does."""

    lr: Positive = 2.5e-5
    """peak learning rate"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """after warm-up: to zero along a line or a half cosine, or flat"""
    warmup: Share = 0.2
    """share of the steps in which the rate rises to its peak"""
    weight_decay: NotNegative = 0.01
    """decoupled, per step and unit of learning rate"""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """decay of the running moments, per step"""
    eps: Positive = 1e-8
    """added to the root of the second moment"""
    max_grad_norm: NotNegative = 1.0
    """gradients are cut to this norm; 0 does not cut"""


class OptimizerSection(AdamWSection):
    """AdamW, and how a process runs the rows of a step."""

    accumulation: Count = 1
    """parts that a process runs its rows of a step in, those of like length together: less memory,
    and less padding where rows are padded (on a GPU, and for bases that take no packed rows); 1 is
    fastest where they are packed; the result is the same"""


class ObjectiveSection(Section):
    """The loss: cross-entropy, mean over the answer tokens of a row, then over the rows of a step."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """share of the target spread over the vocabulary, in training"""
    neftune_alpha: NotNegative = 5.0
    """noise on input embeddings in training: uniform to ± alpha / sqrt(tokens · hidden)"""
    weight_penalty: NotNegative = 1e-3
    """factor of mean(A²) + mean(B²), summed over groups"""


class LengthSection(Section):
    """Length, cadence and place of a run."""

    steps: Count = 10_000
    """optimiser steps"""
    seed: int = 42
    """of weights, batches, noise and dropout"""
    log_every: Count = 50
    """steps between lines of the history"""
    eval_every: Count = 500
    """steps between validations"""
    save_every: Count = 500
    """steps between checkpoints to resume from"""
    keep_checkpoints: Count = 2
    """checkpoints kept to resume from; the best weights are kept beside them"""
    patience: Count | None = None
    """validations without a better loss after which the run stops; null never stops early"""
    device: Literal["auto", "cpu"] = "auto"
    """an accelerator where there is one, or the CPU"""
    report_to: tuple[str, ...] = ()
    """loggers of accelerate, such as "tensorboard" or "wandb\""""


class RunSection(LengthSection):
    """Length, cadence and place of a supervised run, and what picks its weights."""

    select_by: Literal["seen_tasks", "unseen_tasks", "unseen_families", "mean"] = "unseen_tasks"
    """validation set whose loss picks the best weights: held-out rows of training tasks, tasks set
    aside, families set aside, or the mean over those that there are"""


class Recipe(Section):
    """A whole run as sections of fields; what `load_recipe` reads.

    verb: the command of `t2l train` that runs it; a recipe's own key of this name, "sft" without
    """

    verb: ClassVar[str]

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Build from plain values, as YAML or JSON give them.

        Raises ConfigError in one line for each unknown key, with the nearest known one, and for a
        value that cannot work, with what is allowed.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            explained = [_explain(item, cls) for item in _distinct(error)]
            raise ConfigError("; ".join(explained)) from None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return self.model_dump(mode="json")


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


class RunConfig(Recipe):
    """A supervised training run; stored beside the weights that it made."""

    verb = "sft"

    base: BaseSection
    adapter: AdapterSection = AdapterSection()
    encoder: EncoderSection = EncoderSection()
    hypernet: HypernetSection = HypernetSection()
    tokens: TokensSection = TokensSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    objective: ObjectiveSection = ObjectiveSection()
    run: RunSection = RunSection()


def recipes(verb: str | None = None) -> list[str]:
    """Names of the recipes that come with the package, of one command of `t2l train` or of all."""
    folder = resources.files("text_to_lora.recipes")
    names = sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [name for name in names if verb is None or _verb(_read(name, seen=())) == verb]


@overload
def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig: ...


@overload
def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, kind: type[AnyRecipe]
) -> AnyRecipe: ...


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, kind: type[Recipe] = RunConfig
) -> Recipe:
    """Read a recipe of the package by name, or a YAML file, and set single keys.

    overrides: "section.field=value" each, the value written as in YAML; later ones win
    kind: what the recipe is a run of

    Raises ConfigError when there is no such recipe, when it is of another kind, and for unknown keys
    and bad values.
    """
    payload = _read(str(name_or_path), seen=())
    verb = _verb(payload)
    payload.pop("verb", None)
    if verb != kind.verb:
        raise ConfigError(
            f"recipe {str(name_or_path)!r} is for `t2l train {verb}`, not `t2l train {kind.verb}`"
        )
    set_keys(payload, overrides)
    return kind.from_dict(payload)


def set_keys(payload: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set single keys of a recipe's sections, in place, as in `load_recipe`.

    Raises ConfigError for an override that is not written as section.field=value.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or len(parts) != 2 or not all(parts):
            raise ConfigError(f"override {override!r}; write it as section.field=value")
        section = payload.setdefault(parts[0], {})
        if not isinstance(section, dict):
            raise ConfigError(f"{parts[0]} is {section!r}; a section with fields is needed")
        section[parts[1]] = _parse(text, override)


def _verb(payload: Mapping[str, Any]) -> Any:
    """The command that a recipe is for."""
    return payload.get("verb", RunConfig.verb)


def _read(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """The values of a recipe over those of the recipe that it extends."""
    if name_or_path in recipes():
        file = resources.files("text_to_lora.recipes") / f"{name_or_path}.yaml"
        text = file.read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if not os.path.isfile(path):  # False for a name that no file can have, too
            near = difflib.get_close_matches(name_or_path, recipes(), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(
                f"no recipe {name_or_path!r}{hint}; give a YAML file or one of "
                f"{', '.join(recipes())}"
            )
        try:
            text = read_bytes(path, max_bytes=_MAX_BYTES).decode("utf-8")
        except JsonError as error:
            raise ConfigError(f"{name_or_path!r} {error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{name_or_path!r} is not UTF-8 (byte {error.start}); save it as UTF-8"
            ) from None
    try:
        payload = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date
        raise ConfigError(f"{name_or_path!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(payload, dict):
        raise ConfigError(f"{name_or_path!r} holds {payload!r}; sections with fields are needed")
    parent = payload.pop("extends", None)
    if parent is None:
        return payload
    if not isinstance(parent, str) or parent in seen or parent == name_or_path:
        raise ConfigError(f"{name_or_path!r} extends {parent!r}; name another recipe")
    merged = _read(parent, (*seen, name_or_path))
    for section, values in payload.items():
        old = merged.get(section)
        both = isinstance(values, dict) and isinstance(old, dict)
        merged[section] = {**old, **values} if both and old is not None else values
    return merged


def _parse(text: str, override: str) -> Any:
    """The value of an override; numbers stay text, which the field's type reads (1e-4, 007)."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not YAML; quote it") from None
    return value if isinstance(value, str | bool | list | dict | None) else text.strip()


def _distinct(error: ValidationError) -> list[Any]:
    """One entry a key: a value that fits no member of a union is reported once for each."""
    by_key: dict[str, Any] = {}
    for item in error.errors():
        by_key.setdefault(".".join(_key(item["loc"])), item)
    return list(by_key.values())


def _key(location: tuple[int | str, ...]) -> list[str]:
    """The section and field of an error; what follows is the place inside a list or union."""
    return [str(part) for part in location[:2]]


def _explain(item: Mapping[str, Any], kind: type[Recipe]) -> str:
    parts = _key(item["loc"])
    key = ".".join(parts)
    if item["type"] == "extra_forbidden":
        return _unknown(key, parts, kind)
    if item["type"] == "missing":
        return f"{key} is missing or too short; set it"
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should", "it should")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message  # without a key where sections disagree
    return f"{key} is {item['input']!r}; {message}"


def _unknown(key: str, parts: list[str], kind: type[Recipe]) -> str:
    sections: dict[str, list[str]] = {
        name: list(field.annotation.model_fields)
        for name, field in kind.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    keys = [f"{name}.{field}" for name, names in sections.items() for field in names]
    if len(parts) == 1:
        near = difflib.get_close_matches(key, sections, n=1, cutoff=0)
        return f"unknown section {key!r}, nearest {near[0]!r}; known: {', '.join(sections)}"
    same_field = [known for known in keys if known.rpartition(".")[2] == parts[1]]
    near = same_field or difflib.get_close_matches(key, keys, n=1, cutoff=0)
    return (
        f"unknown key {key!r}, nearest {near[0]!r}; {parts[0]} has {', '.join(sections[parts[0]])}"
    )
