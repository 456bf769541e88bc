"""Options that several verbs share, and what their functions have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option, echo

from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from text_to_lora.generate import TextToLora
    from text_to_lora.lora.weights import LoraWeights


def check_strength(strength: float) -> float:
    """Give the strength back when an adapter can have it.

    Raises ConfigError otherwise.
    """
    if not 0 < abs(strength) < 1e3:
        raise ConfigError(f"strength is {strength}; a number other than 0 is needed, 1 is usual")
    return strength


_MODELS = "'embedded', a folder, or OWNER/NAME"

Model = Annotated[str, Option("--model", "-m", help=f"Hypernetwork: {_MODELS}.")]
Base = Annotated[
    str | None, Option("--base", help=f"Base model: {_MODELS}; default: what the model is for.")
]
AdapterBase = Annotated[
    str | None, Option("--base", help=f"Base model: {_MODELS}; default: what the adapter names.")
]
Adapter = Annotated[
    str, Argument(help="Folder of the adapter, of PEFT or mlx-lm, or OWNER/NAME of the hub.")
]
Output = Annotated[Path, Option("--output", "-o", help="Folder to write.")]
Overwrite = Annotated[
    bool,
    Option(
        "--overwrite",
        help="Replace an existing output folder, if all that is in it was written by t2l or PEFT.",
    ),
]
Descriptions = Annotated[list[str] | None, Argument(help="Task descriptions, one adapter each.")]
Data = Annotated[Path, Option("--data", help="Folder of task collections.")]
DescriptionFile = Annotated[
    Path | None, Option("--from-file", help="UTF-8 file, one description a line.")
]
Strength = Annotated[float, Option(callback=check_strength, help="Factor of the adapter's effect.")]
Settings = Annotated[
    list[str] | None, Option("--set", help="key=value over the recipe; may be repeated.")
]
Fresh = Annotated[
    bool, Option("--fresh", help="Delete unfinished work instead of going on with it.")
]
SkipBad = Annotated[
    bool, Option("--skip-bad", help="Leave broken adapters out, with a warning each.")
]
Device = Annotated[str, Option("--device", help="Torch device, such as cpu or cuda.")]
Dtype = Literal["float32", "bfloat16", "float16"]
AsJson = Annotated[bool, Option("--json", help="Print JSON for a program to read.")]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank; a line feed ends one, with or without a CR.

    Raises ConfigError when it is missing, not UTF-8, or holds nothing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{str(path)!r} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise ConfigError(f"{str(path)!r} holds no text; write one entry a line")
    return lines


def gather(given: Sequence[str] | None, path: Path | None, what: str, option: str) -> list[str]:
    """What stands on the command line and what stands in a file, in this order.

    Raises ConfigError when there is neither, or an entry is blank or not UTF-8.
    """
    texts = [*(given or ()), *(read_lines(path) if path is not None else ())]
    if not texts:
        raise ConfigError(f"no {what}; write one, or give a file with {option}")
    for position, text in enumerate(texts, 1):
        if not text.strip():
            raise ConfigError(
                f"{what} {position} of {len(texts)} is empty ({text!r}); write it, or leave it out"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):  # undecodable bytes
            raise ConfigError(f"{what} {position} of {len(texts)} is not UTF-8 ({text!r})")
    return texts


def check_file(path: Path) -> None:
    """Refuse an output file that exists, before any work is done.

    Raises ConfigError.
    """
    if path.exists():
        raise ConfigError(f"output {str(path)!r} exists already; choose another path")


def check_device(device: str) -> str:
    """Give the device back when torch has it.

    Raises ConfigError otherwise.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(f"device {device!r} is not there; use cpu, or see `nvidia-smi`") from None
    return device


