"""The search for jumps finds every known error of conversions without knowing the model, and reports no equal one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from bench.foreign import FAULTS, Foreign
from roadworthy.frameworks.discovery import framework_named
from roadworthy.frameworks.framework import ModelFolder
from roadworthy.optimize.candidates.candidate import Source
from roadworthy.optimize.candidates.exact_linear import ExactLinear
from roadworthy.optimize.candidates.exact_trees import ExactTrees
from roadworthy.optimize.compile import Outcome, judge
from roadworthy.optimize.exams import SEARCHED, Exam, answered
from roadworthy.optimize.search import PAIRS, changes, find_jumps, searchable
from roadworthy.schema.batch import Batch

MakeSource = Callable[[Any, Any], Source]


def _searched(source: Source, candidate: Any, folder: Path) -> tuple[Outcome, int]:
    """The result of the search alone for a conversion, and the number of compared rows."""
    saved = candidate.convert(source, folder)
    loaded = framework_named(candidate.framework).load(ModelFolder(folder), saved.options, source.signature, 1, None)
    jumps = find_jumps(source.reference, source.training, searchable(source.signature))
    assert jumps is not None
    exams: tuple[Exam, ...] = tuple(answered(source, SEARCHED, jumps.rows))
    outcome = judge(Outcome("x", "onnx", kept=False, reason=""), source, exams, loaded.run, ties=1e-12 * candidate.has_ties)
    return outcome, jumps.rows.rows


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, make_source: MakeSource, tmp_path: Path) -> None:
    """Each of these graphs is equal on most rows; the search alone catches each, without reading thresholds."""
    rows, labels = load_breast_cancer(return_X_y=True)
    model = FAULTS[fault]().fit(rows, labels)
    outcome, compared = _searched(make_source(model, rows), Foreign(), tmp_path)
    assert compared > PAIRS / 4
    assert outcome.difference is not None, "the fault was not found"
    assert SEARCHED in outcome.reason


EQUAL = {
    "boosting": (
        lambda: make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=30, random_state=0)),
        ExactTrees(),
    ),
    "forest": (lambda: RandomForestClassifier(10, random_state=0), ExactTrees()),
    "boosting by gradients": (
        lambda: make_pipeline(MinMaxScaler(), GradientBoostingClassifier(n_estimators=20, random_state=0)),
        ExactTrees(),
    ),
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), ExactLinear()),
}


@pytest.mark.parametrize("name", EQUAL)
def test_an_equal_conversion_is_not_accused(name: str, make_source: MakeSource, tmp_path: Path) -> None:
    """The same search on graphs that are equal by construction."""
    make, candidate = EQUAL[name]
    rows, labels = load_breast_cancer(return_X_y=True)
    outcome, compared = _searched(make_source(make().fit(rows, labels), rows), candidate, tmp_path)
    assert compared > PAIRS / 4
    assert outcome.reason == ""


def test_a_jump_is_bracketed_by_neighbouring_floats(make_source: MakeSource) -> None:
    """The last rows of a search differ in one column by one float step, and get different answers."""
    rows = np.random.default_rng(0).uniform(0, 1, (200, 1))
    model = DecisionTreeClassifier(max_depth=1).fit(rows, rows[:, 0] > 0.5)
    source = make_source(model, rows)
    jumps = find_jumps(source.reference, source.training, searchable(source.signature))
    assert jumps is not None
    low = jumps.rows.slice(2 * jumps.pairs, 3 * jumps.pairs)
    high = jumps.rows.slice(3 * jumps.pairs, 4 * jumps.pairs)
    left, right = low.column_at(0)[0].ravel(), high.column_at(0)[0].ravel()
    # The forest casts to float32 before it compares, so both floats lie at the end of one float32's reach.
    assert np.array_equal(np.nextafter(left, right), right)
    assert (changes(source.reference(low), source.reference(high)) > 0).all()


def test_a_jump_of_the_conversion_alone_is_found(make_source: MakeSource) -> None:
    """The original is smooth, but its replacement has a step between training rows."""
    rows, target = load_diabetes(return_X_y=True)
    source = make_source(Ridge().fit(rows, target), rows)

    def stepped(batch: Batch) -> Batch:
        answer = source.reference(batch)
        values = answer.column_at(0)[0] + np.where(batch.column_at(0)[0][:, 2] > 0.0123, 1e-3, 0.0)
        return Batch.from_columns(answer.layout, [(values, None)], batch.rows)

    outcome = judge(Outcome("x", "onnx", kept=False, reason=""), source, (), stepped)
    assert outcome.difference is not None
    assert SEARCHED in outcome.reason


def test_a_model_of_no_table_is_not_searched(make_source: MakeSource) -> None:
    """Records have no columns to search along."""
    records = [{"a": float(n), "b": "x"} for n in range(20)]
    source = make_source(lambda rows: np.array([row["a"] for row in rows]), records)
    assert searchable(source.signature) == ()
    assert find_jumps(source.reference, source.training, ()) is None


def test_integers_are_searched_too(make_source: MakeSource) -> None:
    """A step between 4 and 5 is bracketed by 4 and 5."""
    rows = np.arange(10).reshape(-1, 1)
    source = make_source(LinearRegression().fit(rows, np.where(rows[:, 0] > 4, 9.0, 0.0)), rows)
    stepped = make_source(DecisionTreeClassifier().fit(rows, rows[:, 0] > 4), rows)
    assert find_jumps(source.reference, source.training, searchable(source.signature)) is not None
    jumps = find_jumps(stepped.reference, stepped.training, searchable(stepped.signature))
    assert jumps is not None
    ends = jumps.rows.slice(2 * jumps.pairs, 4 * jumps.pairs).column_at(0)[0]
    assert set(ends.ravel().tolist()) == {4, 5}
