"""Many warnings of an encoder become one; others pass."""

from __future__ import annotations

import warnings

import pytest

from text_to_lora.errors import T2LWarning
from text_to_lora.evaluation.conditions.cut_warnings import warn_of_cuts_once


def test_warnings_of_the_encoder_become_one_and_others_pass() -> None:
    with pytest.warns(Warning) as caught, warn_of_cuts_once("inputs"):
        for number in range(3):
            warnings.warn(f"the encoder read 2 tokens of {number}", T2LWarning, stacklevel=1)
        warnings.warn("odd", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == [
        "odd",
        "3 inputs are longer than the encoder reads and are read in part",
    ]


def test_without_warnings_there_is_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with warn_of_cuts_once("inputs"):
            pass