@contextmanager
def progress(doing: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being done; gives a function that changes the words.

    It stands on stderr and is wiped at the end; where stderr is no terminal nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda words: None
        return
    from rich.console import Console

    with Console(stderr=True).status(doing) as status:
        yield status.update


def silence_transformers() -> None:
    """Keep transformers from writing bars and notes to stderr."""
    from transformers.utils import logging

    quiet: Any = logging  # without types
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()


def load_base_quietly(
    name: str | Path | None = None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load_base` without what transformers writes to stderr."""
    from text_to_lora.models.base import load_base

    silence_transformers()
    return load_base(name, **options)


def load_generator(
    model: str,
    base: str | None = None,
    device: str = "cpu",
    *,
    dtype: str | None = None,
    with_base: bool = False,
    cache_dir: Path | None = None,
) -> TextToLora:
    """Load a hypernetwork; its base model is loaded where one is named or needed.

    dtype: of the base; None for its usual one; with_base: load the base in any case
    cache_dir: folder that keeps embeddings

    Raises ConfigError when either cannot be had.
    """
    import torch

    from text_to_lora.generate import TextToLora

    t2l = TextToLora.from_pretrained(model, device=check_device(device), cache_dir=cache_dir)
    if base is not None or t2l.reads_with_transformers or with_base:
        chosen = None if dtype is None else getattr(torch, dtype)
        t2l.attach_base(*load_base_quietly(base, spec=t2l.spec, device=device, dtype=chosen))
    return t2l


def load_model_and_base(
    model: str, base: str | None = None, device: str = "cpu", dtype: str | None = None
) -> tuple[TextToLora, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a hypernetwork with the base model that it is for.

    Raises ConfigError when either cannot be had.
    """
    t2l = load_generator(model, base, device, dtype=dtype, with_base=True)
    return t2l, *t2l.base


def read_adapter(
    adapter: str, base: str | None
) -> tuple[LoraWeights, PreTrainedConfig, str, str | None]:
    """The adapter of a folder; the configuration, name and revision of the base that it is for.

    base: the base that the user names; None takes the one that the adapter names

    Raises ConfigError when the folder holds no adapter or several, or no base is named.
    """
    from text_to_lora.export.mlx import is_mlx_folder, load_mlx_adapter, read_mlx_config
    from text_to_lora.lora.peft_config import CONFIG_FILE, read_adapter_config
    from text_to_lora.lora.peft_format import load_adapter
    from text_to_lora.models.base import load_base_config
    from text_to_lora.models.find import base_to_load, find_adapter

    folder = find_adapter(adapter)
    if not (folder / CONFIG_FILE).is_file() and (
        nested := [str(file.parent) for file in sorted(folder.glob(f"*/{CONFIG_FILE}"))]
    ):
        raise ConfigError(f"{adapter!r} holds {len(nested)} adapters; name one, as {nested[0]!r}")
    is_mlx = is_mlx_folder(folder)
    config = (
        {"base_model_name_or_path": read_mlx_config(folder).get("model")}
        if is_mlx
        else read_adapter_config(folder)
    )
    revision = None if base else config.get("revision")
    name = base or base_to_load(str(config.get("base_model_name_or_path") or ""), revision)
    if not name:
        raise ConfigError(f"{adapter!r} does not say what its base is; name it with --base")
    base_config = load_base_config(name, revision=revision)
    if is_mlx:
        return load_mlx_adapter(folder, base_config), base_config, name, revision
    return load_adapter(folder, base_config=base_config), base_config, name, revision


def load_adapter_and_base(
    adapter: str, base: str | None, device: str
) -> tuple[LoraWeights, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an adapter, in float32, with the base model that it is for.

    Raises ConfigError when either cannot be had.
    """
    import torch

    weights, _, name, revision = read_adapter(adapter, base)
    options: dict[str, Any] = {"revision": revision, "device": check_device(device)}
    model, tokenizer = load_base_quietly(name, spec=weights.spec, **options)
    return weights.to(device=device, dtype=torch.float32), model, tokenizer


def echo_json(payload: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print JSON, in ASCII where the standard output cannot encode its texts."""
    text = json.dumps(payload, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(payload, indent=2)
    echo(text)


def cut(text: str, width: int = 60) -> str:
    """The beginning of a text that is longer than so many characters."""
    return text if len(text) <= width else f"{text[:width]}..."


def echo_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    for line in align(list(facts), left=True):
        echo(line)


def align(rows: Sequence[Sequence[str]], *, left: bool = False) -> Iterator[str]:
    """Rows as lines, the first column to the left, others to the right unless `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (
            cell.ljust(width) if left or place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *others)).rstrip()


def note(line: str) -> None:
    """Print progress to stderr, where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)
