"""Many warnings of an encoder as one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from text_to_lora.errors import T2LWarning


@contextmanager
def warn_of_cuts_once(what: str) -> Iterator[None]:
    """Gather the warnings of texts that are longer than the encoder reads into one.

    what: the texts are, such as "inputs"
    Other warnings come as they are.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    cut = [
        warning
        for warning in caught
        if issubclass(warning.category, T2LWarning)
        and str(warning.message).startswith("the encoder read")
    ]
    for warning in caught:
        if warning not in cut:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if cut:
        warnings.warn(
            f"{len(cut)} {what} are longer than the encoder reads and are read in part",
            T2LWarning,
            stacklevel=4,
        )
