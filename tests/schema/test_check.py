"""NaN and infinities in binary tensors are found whatever block they lie in."""

from __future__ import annotations

import numpy as np
import pytest

from roadworthy.foundation.errors import InvalidInput
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.check import check_finite
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

LAYOUT = Layout(
    (
        Field("a", DType.FLOAT64),
        Field("n", DType.INT64),
        Field("t", DType.FLOAT32, (2,)),
        Field("b", DType.FLOAT64, nullable=True),
    )
)


def batch(**changes: object) -> Batch:
    """Three good rows with some columns changed."""
    columns = {"a": [1.0, 2.0, 3.0], "n": [1, 2, 3], "t": [[1.0, 2.0]] * 3, "b": [1.0, 0.0, 1.0], **changes}
    mask = np.array([False, True, False])
    pairs = [(np.array(columns[f.name], dtype=f.dtype.numpy), mask if f.name == "b" else None) for f in LAYOUT.fields]
    return Batch.from_columns(LAYOUT, pairs, 3)


def test_finite_rows_pass() -> None:
    """Fillers under the mask do not count, whatever they are."""
    check_finite(batch())
    check_finite(batch(b=[1.0, np.nan, 1.0]))
    check_finite(Batch.from_columns(Layout((Field("n", DType.INT64),)), [(np.array([1]), None)], 1))


@pytest.mark.parametrize(
    ("changes", "names", "row"),
    [
        ({"a": [1.0, np.inf, 3.0]}, ["a"], 1),
        ({"t": [[1.0, 2.0], [1.0, 2.0], [np.nan, 2.0]]}, ["t"], 2),
        ({"b": [-np.inf, 0.0, 1.0]}, ["b"], 0),
        ({"a": [np.nan, 1.0, 1.0], "b": [1.0, 0.0, np.nan]}, ["a", "b"], 0),
    ],
)
def test_a1_not_finite_is_named(changes: dict[str, object], names: list[str], row: int) -> None:
    """Every such field, with its first row."""
    with pytest.raises(InvalidInput) as caught:
        check_finite(batch(**changes))
    assert caught.value.code == "not-finite"
    assert [entry["name"] for entry in caught.value.facts["fields"]] == names  # type: ignore[attr-defined]
    assert f"row {row}" in caught.value.message
