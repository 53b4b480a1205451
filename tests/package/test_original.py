"""A graph packed with its original is compared with it as strictly as our own conversions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import roadworthy as rw
from bench.foreign import foreign_graph
from roadworthy.foundation.errors import PackError, ProofFailed
from roadworthy.package.card import render_card
from roadworthy.schema.infer import infer_inputs


def _graph(model: Any, rows: Any) -> Any:
    return foreign_graph(model, infer_inputs(rows)[0])


def test_a_graph_that_answers_as_its_original_is_packed(tmp_path: Path) -> None:
    """A linear model in float32 stays within the tolerance; the card states that it was only compared."""
    rows, target = load_diabetes(return_X_y=True)
    model = Ridge().fit(rows, target)
    package = rw.pack(_graph(model, rows), name="g", inputs=rows, original=model, out=tmp_path)
    assert not package.carries_code
    assert "a foreign graph, only compared with its original: equal on" in render_card(package)
    _, golden = package.golden()
    inputs, _ = package.golden()
    expected = model.predict(inputs.column_at(0)[0]).astype(np.float32)
    assert np.array_equal(golden.column_at(0)[0].ravel(), expected)


def test_a_graph_that_moves_rows_over_thresholds_is_refused(tmp_path: Path) -> None:
    """The error names the first difference, and what to do."""
    rows, labels = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=20, random_state=0)).fit(rows, labels)
    with pytest.raises(ProofFailed) as caught:
        rw.pack(_graph(model, rows), name="g", inputs=rows, original=model, out=tmp_path)
    assert caught.value.code == "original-differs"
    assert "answers differ on" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_outputs_of_other_names_are_taken_in_order(tmp_path: Path) -> None:
    """Converters choose the names of outputs."""
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = rows[:, :4]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    package = rw.pack(_graph(model, rows), name="g", inputs=rows, original=model, out=tmp_path)
    assert [field.name for field in package.signature.outputs] == ["label", "probabilities"]


def test_an_original_of_other_outputs_is_refused(tmp_path: Path) -> None:
    """A classifier's graph with a regressor as its original."""
    rows, labels = load_breast_cancer(return_X_y=True)
    graph = _graph(LogisticRegression(max_iter=5000).fit(rows, labels), rows)
    with pytest.raises(PackError) as caught:
        rw.pack(graph, name="g", inputs=rows, original=Ridge().fit(rows, labels), out=tmp_path)
    assert caught.value.code == "original-outputs-differ"
