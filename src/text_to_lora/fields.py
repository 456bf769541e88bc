"""Frozen dataclasses whose fields are checked by their annotations, and read from JSON objects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from text_to_lora.errors import T2LError, shorten

_T = TypeVar("_T")
_WORDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    list: "a list",
    NoneType: "nothing",
}


def check_fields(record: Any, place: str, error: type[T2LError]) -> None:
    """Check that every field of a dataclass holds what its annotation allows.

    place: what the dataclass is, as the start of a message

    Raises `error` naming the field, its value and what is allowed.
    """
    for name, hint in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise error(f"{place}: {name} is {shorten(value)}; {_describe(hint)} is needed")


def check_positive(record: Any, names: Iterable[str], place: str, error: type[T2LError]) -> None:
    """Check that these numbers of a dataclass are above 0; None passes."""
    for name in names:
        value = getattr(record, name)
        if value is not None and value <= 0:
            raise error(f"{place}: {name} is {value!r}; a number above 0 is needed")


def from_json(
    cls: type[_T],
    payload: object,
    place: str,
    error: type[T2LError],
    *,
    optional: tuple[str, ...] = (),
) -> _T:
    """Build a dataclass from the JSON form of its fields.

    optional: fields that may be missing, and then have their default

    Raises `error` when a field is missing, unknown or of another type than its annotation allows.
    """
    if not isinstance(payload, Mapping):
        raise error(f"{place} is {shorten(payload)}; an object is needed")
    hints = get_type_hints(cls)
    missing = sorted(hints.keys() - set(optional) - payload.keys())
    unknown = sorted(payload.keys() - hints.keys())
    if missing or unknown:
        raise error(f"{place}: missing fields {missing}, unknown fields {unknown}")
    record = cls(
        **{
            name: _from_json(value, hints[name], f"{place}.{name}", error)
            for name, value in payload.items()
        }
    )
    check_fields(record, place, error)
    return record


def _from_json(value: Any, hint: Any, place: str, error: type[T2LError]) -> Any:
    if get_origin(hint) in (Union, UnionType):
        hint = get_args(hint)[0]  # of "X | None"; X comes first
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_from_json(item, get_args(hint)[0], place, error) for item in value)
    if is_dataclass(hint) and value is not None:
        return from_json(hint, value, place, error)  # type: ignore[arg-type]
    return value


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint in (int, float):
        numbers = int | float if hint is float else int
        if not isinstance(value, numbers) or isinstance(value, bool):
            return False
        return -math.inf < value < math.inf
    return isinstance(value, origin or hint)


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_describe(each) for each in get_args(hint))
    if origin is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if origin is tuple:
        return f"a list (each item {_describe(get_args(hint)[0])})"
    return _WORDS.get(origin or hint, "an object")
