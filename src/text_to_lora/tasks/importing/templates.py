"""Collections of prompt templates in promptsource's form: several wordings of one data set.

promptsource itself does not install on Python 3.10 and later, so that its YAML files are read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from text_to_lora.errors import TaskDataError, needs_extra
from text_to_lora.files import JsonError, read_bytes
from text_to_lora.tasks.importing.columns import LeftOut
from text_to_lora.tasks.importing.tables import Cells
from text_to_lora.tasks.texts import distinct_texts

if TYPE_CHECKING:
    import jinja2

_SEPARATOR: Final = "|||"
_MAX_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class Template:
    """One wording: a Jinja text that ends, after "|||", with the answer.

    description: the text before the answer, with {name} where it has a column, on one line
    label_set: the answers that it names
    """

    name: str
    description: str
    label_set: tuple[str, ...]
    _prompt: jinja2.Template
    _answer: jinja2.Template
    _choices: jinja2.Template | None

    def read(self, cells: Cells) -> tuple[str, tuple[str, ...]]:
        """Give the prompt and the accepted answers of a row.

        Raises LeftOut when the template fails for the row or gives it no prompt or no answer.
        """
        import jinja2

        try:
            values: dict[str, Any] = dict(cells)
            if self._choices is not None:
                rendered = self._choices.render(**values).split(_SEPARATOR)
                values["answer_choices"] = [choice.strip() for choice in rendered]
            prompt, answers = (t.render(**values).strip() for t in (self._prompt, self._answer))
        except (jinja2.TemplateError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            kind = type(error).__name__
            raise LeftOut(f"that the template {self.name!r} fails for ({kind})") from error
        texts = distinct_texts(answers.split(_SEPARATOR))
        if not prompt or not texts:
            raise LeftOut(f"with no prompt or no answer by the template {self.name!r}")
        return prompt, texts


def read_templates(path: Path | str) -> list[Template]:
    """Read the templates of a promptsource file, `templates.yaml` of a data set, in its order.

    The templates run in Jinja's sandbox.

    Raises ConfigError when jinja2 is not installed, TaskDataError when the file cannot be read or
    has no template.
    """
    file = Path(path)
    try:
        payload = yaml.load(read_bytes(file, _MAX_BYTES).decode("utf-8-sig"), _Loader)
    except JsonError as error:
        raise error.in_task_file(file) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise TaskDataError(f"not YAML that can be read: {reason}", path=file) from None
    entries = payload.get("templates") if isinstance(payload, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise TaskDataError("no 'templates'; give a templates.yaml of promptsource", path=file)
    templates = [_make(entry, file) for entry in entries.values()]
    if len({template.name for template in templates}) < len(templates):
        raise TaskDataError("two templates have the same name; rename one", path=file)
    return templates


def _make(entry: Any, file: Path) -> Template:
    with needs_extra("train", "reading templates"):
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import SandboxedEnvironment
    text, name = (
        entry.get(key) if isinstance(entry, Mapping) else None for key in ("jinja", "name")
    )
    if not isinstance(text, str) or not isinstance(name, str) or _SEPARATOR not in text:
        raise TaskDataError(
            f"template {name!r} has no 'name', or no 'jinja' with {_SEPARATOR!r} before the answer",
            path=file,
        )
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    environment.globals["choice"] = lambda options: options[0]  # promptsource draws one at random
    prompt, _, answer = text.partition(_SEPARATOR)
    choices = entry.get("answer_choices") or ""
    try:
        parts = [environment.from_string(part) for part in (prompt, answer, choices)]
    except TemplateError as error:
        raise TaskDataError(f"template {name!r}: {error}", path=file) from None
    named = () if "{{" in choices else distinct_texts(choices.split(_SEPARATOR))
    return Template(
        name, _describe(prompt, named), named, parts[0], parts[1], parts[2] if choices else None
    )


def _describe(prompt: str, choices: tuple[str, ...]) -> str:
    text = re.sub(r"\{%.*?%\}|\{#.*?#\}", " ", prompt, flags=re.DOTALL)
    text = re.sub(r"\{\{-?\s*(\w+).*?\}\}", r"{\1}", text, flags=re.DOTALL)
    answers = f" Answer with one of: {', '.join(choices)}." if choices else ""
    return f"{' '.join(text.split())}{answers}"


class _Loader(yaml.SafeLoader):
    """Reads the tags of promptsource as plain mappings."""


_Loader.add_multi_constructor(
    "!Template", lambda loader, suffix, node: loader.construct_mapping(node, deep=True)
)
