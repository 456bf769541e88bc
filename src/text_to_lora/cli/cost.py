"""t2l cost: what a task's questions cost with an adapter, and without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from text_to_lora.cli.common import Device, check_device, check_file, note, progress
from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from text_to_lora.analysis.cost import Cost, Question
    from text_to_lora.hypernet.config import HeadKind, HypernetConfig
    from text_to_lora.lora.spec import LoraSpec

_COUNTS = (1, 16, 256)  # adapters that are measured, up to the library's size
_MEASURED_BYTES = 2 * 2**30  # of adapters, at most
_COUNTED_ANSWER = 2  # tokens written where torch counts; each takes about as long as the prompt
_PARTS = ("encode", "generate", "write", "load-library", "load-folders", "resident", "merge")


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
        Literal["joint", "shared", "rank"] | None,
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
    measure: Annotated[
        bool, typer.Option("--measure", help="Also measure on this machine (minutes).")
    ] = False,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of --measure.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")
    ] = None,
) -> None:
    """Compare a generated adapter with prompts and with a library, by cost.

    Operations follow from the base's configuration, and torch's own counter checks them; no weights
    are read. A multiplication and an addition are two operations. With a cached prefix, examples
    and descriptions are read once a task, and their keys and values stay in memory.

    \b
    Examples:
      t2l cost --base embedded --library-size 256
      t2l cost --base ./mistral --library-size 1000 --shots 5 --json cost.json
      t2l cost --base embedded --library-size 16 --measure
    """
    if json_file is not None:
        check_file(json_file)
    if measure:
        check_device(device)
    with progress("reading the configuration"):
        from text_to_lora.analysis.cost import Question, check_count

        made, config = _cost(base, model, head, rank, targets, dtype)
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
        counted = check_count(made.base, config, question.prompt, _COUNTED_ANSWER)
    facts = made.to_dict(question, adapters=library_size, questions=questions)
    facts["count"] = {
        "prompt": question.prompt,
        "answer": _COUNTED_ANSWER,
        "formula": made.base.answer_flops(question.prompt, _COUNTED_ANSWER),
        "counted": counted,
    }
    if measure:
        facts["measured"] = _measure(made, config, question, library_size, dtype, device, threads)
    if json_file is not None:
        from text_to_lora.files import write_json

        write_json(json_file, facts, overwrite=False)
    for line in _lines(facts, made, question):
        typer.echo(line)


def _cost(
    base: str,
    model: str | None,
    head: HeadKind | None,
    rank: int | None,
    targets: str | None,
    dtype: str,
) -> tuple[Cost, Any]:
    """The costs of a base, and its configuration."""
    from dataclasses import replace

    from text_to_lora.analysis.cost import ENCODERS, BaseCost, Cost
    from text_to_lora.analysis.cost_measure import DTYPES
    from text_to_lora.hypernet.config import HypernetConfig
    from text_to_lora.hypernet.model import Hypernetwork
    from text_to_lora.lora.peft_selection import ALL_LINEAR
    from text_to_lora.lora.spec import LoraSpec
    from text_to_lora.models.base import load_base_config
    from text_to_lora.models.find import EMBEDDED, EMBEDDED_BASE

    config = load_base_config(base)
    if model is None and base in (EMBEDDED, EMBEDDED_BASE):
        model = EMBEDDED
    kind, spec = "gte", None
    sizes = HypernetConfig(head="joint", embedding_dim=ENCODERS[kind].hidden)
    if model is not None:
        sizes, spec, kind = _read_sizes(model)
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
    return (
        Cost(
            base=replace(BaseCost.from_config(config), name=base),
            spec=spec,
            hypernet=sizes,
            hypernet_parameters=Hypernetwork.empty(sizes, spec).num_parameters,
            encoder=ENCODERS[kind],
            itemsize=DTYPES[dtype].itemsize,
        ),
        config,
    )


def _read_sizes(model: str) -> tuple[HypernetConfig, LoraSpec, str]:
    """Sizes, spec and kind of encoder of a hypernetwork; its weights are read and checked."""
    from text_to_lora.hypernet.checkpoint import load_hypernet
    from text_to_lora.models.find import find_hypernet

    loaded = load_hypernet(find_hypernet(model))
    return loaded.hypernet.config, loaded.hypernet.spec, loaded.encoder.kind


def _lengths(base: str, data: Path) -> dict[str, int]:
    """Mean tokens of the inputs, answers and descriptions of tasks, by the base's tokenizer."""
    from transformers import AutoTokenizer

    from text_to_lora.models.find import find_base, first_line
    from text_to_lora.tasks.folder import load_data_dir, load_folder

    tasks = load_folder(data) if (data / "tasks.json").exists() else load_data_dir(data)
    load: Any = AutoTokenizer.from_pretrained
    try:
        tokenizer = load(find_base(base), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"base {base!r} has no tokenizer for --data: {first_line(error)}; give the numbers of "
            "tokens instead"
        ) from error

    def mean(texts: Iterable[str]) -> int:
        found = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        return max(1, round(sum(found) / len(found)))

    return {
        "prompt": mean(example.input for task in tasks for example in task.examples),
        "answer": mean(example.outputs[0] for task in tasks for example in task.examples),
        "description": mean(task.definition for task in tasks),
    }


