"""Restoring a batch to the container that a model was trained on, from its signature, older packages included."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from roadworthy.foundation.errors import PackageRefused
from roadworthy.frameworks.native import restore_for
from roadworthy.schema.batch import Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.restore import Restorer
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Container, Field, Missing, Signature


def restored(field: Field, container: Container, *cells: Any) -> Any:
    """Rows of one field in a container."""
    batch, _ = decode_rows(Layout((field,)), [{field.name: cell} for cell in cells])
    return Restorer((field,), container).restore(batch)


@pytest.mark.parametrize(
    ("dtype", "native", "cell", "type_", "null"),
    [
        (DType.STRING, None, "a", "str", math.nan), (DType.STRING, "object", "a", "object", None),
        (DType.STRING, "string", "a", "string", pd.NA), (DType.INT64, None, 1, "Int64", pd.NA),
        (DType.INT64, "object", 1, "object", None), (DType.BOOL, None, True, "boolean", pd.NA),
        (DType.FLOAT64, None, 1.5, "float64", math.nan), (DType.FLOAT32, "float16", 1.5, "float16", math.nan),
        (DType.TIMESTAMP, None, "2020-01-01T00:00:00Z", "datetime64[us]", pd.NaT),
        (DType.TIMESTAMP, "datetime64[ns, UTC]", "2020-01-01T00:00:00Z", "datetime64[ns, UTC]", pd.NaT),
        (DType.INT64, "int64[pyarrow]", 1, "int64[pyarrow]", pd.NA),
    ],
)  # fmt: skip
def test_an_older_package_gets_its_rows_as_before(dtype: DType, native: str | None, cell: Any, type_: str, null: Any) -> None:
    """Fields of formats 1 and 2 do not state the missing-value mark: the column's type implies it, and objects hold None."""
    column = restored(Field("c", dtype, nullable=True, native=native), Container.DATAFRAME, cell, None)["c"]
    assert str(column.dtype) == type_
    assert column[1] is null or (isinstance(null, float) and math.isnan(column[1]))


def test_an_older_package_of_categories_and_of_polars() -> None:
    """Ordered categories without their own type; a zone without a unit; a time without either."""
    field = Field("c", DType.STRING, categories=("b", "a"), categorical=True, native="category, ordered")
    assert restored(field, Container.DATAFRAME, "a")["c"].cat.ordered
    time = "2020-01-01T00:00:00Z"
    for native, wanted in ((None, pl.Datetime("us")), ("Europe/Berlin", pl.Datetime("us", "Europe/Berlin"))):
        assert restored(Field("c", DType.TIMESTAMP, native=native), Container.POLARS, time)["c"].dtype == wanted
    field = Field("c", DType.STRING, categories=("b", "a"), categorical=True, native="Categorical")
    assert restored(field, Container.POLARS, "a")["c"].dtype == pl.Categorical


@pytest.mark.parametrize(
    "field",
    [
        Field("c", DType.FLOAT64, native="object", element="numpy.load"),
        Field("c", DType.FLOAT64, native="object", element="os.system"),
        Field("c", DType.JSON, native='"read_csv"'),
        Field("c", DType.JSON, native="nested"),
        Field("c", DType.FLOAT64, native="float512"),
    ],
)
def test_names_of_no_type_are_refused_before_anything_is_called(field: Field) -> None:
    """A manifest may contain any name: names are looked up among types only."""
    container = Container.POLARS if field.dtype is DType.JSON else Container.DATAFRAME
    with pytest.raises(PackageRefused) as refused:
        restore_for(Signature((field,), (field,), container))
    assert refused.value.code == "requirement-mismatch"


@pytest.mark.parametrize("container", [Container.DATAFRAME, Container.ARRAY])
def test_a_time_that_the_column_cannot_hold_is_no_other_time(container: Container) -> None:
    """datetime64[ns] ends in 2262; a later time does not wrap around."""
    field = Field("x", DType.TIMESTAMP, native="datetime64[ns]", nullable=True, missing=Missing.NAT)
    with pytest.raises(OverflowError, match="2262"):
        restored(field, container, "3000-01-01T00:00:00Z")
    made = restored(field, container, "2000-01-01T00:00:00Z", None)
    values = made["x"].to_numpy() if container is Container.DATAFRAME else made
    assert values[0] == np.datetime64("2000-01-01")
    assert np.isnat(values[1])
