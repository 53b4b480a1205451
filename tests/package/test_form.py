"""The form of the training rows that a request cannot carry: the error names what the answers depend on, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from roadworthy.foundation.errors import PackError
from roadworthy.package.packing.pack import pack

NONE_OR_NAN = [None if number % 3 else np.nan for number in range(12)]
"""Two marks for a missing value, of which a request keeps the more frequent one."""


def refusal(out: Path, model: Callable[[Any], Any], inputs: Any) -> PackError:
    """The error of `pack`."""
    with pytest.raises(PackError) as refused:
        pack(model, name="case", inputs=inputs, out=out, compile=False)
    return refused.value


def nones(cells: Any) -> int:
    """How many of the cells are None."""
    return sum(cell is None for cell in cells)


def test_mixed_marks_in_an_array_have_no_column_to_name(tmp_path: Path) -> None:
    """The hint asks for one type with NaN."""
    rows = np.array([[number, mark] for number, mark in enumerate(NONE_OR_NAN)], dtype=object)
    error = refusal(tmp_path, lambda given: [float(nones(row)) for row in given], rows)
    assert error.code == "training-form-lost"
    assert "column" not in error.message
    assert "NaN where a value is missing" in str(error.hint)


def test_mixed_marks_in_records_are_named(tmp_path: Path) -> None:
    """The first row that is answered otherwise, and the column."""
    rows = [{"a": 1.0, "b": 2.0}, *({"a": 1.0, "b": mark} for mark in NONE_OR_NAN)]
    error = refusal(tmp_path, lambda given: [float(row["b"] is None) for row in given], rows)
    assert error.code == "training-form-lost"
    assert "column 'b'" in error.message
    assert error.facts["row"] == 1


def test_mixed_marks_in_a_polars_frame_are_named(tmp_path: Path) -> None:
    """NaN and null are different values there."""
    frame = pl.DataFrame({"a": np.arange(12.0), "b": pl.Series([None if number % 3 else float("nan") for number in range(12)])})
    error = refusal(tmp_path, lambda given: given["b"].is_null().to_numpy() * 1.0, frame)
    assert error.code == "training-form-lost"
    assert "column 'b'" in error.message


def test_numbers_of_two_types_in_one_column_are_named(tmp_path: Path) -> None:
    """1 and 1.0 are equal numbers, but a model can distinguish them."""
    frame = pd.DataFrame({"a": pd.Series([1, 2.5, 3, 4.5], dtype=object)})
    error = refusal(tmp_path, lambda given: [float(isinstance(cell, int)) for cell in given["a"]], frame)
    assert error.code == "training-form-lost"
    assert "column 'a'" in error.message
    assert "one type before training" in str(error.hint)


def test_a_form_of_two_columns_together_is_refused(tmp_path: Path) -> None:
    """No column alone changes an answer, so the error names no column."""
    marks = pd.Series(["x", *NONE_OR_NAN], dtype=object)
    frame = pd.DataFrame({"a": marks, "b": marks})

    def model(given: pd.DataFrame) -> Any:
        return [float(nones(row) == 2) for row in given.to_numpy()]

    error = refusal(tmp_path, model, frame)
    assert error.code == "training-form-lost"
    assert "column '" not in error.message
    assert "each column one type" in str(error.hint)


def test_a_model_that_fails_on_the_form_of_a_request_is_refused(tmp_path: Path) -> None:
    """The error has the model's own words."""
    rows = np.array([[number, mark] for number, mark in enumerate(NONE_OR_NAN)], dtype=object)

    def model(given: Any) -> Any:
        if nones(given[:, 1]) == len(given):
            raise ValueError("NaN is gone")
        return np.ones(len(given))

    error = refusal(tmp_path, model, rows)
    assert error.code == "training-form-lost"
    assert "NaN is gone" in error.message


def test_answers_that_change_their_type_are_refused(tmp_path: Path) -> None:
    """Numbers at first, then text."""
    asked: list[int] = []

    def model(given: Any) -> Any:
        asked.append(len(given))
        return np.ones(len(given)) if len(asked) == 1 else ["one"] * len(given)

    error = refusal(tmp_path, model, np.ones((4, 2)))
    assert error.code == "unsupported-output"