def _measure(
    made: Cost,
    config: Any,
    question: Question,
    library_size: int,
    dtype: str,
    device: str,
    threads: int,
) -> dict[str, Any]:
    """Seconds, memory and bytes on this machine, for several numbers of adapters."""
    import tempfile

    from text_to_lora.analysis.cost_measure import Setting, measure

    most = max(1, _MEASURED_BYTES // made.adapter_bytes)
    counts = sorted({min(count, library_size, most) for count in _COUNTS})
    kind = "minilm" if made.encoder.name.startswith("all-MiniLM") else "gte"
    found: dict[str, Any] = {"device": device, "threads": threads, "counts": {}}
    with tempfile.TemporaryDirectory(prefix="t2l-cost-") as temporary:
        folder = Path(temporary)
        config.save_pretrained(folder / "base")
        setting = Setting(
            made.spec, str(folder / "base"), made.hypernet, kind, question.description,
            dtype, device, threads,
        )  # fmt: skip
        for count in counts:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                cells = found["counts"][str(count)] = {}
                for part in (*_PARTS, "apply"):
                    note(f"measuring: {part}, {count} adapters")
                    cells[part] = measure(setting, part, count, Path(work))
    return found


def _lines(facts: Mapping[str, Any], made: Cost, question: Question) -> Iterator[str]:
    """The facts as lines."""
    from text_to_lora.analysis.cost import PAPER, prompt_of
    from text_to_lora.analysis.cost_text import cells_of_way, size

    adapter, hypernet, encoder = facts["adapter"], facts["hypernetwork"], facts["encoder"]
    library, count = facts["library"], facts["count"]
    yield from _table(
        [
            ("base", f"{facts['base']['name']}, {made.base.pass_flops(1) / 1e9:.3g} GFLOPs a token"),
            (
                "count",
                f"{count['counted'] / 1e12:.6g} TFLOPs by torch, {count['formula'] / 1e12:.6g} by "
                f"formula ({count['prompt']} tokens read, {count['answer']} written)",
            ),
            ("tokens", f"{question.prompt} a question, {question.answer} an answer, "
             f"{question.shots} shots, {question.description} a description"),
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
    rows = [cells_of_way(name, way, " questions") for name, way in facts["ways"].items()]
    yield from _table([head, *rows])
    yield ""
    yield (
        f"library of {library['adapters']:,}: {size(library['bytes'])}; the hypernetwork is "
        f"smaller from {library['crossing_hypernetwork']:,} adapters on, with its encoder from "
        f"{library['crossing_with_encoder']:,}"
    )
    if made.base.is_mistral_7b:
        tokens = {name: prompt_of(made.base, 1e12 * PAPER[name]) for name in ("base", "3-shot")}
        yield (
            f"paper (appendix I): base {PAPER['base']} TFLOPs, 3-shot {PAPER['3-shot']}, encoder "
            f"{PAPER['encoder']}, hypernetwork {PAPER['hypernetwork']:f}; by this formula prompts "
            f"of {tokens['base']} and {tokens['3-shot']} tokens, and the hypernetwork takes "
            f"{hypernet['flops'] / 1e12:.4f}"
        )
    if "measured" in facts:
        yield ""
        yield from _measured_lines(facts["measured"])


def _measured_lines(measured: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, a line a way and number of adapters."""
    from text_to_lora.analysis.cost_text import size

    rows = [("measured", "adapters", "seconds", "CPU seconds", "memory", "disk")]
    for count, cells in measured["counts"].items():
        for part in _PARTS:
            several = cells[part] if part == "write" else {"": cells[part]}
            for kind, cell in several.items():
                rows.append(
                    (
                        f"{part} {kind}".strip() + (" (scaled)" if "scaled" in cell else ""),
                        count,
                        f"{cell['seconds']:.4g}",
                        f"{cell['cpu_seconds']:.4g}",
                        size(cell["peak_bytes"]),
                        size(cell["disk_bytes"]) if "disk_bytes" in cell else "",
                    )
                )
        for kind in ("one_token", "prompt"):
            if kind in cells["apply"]:
                case = cells["apply"][kind]
                extra = 1e3 * case["adapter_seconds_per_token"]
                rows.append(
                    (
                        f"apply, {kind.replace('_', ' ')}, ms a token",
                        count,
                        f"{extra:.4g}",
                        "",
                        "",
                        "",
                    )
                )
    yield from _table(rows)
    yield f"on {measured['device']}, {measured['threads']} CPU threads; resident: one pick"


def _table(rows: Sequence[Sequence[str]], *, left: bool = False) -> Iterable[str]:
    """Rows with the first column to the left, others to the right unless `left`."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    align = "<" if left else ">"
    for row in rows:
        cells = (f"{c:{align}{width}}" for c, width in zip(row[1:], others, strict=True))
        yield "  ".join((f"{row[0]:{first}}", *cells)).rstrip()
