"""Estimators answer as they do in training: labels exactly as `predict` says, in the class order of the probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)  # fmt: skip
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from roadworthy.foundation.errors import PackError
from roadworthy.frameworks.scikit_learn import FRAMEWORK
from roadworthy.testing.frameworks import case_of

RNG = np.random.default_rng(3)
X = RNG.normal(size=(90, 4))
TWO = np.where(X[:, 0] > 0, "late", "early")
THREE = np.digitize(X[:, 1], [-0.5, 0.5]) * 10


class Doubler(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer of the user's own."""

    def fit(self, rows: Any, labels: Any = None) -> Doubler:
        """Learn nothing."""
        self.done_ = True
        return self

    def transform(self, rows: Any) -> Any:
        """Twice."""
        return rows * 2


@pytest.mark.parametrize("labels", [TWO, THREE, X[:, 2] > 0, THREE.astype(float)], ids=["text", "int", "bool", "float"])
@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(max_depth=2, random_state=0), ExtraTreeClassifier(max_depth=2, random_state=0),
        RandomForestClassifier(4, max_depth=2, random_state=0), ExtraTreesClassifier(4, max_depth=2, random_state=0),
        HistGradientBoostingClassifier(max_iter=2), GradientBoostingClassifier(n_estimators=2, random_state=0),
        LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_labels_are_exactly_those_of_predict(model: Any, labels: Any) -> None:
    """Also where they are taken from the probabilities; each column of these belongs to the class in its place."""
    model.fit(X, labels)
    answers = FRAMEWORK.answer(model, X)
    assert answers["label"].tolist() == model.predict(X).tolist()
    np.testing.assert_array_equal(answers["probabilities"], model.predict_proba(X))
    known = FRAMEWORK.categories(model)
    assert known == ({} if labels.dtype.kind == "f" else {"label": model.classes_.tolist()})


def test_ties_fall_as_predict_says() -> None:
    """Where rounding makes two probabilities equal, the sum before the link function decides."""
    linear = LogisticRegression().fit(X, TWO)
    linear.coef_, linear.intercept_ = np.array([[1e-17, 0, 0, 0]]), np.array([0.0])
    rows = np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    assert (linear.predict_proba(rows) == 0.5).all()
    assert FRAMEWORK.answer(linear, rows)["label"].tolist() == linear.predict(rows).tolist() == ["late", "early", "early"]


def test_a_class_that_decides_otherwise_is_asked() -> None:
    """A subclass with a predict of its own is not mistaken for its parent."""

    class LogisticRegressionWithThreshold(LogisticRegression):  # type: ignore[misc]
        def predict(self, rows: Any) -> Any:
            return self.classes_[(self.predict_proba(rows)[:, 1] > 0.9).astype(int)]

    LogisticRegressionWithThreshold.__name__ = "LogisticRegression"
    model = LogisticRegressionWithThreshold().fit(X, TWO)
    assert FRAMEWORK.answer(model, X)["label"].tolist() == model.predict(X).tolist()


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (SVC().fit(X, TWO), ["label"]), (LinearRegression().fit(X, X[:, 0]), ["prediction"]),
        (LinearRegression().fit(X, X[:, :2]), ["prediction"]), (KMeans(2, n_init=1).fit(X), ["prediction"]),
        (IsolationForest(n_estimators=5).fit(X), ["prediction"]),
        (GridSearchCV(LogisticRegression(), {"C": [1]}).fit(X, TWO), ["label", "probabilities"]),
        (DecisionTreeClassifier().fit(X, np.stack([TWO, TWO[::-1]], axis=1)), ["label"]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_each_kind_of_estimator_has_its_outputs(model: Any, names: list[str]) -> None:
    """Classifiers "label" and, where they can, "probabilities"; all others "prediction"; first axis rows."""
    answers = FRAMEWORK.answer(model, X)
    assert list(answers) == names
    assert all(len(answer) == len(X) for answer in answers.values())


def test_what_cannot_predict_is_refused() -> None:
    """A transformer says what to pack instead."""
    with pytest.raises(PackError, match="no predict") as caught:
        FRAMEWORK.answer(StandardScaler().fit(X), X)
    assert caught.value.code == "unsupported-model"


def test_only_estimators_are_recognised() -> None:
    """By their ancestors, also the user's own; classes and functions are not estimators."""
    assert FRAMEWORK.recognises(Doubler())
    assert FRAMEWORK.recognises(make_pipeline(Doubler(), SVC()))
    assert not any(FRAMEWORK.recognises(other) for other in (Doubler, SVC, len, X, pd.DataFrame()))


def test_classes_of_the_users_own_travel_in_the_pickle(tmp_path: Path) -> None:
    """Loading needs no module of the user's; the requirements name the libraries."""
    model = make_pipeline(Doubler(), LogisticRegression()).fit(X, TWO)
    saved = FRAMEWORK.save(model, tmp_path)
    assert {"numpy", "scikit-learn"} <= set(saved.distributions)
    data = (tmp_path / "model.pkl").read_bytes()
    assert b"Doubler" in data
    assert __name__.encode() not in data.split(b"Doubler")[0][-40:]


def test_a_loaded_forest_starts_no_more_threads_than_allowed(tmp_path: Path) -> None:
    """`n_jobs` of the saved estimator does not count in a server."""
    case = case_of(FRAMEWORK, make_pipeline(Doubler(), RandomForestClassifier(4, n_jobs=-1, random_state=0)).fit(X, TWO), X)
    loaded = case.load(tmp_path, threads=2)
    answer: Any = loaded._answer  # type: ignore[attr-defined]
    model = answer.__closure__[[name == "model" for name in answer.__code__.co_freevars].index(True)].cell_contents
    assert model.steps[-1][1].n_jobs == 2
    loaded.close()


def test_fitted_on_a_frame_gets_a_frame(tmp_path: Path) -> None:
    """Feature names are there, so that scikit-learn has nothing to warn about."""
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = LogisticRegression().fit(frame, TWO)
    case = case_of(FRAMEWORK, model, frame)
    assert case.load(tmp_path).run(case.rows).column("label")[0].tolist() == model.predict(frame).tolist()
