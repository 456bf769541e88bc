"""t2l cost: what a task's questions cost with an adapter, and without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from text_to_lora.choices import HeadName
from text_to_lora.cli.common import align, check_file, progress
from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from text_to_lora.analysis.cost import Cost


def cost(
    base: Annotated[
        str, typer.Option(help="Base model: 'embedded', a folder with config.json, or OWNER/NAME.")
    ],
    library_size: Annotated[int, typer.Option(min=1, help="Adapters in the library.")] = 256,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Hypernetwork whose sizes count: 'embedded', a folder, or OWNER/NAME; default: "
            "the embedded one for base 'embedded', else the paper's sizes.",
        ),
    ] = None,
    head: Annotated[
        HeadName | None,
        typer.Option(help="L, M or S; default: as --model, else L."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of the adapters; default: as --model, else 8.")
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Target modules with commas, or all-linear; default: as --model, else "
            "q_proj,v_proj."
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Of adapters and hypernetwork."),
    ] = "bfloat16",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of a question.")] = 64,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 16,
    shots: Annotated[int, typer.Option(min=1, help="Examples in context.")] = 3,
    description_tokens: Annotated[int, typer.Option(min=1, help="Of a task description.")] = 32,
    questions: Annotated[int, typer.Option(min=1, help="Asked of each task.")] = 100,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of tasks; its mean lengths replace the three numbers of tokens."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")
    ] = None,
) -> None:
    """Compare a generated adapter with prompts and with a library, by cost.

    torch counts the operations while the base runs without numbers, so no weights are read. A
    multiplication and an addition are two operations. With a cached prefix, examples and
    descriptions are read once a task, and their keys and values stay in memory.

    \b
    Examples:
      t2l cost --base embedded --library-size 256
      t2l cost --base ./mistral --library-size 1000 --shots 5 --json cost.json
    """
    if json_file is not None:
        check_file(json_file)
    with progress("counting operations"):
        from text_to_lora.analysis.cost import Question

        costs = _cost(base, model, head, rank, targets, dtype)
        lengths = _lengths(base, data) if data is not None else {}
        question = Question(
            **{
                "prompt": prompt_tokens,
                "answer": answer_tokens,
                "description": description_tokens,
                **lengths,
                "shots": shots,
            }
        )
        facts = costs.to_dict(question, adapters=library_size, questions=questions)
    if json_file is not None:
        from text_to_lora.files import write_json

        write_json(json_file, facts, overwrite=False)
    for line in _lines(facts):
        typer.echo(line)


def _cost(
    base: str,
    model: str | None,
    head: HeadName | None,
    rank: int | None,
    targets: str | None,
    dtype: str,
) -> Cost:
    """The costs of a base with a hypernetwork's adapters."""
    from dataclasses import replace

    import torch

    from text_to_lora.analysis.cost import ENCODERS, GTE, BaseCost, Cost
    from text_to_lora.hypernet.checkpoint import load_hypernet
    from text_to_lora.hypernet.config import HypernetConfig
    from text_to_lora.lora.peft_selection import ALL_LINEAR
    from text_to_lora.lora.spec import LoraSpec
    from text_to_lora.models.base import load_base_config
    from text_to_lora.models.find import EMBEDDED, EMBEDDED_BASE, find_hypernet

    config = load_base_config(base)
    if model is None and base in (EMBEDDED, EMBEDDED_BASE):
        model = EMBEDDED
    kind, spec = "gte", None
    sizes = HypernetConfig(head="joint", embedding_dim=GTE["hidden_size"])
    if model is not None:
        loaded = load_hypernet(find_hypernet(model))
        sizes, spec, kind = loaded.hypernet.config, loaded.hypernet.spec, loaded.encoder.kind
        spec.check_base(config)
        if kind not in ENCODERS:
            raise ConfigError(
                f"the costs of encoder {kind!r} of {model!r} are not known; "
                f"{' and '.join(ENCODERS)} are: leave --model out and choose sizes with --head"
            )
    if head is not None:
        sizes = replace(sizes, head=head)
    if spec is None or targets is not None:
        names = (targets or "q_proj,v_proj").split(",")
        spec = LoraSpec.from_config(
            config,
            targets=ALL_LINEAR if names == [ALL_LINEAR] else names,
            rank=rank or (spec.rank if spec else 8),
            name=base,
        )
    elif rank is not None:
        spec = spec.with_rank(rank)
    itemsize = getattr(torch, dtype).itemsize
    return Cost(BaseCost(config, name=base), spec, sizes, kind, itemsize)


def _lengths(base: str, data: Path) -> dict[str, int]:
    """Mean tokens of the inputs, answers and descriptions of tasks, by the base's tokenizer."""
    from text_to_lora.models.base import load_tokenizer
    from text_to_lora.tasks.folder import load_folder_or_tree

    tasks = load_folder_or_tree(data)
    try:
        tokenizer = load_tokenizer(base)
    except ConfigError as error:
        raise ConfigError(f"{error}; give the numbers of tokens instead of --data") from error

    def mean(texts: Iterable[str]) -> int:
        lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        return max(1, round(sum(lengths) / len(lengths)))

    return {
        "prompt": mean(example.input for task in tasks for example in task.examples),
        "answer": mean(example.outputs[0] for task in tasks for example in task.examples),
        "description": mean(task.definition for task in tasks),
    }


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts as lines."""
    from text_to_lora.analysis.cost import size, span, tera

    adapter, hypernet, encoder = facts["adapter"], facts["hypernetwork"], facts["encoder"]
    base, tokens, library = facts["base"], facts["tokens"], facts["library"]
    yield from align(
        [
            ("base", f"{base['name']}, {base['flops_per_token'] / 1e9:.3g} GFLOPs a token"),
            ("tokens", f"{tokens['prompt']} a question, {tokens['answer']} an answer, "
             f"{tokens['shots']} shots, {tokens['description']} a description"),
            ("adapter", f"rank {adapter['rank']}, {adapter['parameters']:,} numbers, "
             f"{size(adapter['bytes'])}"),
            ("hypernet", f"{hypernet['head']}, {hypernet['parameters']:,} numbers, "
             f"{size(hypernet['bytes'])}, {hypernet['flops'] / 1e9:.3g} GFLOPs an adapter"),
            ("encoder", f"{encoder['name']}, {encoder['parameters']:,} numbers, "
             f"{size(encoder['bytes'])}, {encoder['flops'] / 1e9:.3g} GFLOPs a description"),
        ],
        left=True,
    )  # fmt: skip
    yield ""
    head = (
        "TFLOPs", "once a task", "a question", "first question",
        f"of {facts['questions']:,} a task", "kept a task", "T2L costs no more",
    )  # fmt: skip
    counts = ("task", "question")
    rows = [
        (
            name,
            *(tera(way[f"flops_per_{what}"]) for what in counts),
            tera(way["flops_first_question"]),
            tera(way["flops_per_question_amortised"]),
            size(way["bytes_kept_per_task"]),
            "" if name == "T2L" else span(way["t2l_costs_no_more"], " questions"),
        )
        for name, way in facts["ways"].items()
    ]
    yield from align([head, *rows])
    yield ""
    yield (
        f"library of {library['adapters']:,}: {size(library['bytes'])}; the hypernetwork is "
        f"smaller from {library['crossing_hypernetwork']:,} adapters on, with its encoder from "
        f"{library['crossing_with_encoder']:,}"
    )
