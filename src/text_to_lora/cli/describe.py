"""t2l tasks describe: descriptions of tasks by a language model, or by templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from text_to_lora.cli.common import AsJson, echo_json, note, progress
from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from text_to_lora.tasks.describing.describe import Described

_POORER = (
    "descriptions from templates differ in their frame alone: a network learns less from them than "
    "from those of people or of a language model"
)


def describe(
    folder: Annotated[Path, typer.Argument(help="Task folder; its tasks.json is written.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Name of the model.")] = None,
    api_base: Annotated[
        str | None,
        typer.Option(help="Address, such as http://127.0.0.1:8000/v1; default: OPENAI_BASE_URL."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Descriptions a task.")] = 16,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Keep those by which the model finds the task among ten."),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Make paraphrases from templates; they are poorer.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, help="Tasks at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=1, help="Of one request, in seconds.")] = 60,
    retries: Annotated[int, typer.Option(min=0, help="Of a request that is refused for now.")] = 6,
    price: Annotated[
        str | None,
        typer.Option(help="US dollars for a million tokens in and out, such as 0.15,0.6."),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="Text encoder that tells which descriptions are alike.")
    ] = "minilm",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask for nothing; print what it would take.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write descriptions of every task into a task folder, in many forms and lengths.

    Any OpenAI-compatible endpoint will do; the key is read from OPENAI_API_KEY. Name, definition,
    labels and five rows of each task are sent to it. Descriptions that name an answer which is no
    label, quote a row or resemble another are left out. Each finished task is recorded: the same
    command goes on where it was stopped, and asks for no task twice.

    \b
    Examples:
      t2l tasks describe mine -m gpt-4o-mini --price 0.15,0.6 --dry-run
      t2l tasks describe mine -m llama3 --api-base http://127.0.0.1:11434/v1 --verify
      t2l tasks describe mine --offline
    """
    from text_to_lora.tasks.describing.describe import (
        describe_by_endpoint,
        describe_folder,
        describe_offline,
        estimate,
        plan,
    )

    if offline == (model is not None):
        raise ConfigError("name the model of an endpoint with --model, or pass --offline")
    everything, due, _ = plan(folder, count)
    if verify and len(everything) < 2:
        raise ConfigError(f"{str(folder)!r} has one task; --verify needs others to tell it from")
    if offline:
        note(_POORER)
        with progress("writing") as show:
            result = describe_folder(folder, describe_offline(count), count, report=show)
        return _show(result, len(everything), as_json)
    prices = _parse_price(price)
    before = estimate(due, everything, count, verify=verify).explain(prices)
    note(f"{len(due)} of {len(everything)} tasks to describe: {before}")
    if dry_run:
        return None
    from text_to_lora.encoders import load_encoder
    from text_to_lora.tasks.describing.endpoint import Endpoint

    assert model is not None
    with Endpoint(model, api_base=api_base, timeout=timeout, retries=retries) as endpoint:
        embed = load_encoder(encoder).encode
        write = describe_by_endpoint(endpoint, everything, embed, count, verify=verify)
        try:
            with progress("asking") as show:
                result = describe_folder(folder, write, count, parallel=parallel, report=show)
        finally:
            note(f"used {endpoint.usage.explain(prices)}")
    return _show(result, len(everything), as_json)


def _parse_price(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        price_in, price_out = map(float, text.split(","))
    except ValueError:
        raise ConfigError(
            f"price {text!r}; write two numbers, of tokens in and of tokens out, as 0.15,0.6"
        ) from None
    return price_in, price_out


def _show(described: Sequence[Described], num_tasks: int, as_json: bool) -> None:
    if as_json:
        echo_json([asdict(item) for item in described])
        return
    for item in described:
        few = f" of {item.wanted}" if len(item.descriptions) < item.wanted else ""
        typer.echo(f"{item.task}  {len(item.descriptions)}{few} descriptions")
    reasons: Counter[str] = Counter()
    for item in described:
        reasons.update(item.left_out)
    for reason, number in reasons.most_common():
        typer.echo(f"left out: {number} descriptions that {reason}")
    if done := num_tasks - len(described):
        typer.echo(f"{done} tasks had been described before")
