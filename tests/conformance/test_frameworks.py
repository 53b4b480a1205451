"""Every framework that discovery finds passes the public suite; a new file without a case here fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from roadworthy.frameworks.discovery import frameworks
from roadworthy.testing.frameworks import CHECKS, Check, FrameworkCase, case_of, check_loads_elsewhere, check_name

RNG = np.random.default_rng(7)
MATRIX = RNG.normal(size=(24, 3))
FRAME = pd.DataFrame(
    {
        "a": MATRIX[:, 0],
        "b": np.where(MATRIX[:, 1] > 1, np.nan, MATRIX[:, 1]),
        "c": np.where(MATRIX[:, 2] > 0, "x", "y"),
    }
)
NAMES = np.where(MATRIX[:, 0] + MATRIX[:, 2] > 0, "late", "punctual")


def scikit_learn() -> Iterator[FrameworkCase]:
    """A pipeline on a frame with gaps and text, a forest on an array, a regressor, a classifier without probabilities."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    this = frameworks()["scikit-learn"]
    columns = make_column_transformer((OneHotEncoder(), ["c"]), remainder="passthrough")
    pipeline = make_pipeline(columns, DecisionTreeClassifier(random_state=0)).fit(FRAME, NAMES)
    yield case_of(this, pipeline, FRAME)
    yield case_of(this, RandomForestClassifier(5, random_state=0, n_jobs=-1).fit(MATRIX, NAMES), MATRIX)
    yield case_of(this, HistGradientBoostingRegressor(max_iter=3).fit(FRAME[["a", "b"]], MATRIX[:, 2]), FRAME[["a", "b"]])
    yield case_of(this, LinearSVC().fit(MATRIX, MATRIX[:, 0] > 0), MATRIX)


def python() -> Iterator[FrameworkCase]:
    """A function of an array, one of records with nested answers, and one of a frame behind preprocessing."""
    this = frameworks()["python"]
    scale = 2.0

    def doubled(rows: Any) -> Any:
        return rows * scale

    def described(records: Any) -> Any:
        return [{"text": f"n={record['n']}", "parts": {"n": [record["n"]]}} for record in records]

    def summed(frame: Any) -> Any:
        frame["sum"] = frame["a"] + frame["b"]
        return frame

    yield case_of(this, doubled, MATRIX)
    yield case_of(this, described, [{"n": number, "s": str(number)} for number in range(5)])
    yield case_of(this, lambda frame: {"sum": frame["sum"].to_numpy()}, FRAME[["a", "b"]].dropna(), preprocess=summed)


def onnx() -> Iterator[FrameworkCase]:
    """One matrix in, several columns of two types in, and a graph behind preprocessing."""
    from onnx import TensorProto, helper

    this = frameworks()["onnx"]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 3]),
        helper.make_tensor_value_info("best", TensorProto.INT64, [None]),
    ]
    nodes = [
        helper.make_node("Softmax", ["x"], ["scores"], axis=1),
        helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    yield case_of(this, model, MATRIX)
    yield case_of(this, model, MATRIX.astype(np.float32))
    yield case_of(this, model, pd.DataFrame({"a": MATRIX[:, 0], "n": np.arange(24), "b": MATRIX[:, 1]}))
    yield case_of(this, model, MATRIX, preprocess=lambda rows: rows + 1.0)


PROVIDERS: dict[str, Callable[[], Iterator[FrameworkCase]]] = {
    "scikit-learn": scikit_learn,
    "python": python,
    "onnx": onnx,
}


@pytest.fixture(scope="module")
def cases() -> dict[str, list[FrameworkCase]]:
    """All cases by framework, made once."""
    return {name: list(PROVIDERS[name]()) for name in frameworks() if name in PROVIDERS}


def test_every_framework_has_cases() -> None:
    """A new framework needs a small model here."""
    assert set(frameworks()) == set(PROVIDERS)


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
@pytest.mark.parametrize("name", sorted(frameworks()))
def test_framework(name: str, check: Check, cases: dict[str, list[FrameworkCase]], tmp_path: Path) -> None:
    """One check of the suite on all cases of a framework; only on the first case if the check starts a process."""
    chosen = cases[name][:1] if check is check_loads_elsewhere else cases[name]
    for number, case in enumerate(chosen):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(case, folder)
