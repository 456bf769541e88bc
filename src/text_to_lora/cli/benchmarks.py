"""t2l eval benchmarks: public benchmarks through lm-eval, beside the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from text_to_lora.cli.common import (
    Base,
    Device,
    Model,
    PaperTable,
    check_device,
    load_base_quietly,
    note,
)
from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from text_to_lora.evaluation.benchmarks.harness import Engine
    from text_to_lora.serving.generator import TextToLora


def benchmarks(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    model: Model = "embedded",
    base: Base = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(help="Names with commas; default: all 13."),
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            help="base, in_prompt, icl, multitask, matched, shuffled, junk with commas; "
            "default: all that are possible but icl."
        ),
    ] = None,
    description: Annotated[
        str | None,
        typer.Option(help="One description for all; default: each benchmark's own three."),
    ] = None,
    num_descriptions: Annotated[
        int, typer.Option(help="Descriptions of matched, shuffled and junk, one adapter each.")
    ] = 3,
    multitask: Annotated[
        str | None,
        typer.Option(help="PEFT folder of the multi-task adapter; 'embedded' for the shipped one."),
    ] = None,
    backend: Annotated[
        Literal["hf", "vllm"],
        typer.Option(help="vllm is unverified: it has not been run on a GPU."),
    ] = "hf",
    prompt: Annotated[
        Literal["chat", "plain"] | None,
        typer.Option(
            help="chat: the base's template around lm-eval's question; plain: lm-eval's own text; "
            "default: chat where the base has a template."
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples in every prompt; default: each task's own.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="The first N rows of each task; default: all.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a written answer; default: each task's own.")
    ] = None,
    rows_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of TASK.SPLIT.json, .jsonl or .parquet in the hub's columns."),
    ] = None,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution", help="Run the programs that HumanEval and MBPP ask for."
        ),
    ] = False,
    allow_network: Annotated[
        bool,
        typer.Option(
            "--allow-network", help="Run them also where they cannot be cut off from the network."
        ),
    ] = False,
    compare_paper: Annotated[
        bool, typer.Option("--compare-paper", help="Print the paper's figures beside ours.")
    ] = False,
    paper_table: PaperTable = "table2",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 16,
    device: Device = "cpu",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the base; default: float32 on the CPU, else the checkpoint's own."),
    ] = None,
) -> None:
    """Score public benchmarks through lm-eval with the adapter applied.

    Finished conditions of a benchmark are not scored again. --backend vllm is unverified.

    \b
    Example:
      t2l eval benchmarks --benchmarks arc_easy,boolq --limit 100 --compare-paper -o results
    """
    from text_to_lora.evaluation.benchmarks.catalogue import choose_benchmarks
    from text_to_lora.evaluation.benchmarks.published import find_table
    from text_to_lora.lora.library import hash_adapter
    from text_to_lora.lora.peft_format import load_adapter
    from text_to_lora.models.base import load_base_config
    from text_to_lora.models.find import base_to_load, find_adapter
    from text_to_lora.serving.generator import TextToLora

    chosen = choose_benchmarks(benchmarks.split(",") if benchmarks else None)
    find_table(paper_table)
    try:
        from text_to_lora.evaluation.benchmarks.results import render_with_paper
        from text_to_lora.evaluation.benchmarks.run import check_code, evaluate_benchmarks
        from text_to_lora.evaluation.code import CodeRunner

        run_code = CodeRunner(allow_network=allow_network) if allow_code_execution else None
        check_code(chosen, run_code)
        t2l = TextToLora.from_pretrained(model, device=check_device(device))
        spec = t2l.spec
        name = base or base_to_load(spec.base.name, spec.base.revision)
        config = load_base_config(name)
        adapter = None
        if multitask is not None:
            adapter = load_adapter(find_adapter(multitask), base_config=config)
        engine = _engine(t2l, name, backend, prompt, batch_size, device, dtype)
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    results = evaluate_benchmarks(
        engine=engine,
        benchmarks=chosen,
        output_dir=output,
        generate=lambda texts: t2l.generate(texts).weights,
        multitask=adapter,
        conditions=conditions.split(",") if conditions else None,
        description=description,
        num_descriptions=num_descriptions,
        shots=num_fewshot,
        limit=limit,
        max_new_tokens=max_new_tokens,
        rows_dir=rows_dir,
        run_code=run_code,
        provenance={
            "base": name,
            "dtype": dtype,
            "hypernet": t2l.fingerprint,
            "multitask": None if adapter is None else hash_adapter(adapter),
        },
        progress=note,
    )
    typer.echo((output / "benchmarks.md").read_text(encoding="utf-8"))
    if compare_paper:
        typer.echo(render_with_paper(results, table_id=paper_table))


def _engine(
    t2l: TextToLora,
    base: str,
    backend: str,
    prompt: Literal["chat", "plain"] | None,
    batch_size: int,
    device: str,
    dtype: str | None,
) -> Engine:
    import torch

    from text_to_lora.evaluation.benchmarks.harness import HFEngine, VLLMEngine
    from text_to_lora.models.find import find_base

    if backend == "vllm":
        note("backend vllm is unverified: it has not been run on a GPU")
        folder = find_base(base, revision=t2l.spec.base.revision)
        return VLLMEngine(folder, batch_size=batch_size, prompt_form=prompt, dtype=dtype)
    language_model, tokenizer = load_base_quietly(
        base,
        spec=t2l.spec,
        device=device,
        dtype=None if dtype is None else getattr(torch, dtype),
    )
    return HFEngine(language_model, tokenizer, batch_size=batch_size, prompt_form=prompt)


def _missing(error: ModuleNotFoundError) -> Exception:
    if str(error.name).startswith("text_to_lora"):
        return error
    return ConfigError(
        f"public benchmarks need the package {error.name!r}; pip install 'text-to-lora[benchmarks]'"
    )
