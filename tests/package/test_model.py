"""`rw.load`: answers have the same kind of container as the rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import roadworthy as rw
from roadworthy.package.model import Model
from roadworthy.package.package import Package


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder for one test."""
    monkeypatch.setenv("ROADWORTHY_HOME", str(tmp_path / "home"))


@pytest.fixture(params=["native", None], ids=["native", "serving"])
def model(request: pytest.FixtureRequest, home: None, compiled_package: Package) -> Iterator[Model]:
    """The compiled package with its original and with its serving runtime."""
    with rw.load(compiled_package.path, allow_code=compiled_package.digest, runtime=request.param) as loaded:
        yield loaded


def test_a_frame_is_answered_with_a_frame(model: Model, cancer: tuple[Any, Any]) -> None:
    """The index is kept; probabilities are one list per row."""
    frame = cancer[0].iloc[5:25]
    answers = model.predict(frame)
    assert isinstance(answers, pd.DataFrame)
    assert answers.index.equals(frame.index)
    assert list(answers.columns) == ["label", "probabilities"]
    assert set(answers["label"]) == {"benign", "malignant"}
    assert all(abs(sum(row) - 1) < 1e-6 for row in answers["probabilities"])


def test_every_kind_of_rows_gives_the_same_answers(model: Model, cancer: tuple[Any, Any]) -> None:
    """pandas, polars, records, numpy."""
    frame = cancer[0].iloc[:20]
    expected = model.predict(frame)["label"].tolist()
    polars = model.predict(pl.DataFrame({name: frame[name].to_numpy() for name in frame.columns}))
    assert isinstance(polars, pl.DataFrame)
    assert polars["label"].to_list() == expected
    records = model.predict(frame.to_dict("records"))
    assert isinstance(records, dict)
    assert records["label"].tolist() == expected
    assert records["probabilities"].shape == (20, 2)
    assert model.predict(frame.to_numpy())["label"].tolist() == expected


def test_rows_that_do_not_fit_are_refused(model: Model, cancer: tuple[Any, Any]) -> None:
    """A missing column, an extra one, text for numbers, no rows: each is named, and nothing is converted silently."""
    frame = cancer[0].iloc[:3]
    for rows in (
        frame.drop(columns="mean area"),
        frame.assign(more=1),
        frame.assign(**{"mean area": "large"}),
        frame.iloc[:0],
        frame.to_numpy()[:, :2],
        "rows",
    ):
        with pytest.raises(rw.InvalidInput):
            model.predict(rows)


def test_the_properties_of_a_model(model: Model, compiled_package: Package) -> None:
    """Name, digest, runtime, signature."""
    assert (model.name, model.digest) == ("cancer", compiled_package.digest)
    assert model.runtime in compiled_package.runtimes
    assert model.signature == compiled_package.signature
    assert "cancer" in repr(model)


def test_an_array_in_arrays_out(graph_package: Package, numbers: Any) -> None:
    """A package of data needs no permission; a closed model gives a clear error."""
    with rw.load(graph_package.path) as model:
        answers = model.predict(numbers)
        assert np.allclose(answers["y"].ravel(), numbers @ [1, 2, 3] + 0.5, rtol=1e-5)
    with pytest.raises(rw.PackageRefused):
        model.predict(numbers)


def test_code_is_refused_without_permission(compiled_package: Package) -> None:
    """The native runtime is a pickle."""
    with pytest.raises(rw.PackageRefused) as refused:
        rw.load(compiled_package.path, runtime="native")
    assert refused.value.code == "code-not-allowed"
