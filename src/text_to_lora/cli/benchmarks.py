"""t2l eval benchmarks: public benchmarks through lm-eval under the suite's conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text_to_lora.cli.common import Base, Device, Model, load_model_and_base, note
from text_to_lora.cli.evaluate import Dtype, Multitask, Output, load_multitask
from text_to_lora.errors import needs_extra


def benchmarks(
    tasks: Annotated[list[str], typer.Argument(help="Tasks or groups of lm-eval.")],
    output: Output,
    model: Model = "embedded",
    base: Base = None,
    conditions: Annotated[
        str,
        typer.Option(
            help="Conditions of `t2l eval suite` with commas, but for icl and those of a library; "
            "shuffled takes four tasks or more."
        ),
    ] = "base,in_prompt,matched,junk",
    descriptions: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of a text, or a list of texts, for each task; default: those of this "
            "package."
        ),
    ] = None,
    multitask: Multitask = None,
    rows: Annotated[
        int, typer.Option(min=0, help="Most rows scored a task, drawn by the seed; 0 for all.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Chooses rows and derangements.")] = 0,
    num_fewshot: Annotated[
        int | None,
        typer.Option(min=0, help="Examples in every prompt; default: each task's own number."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens of an answer; default: each task's own number."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Figure of lm-eval that is the score; default: the first of each task."),
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with further definitions of tasks for lm-eval.")
    ] = None,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution",
            help="Let tasks such as humaneval run what the model wrote; the package evaluate runs "
            "it and asks for HF_ALLOW_CODE_EVAL=1.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 16,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Score public benchmarks through lm-eval, with adapters on the live base model.

    lm-eval builds the prompts and scores the answers; rows, conditions and the report are those of
    `t2l eval suite`. What is finished is not scored again.

    \b
    Example:
      t2l eval benchmarks arc_easy boolq piqa openbookqa --rows 100 -o results
    """
    with needs_extra("eval,benchmarks", "a public benchmark"):
        from text_to_lora.evaluation.benchmark_descriptions import load_descriptions
        from text_to_lora.evaluation.conditions import Sources, check_kinds, plan_conditions
        from text_to_lora.evaluation.lm_eval import LM_EVAL_VERSION, LmEvalScorer, LmEvalTasks
        from text_to_lora.evaluation.suite import evaluate_suite
    kinds = [kind.strip() for kind in conditions.split(",")]
    check_kinds(kinds)
    loaded = LmEvalTasks(
        tasks,
        load_descriptions(descriptions),
        include_path=include_path,
        num_fewshot=num_fewshot,
    )
    loaded.check_code(allow_code_execution)
    t2l, language_model, tokenizer = load_model_and_base(model, base, device, dtype)
    sources = Sources(
        tasks=loaded.tasks,
        seed=seed,
        generate=lambda texts: t2l.generate(texts).weights,
        multitask=load_multitask(multitask, language_model.config),
    )
    evaluate_suite(
        base=language_model,
        tokenizer=tokenizer,
        tasks=loaded.tasks,
        conditions=plan_conditions(kinds, sources),
        output_dir=output,
        rows_per_task=rows or None,
        seed=seed,
        examples=lambda task: task.examples,
        make_scorer=lambda model: LmEvalScorer(
            model,
            tokenizer,
            loaded,
            metric=metric,
            max_new_tokens=max_new_tokens,
            allow_code_execution=allow_code_execution,
            batch_size=batch_size,
        ),
        provenance={
            "base": base,
            "hypernet": t2l.fingerprint,
            "lm_eval": LM_EVAL_VERSION,
            "num_fewshot": num_fewshot,
            "answer_tokens": max_new_tokens,
            "metric": metric,
        },
        progress=note,
    )
    typer.echo((output / "report.md").read_text(encoding="utf-8"))
