"""Costs in words: operations, bytes, and from how many questions on a way costs less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def tera(flops: float) -> str:
    """Give operations in units of 1e12."""
    return f"{flops / 1e12:.4g}"


def size(count: int) -> str:
    """Give bytes in the largest unit that fits."""
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            return f"{count / of:.3g} {unit}"
    return f"{count} B" if count else "0"


def span(found: Sequence[int | None] | None, unit: str = "") -> str:
    """Say from and up to how many a way costs no more; None: never."""
    if found is None:
        return "never"
    first, last = found
    if last is None:
        return "always" if first == 1 else f"from {first:,}{unit}"
    return f"up to {last:,}{unit}" if first == 1 else f"{first:,} to {last:,}{unit}"


def cells_of_way(name: str, way: Mapping[str, Any], unit: str = "") -> list[str]:
    """Give a way of `Cost.to_dict` as a line of a table."""
    return [
        name,
        tera(way["flops_per_task"]),
        tera(way["flops_per_question"]),
        tera(way["flops_first_question"]),
        tera(way["flops_per_question_amortised"]),
        size(way["bytes_kept_per_task"]),
        "" if name == "T2L" else span(way["t2l_costs_no_more"], unit),
    ]
