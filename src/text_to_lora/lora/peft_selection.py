"""Which modules of a base PEFT adapts, by the fields of adapter_config.json that select them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.errors import AdapterFormatError, first_line, shorten

if TYPE_CHECKING:
    import regex

    from text_to_lora.lora.spec import LoraSpec

ALL_LINEAR: Final = "all-linear"

_MAX_PATTERN: Final = 20_000  # characters; more take seconds to compile
_MAX_SECONDS: Final = 1.0  # for all names; an ordinary pattern takes milliseconds
# What `regex` reads otherwise than `re`, by which PEFT matches: fuzzy counts and named classes.
_UNLIKE_RE: Final = re.compile(r"(?<!\\)(?<!\\N)\{(?!\d*,?\d*\})|\[:")
_NAMES_NEEDED: Final = "names or a pattern are needed"


class PeftSelection:
    """The modules that PEFT adapts under a configuration; patterns are matched for a limited time.

    place: whose configuration it is, as the start of a message

    Raises AdapterFormatError when a field has a wrong type, a pattern that does not compile or is
    too long, or fields exclude each other.
    Source: peft 0.21, tuners_utils.check_target_module_exists and LoraConfig.__post_init__.
    """

    def __init__(self, config: Mapping[str, Any], place: str = "the configuration") -> None:
        self._config, self._place = config, place
        self._targets = self._read_names("target_modules")
        self._excluded = self._read_names("exclude_modules")
        if not self._targets:
            raise self._error("target_modules", _NAMES_NEEDED)
        self._layers, self._layer_patterns = self._read_layers()

    def select(self, names: Iterable[str]) -> set[str]:
        """Those of the modules, by full path, that PEFT adapts.

        names: linear modules other than the output head where target_modules is "all-linear"

        Raises AdapterFormatError when a pattern takes too long.
        """
        deadline = time.monotonic() + _MAX_SECONDS
        try:
            return {name for name in names if self._selects(name, deadline)}
        except TimeoutError:
            raise AdapterFormatError(
                f"{self._place} has a pattern of modules that takes more than {_MAX_SECONDS:g} s to "
                "match; list the names of the modules instead"
            ) from None

    def _selects(self, name: str, deadline: float) -> bool:
        if self._excluded and _matches(self._excluded, name, deadline):
            return False
        if not _matches(self._targets, name, deadline):
            return False
        by_full_name = isinstance(self._targets, frozenset) and name in self._targets
        if self._layers is None or by_full_name:
            return True
        for pattern in self._layer_patterns:
            if match := pattern.match(name, timeout=_seconds_left(deadline)):
                return match["idx"] is not None and int(match["idx"]) in self._layers
        return False

    def _read_names(self, field: str) -> frozenset[str] | regex.Pattern[str]:
        """Names that end the paths of modules, or a pattern of whole paths."""
        value = self._config.get(field)
        if isinstance(value, str) and value:
            all_linear = field == "target_modules" and value.lower() == ALL_LINEAR
            return self._compile(".*" if all_linear else value, field)
        value = value or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error(field, _NAMES_NEEDED)
        return frozenset(value)

    def _read_layers(self) -> tuple[frozenset[int] | None, list[regex.Pattern[str]]]:
        """Numbers of the adapted layers, None for all, and patterns that find them in paths."""
        layers = self._config.get("layers_to_transform")
        patterns = self._config.get("layers_pattern")
        if isinstance(self._config["target_modules"], str):
            for field in ("layers_to_transform", "layers_pattern"):
                if self._config.get(field) is not None:
                    raise self._error(field, "PEFT takes it beside a list of names alone")
        elif patterns and layers is None:
            raise self._error("layers_pattern", "PEFT takes it with layers_to_transform alone")
        numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
        if not all(type(number) is int for number in numbers):
            raise self._error("layers_to_transform", "numbers of layers are needed")
        texts = [patterns] if isinstance(patterns, str) and patterns else patterns or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._error("layers_pattern", "a name or names of lists are needed")
        if not numbers:
            return None, []
        # Without a name PEFT wants something before the list of layers.
        forms = [rf"(?:^|.*?\.){text}\.(?P<idx>\d+)\." for text in texts]
        forms = forms or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        return frozenset(numbers), [self._compile(form, "layers_pattern") for form in forms]

    def _compile(self, pattern: str, field: str) -> regex.Pattern[str]:
        """Compile a pattern that `re` takes too, so that its matching can be stopped."""
        import regex

        if len(pattern) > _MAX_PATTERN:
            raise self._error(field, f"a pattern of at most {_MAX_PATTERN} characters is read")
        if _UNLIKE_RE.search(pattern):
            raise self._error(field, "list the names of the modules instead of this pattern")
        try:
            re.compile(pattern)
            return regex.compile(pattern)
        except (re.error, regex.error, RecursionError, OverflowError, MemoryError) as error:
            problem = f"this is no regular expression ({first_line(error)})"
            raise self._error(field, problem) from None

    def _error(self, field: str, problem: str) -> AdapterFormatError:
        value = shorten(self._config.get(field))
        return AdapterFormatError(f"{self._place} has {field}={value}; {problem}")


def selecting_fields(spec: LoraSpec, names: Sequence[str]) -> dict[str, Any]:
    """The fields of adapter_config.json that select the slots of a spec by these names.

    Without names a regular expression of full paths, which is always exact.
    """
    if not names:
        by_layers: dict[tuple[int, ...], list[str]] = {}
        for group in spec.groups:
            by_layers.setdefault(group.layers, []).append(re.escape(group.module))
        choices = [
            rf"({'|'.join(map(str, layers))})\.({'|'.join(modules)})"
            for layers, modules in by_layers.items()
        ]
        return {"target_modules": rf"{re.escape(spec.layers_path)}\.({'|'.join(choices)})"}
    fields: dict[str, Any] = {"target_modules": sorted(names)}
    layer_sets = {group.layers for group in spec.groups}
    if len(layer_sets) == 1 and (layers := layer_sets.pop()) != tuple(range(spec.num_layers)):
        fields["layers_to_transform"] = list(layers)
        fields["layers_pattern"] = spec.layers_path.rpartition(".")[2]
    return fields


def exact_names(spec: LoraSpec, names: Sequence[str], *, by_path: bool = False) -> tuple[str, ...]:
    """The shortest names (leaf, then path) by which PEFT finds a spec's slots and nothing else.

    names: full path of every module of the base
    by_path: give full paths before none at all, since PEFT turns a regular expression into last
        names where it rewrites those of experts

    Empty when there are none.
    """
    wanted = {spec.module_name(slot.layer, slot.module) for slot in spec.slots}
    paths = sorted({group.module for group in spec.groups})
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    for candidate in (leaves, paths, *([sorted(wanted)] if by_path else [])):
        if PeftSelection(selecting_fields(spec, candidate)).select(names) == wanted:
            return tuple(candidate)
    return ()


def _matches(names: frozenset[str] | regex.Pattern[str], name: str, deadline: float) -> bool:
    """Whether a path or a part of it after a dot is a name, or the whole path fits a pattern."""
    if isinstance(names, frozenset):
        parts = name.split(".")
        return any(".".join(parts[start:]) in names for start in range(len(parts)))
    return names.fullmatch(name, timeout=_seconds_left(deadline)) is not None


def _seconds_left(deadline: float) -> float:
    if (seconds := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return seconds
