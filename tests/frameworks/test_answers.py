"""Whatever a user's function returns becomes named arrays, rows first, or is refused with what to return instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from roadworthy.foundation.errors import PackError
from roadworthy.frameworks.answers import named_answers
from roadworthy.schema.infer import infer_outputs


@pytest.mark.parametrize(
    ("result", "described"),
    [
        (np.array([1.5, 2.5]), {"prediction": ("float64", ())}),
        (np.eye(2, dtype=np.float32), {"prediction": ("float32", (2,))}),
        ([1, 2], {"prediction": ("int64", ())}),
        (["a", "b"], {"prediction": ("string", ())}),
        (pd.Series(["a", "b"]), {"prediction": ("string", ())}),
        (pd.Series([1, 2], index=[7, 8]), {"prediction": ("int64", ())}),
        (pl.Series([True, False]), {"prediction": ("bool", ())}),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), {"a": ("int64", ()), "b": ("string", ())}),
        (pl.DataFrame({"a": [1.5, 2.5]}), {"a": ("float64", ())}),
        ({"a": [1, 2], "b": np.eye(2)}, {"a": ("int64", ()), "b": ("float64", (2,))}),
        ([{"a": 1, "b": {"c": [1]}}, {"a": 2, "b": {}}], {"a": ("int64", ()), "b": ("json", ())}),
        ([[1, 2], [3]], {"prediction": ("json", ())}),
        (({"a": 1}, {"a": 2}), {"a": ("int64", ())}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_usual_form_is_named(result: Any, described: dict[str, Any]) -> None:
    """And can be typed."""
    fields = infer_outputs(named_answers(result))
    assert {field.name: (field.dtype.value, field.shape) for field in fields} == described


@pytest.mark.parametrize("result", [None, 5, "text", object(), {1, 2}, (n for n in range(2))])
def test_what_has_no_rows_is_refused(result: Any) -> None:
    """One value for all rows is no answer."""
    with pytest.raises(PackError) as caught:
        named_answers(result)
    assert caught.value.code == "unsupported-output"
    assert caught.value.hint


def test_sparse_answers_are_refused() -> None:
    """scipy's matrices are no arrays."""
    from scipy.sparse import csr_matrix

    with pytest.raises(PackError, match="csr_matrix"):
        named_answers(csr_matrix(np.eye(2)))
