"""Values that the original refuses are refused before the graph is asked, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from roadworthy.foundation.errors import InputRefused
from roadworthy.frameworks.guards import Guard
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

LAYOUT = Layout((Field("a", DType.FLOAT64, nullable=True), Field("n", DType.INT64), Field("b", DType.FLOAT64)))
OPTIONS = {
    "guards": [{"block": 0, "column": 1, "low": "-2.5", "high": "3.5"}],
    "refusal": "Input X contains infinity",
}


def _batch(a: list[float], b: list[float], mask: Any = None) -> Batch:
    values = np.array([a, b]).T
    return Batch(LAYOUT, len(a), (Block(values, mask), Block(np.zeros((len(a), 1), dtype=np.int64))))


def test_values_inside_pass() -> None:
    """Both ends belong to what is accepted, and columns without a guard take everything."""
    Guard(OPTIONS, LAYOUT).check(_batch([1e300, -1e300, 0.0], [-2.5, 3.5, 0.0]))


def test_the_first_value_outside_is_named() -> None:
    """Column, row, value, what is accepted, and what the original says."""
    beyond = float(np.nextafter(3.5, 4))
    with pytest.raises(InputRefused) as caught:
        Guard(OPTIONS, LAYOUT).check(_batch([0.0, 0.0], [0.0, beyond]))
    error = caught.value
    assert error.code == "input-refused"
    assert error.message == f"the model refuses {beyond!r} in column 'b', row 1: expected a value from -2.5 to 3.5"
    assert error.hint == "the original model says: Input X contains infinity"
    assert error.facts["fields"] == [{"name": "b", "row": 1, "code": "input-refused", "expected": "from -2.5 to 3.5"}]


def test_what_lies_under_a_null_is_no_value() -> None:
    """The filler of a missing value may be anything."""
    mask = np.array([[False, True]])
    Guard(OPTIONS, LAYOUT).check(_batch([0.0], [1e9], mask))


def test_an_element_of_a_tensor_is_named_by_its_number() -> None:
    """One tensor field, as numpy training rows give."""
    layout = Layout((Field("x", DType.FLOAT32, shape=(2,)),))
    guard = Guard({**OPTIONS, "guards": [{"block": 0, "column": 1, "low": "0.0", "high": "1.0"}]}, layout)
    batch = Batch(layout, 1, (Block(np.array([[5.0, 2.0]], dtype=np.float32)),))
    with pytest.raises(InputRefused, match=r"2\.0 in column 'x\[1\]', row 0"):
        guard.check(batch)


@pytest.mark.parametrize(
    "guards",
    [[{"block": 1, "column": 0, "low": "0", "high": "1"}], [{"block": 0, "column": 9, "low": "0", "high": "1"}]],
)
def test_guards_that_fit_no_column_are_faults_of_the_package(guards: list[dict[str, Any]]) -> None:
    """A column of integers has no limits, and a column that is not there cannot have any."""
    with pytest.raises((ValueError, IndexError)):
        Guard({**OPTIONS, "guards": guards}, LAYOUT)
