"""scikit-learn estimators and pipelines, saved as pickles with the user's own classes by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackError
from roadworthy.frameworks.answers import named_answers
from roadworthy.frameworks.code import load_object, save_object
from roadworthy.frameworks.framework import Loaded, Preprocess, Saved
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.schema.batch import Array
from roadworthy.schema.signature import Scalar, Signature

MODEL_FILE = "model.pkl"
_ARGMAX_LABELS = frozenset(
    {"RandomForestClassifier", "ExtraTreesClassifier", "DecisionTreeClassifier", "ExtraTreeClassifier"}
)
"""Classifiers whose `predict` is defined as the class of the largest `predict_proba`, the first one of equals. For others
(HistGradientBoosting and linear models compare the decision with 0) ties may fall differently, so `predict` is called as well."""


class ScikitLearn:
    """Anything with scikit-learn's `predict`, fitted."""

    name = "scikit-learn"

    def recognises(self, model: object) -> bool:
        """An estimator: scikit-learn's base class is among its ancestors. Nothing is imported."""
        return any(
            base.__module__.startswith("sklearn.") and base.__name__ == "BaseEstimator" for base in type(model).__mro__
        )

    def answer(self, model: Any, rows: Any) -> Mapping[str, Array]:
        """Classifiers: "label" and, where the model has them, "probabilities" (rows, classes); all else: "prediction"."""
        if not hasattr(model, "predict"):
            raise PackError(
                "the estimator has no predict",
                code="unsupported-model",
                hint="end the pipeline with an estimator that predicts, or pack a function that calls transform",
            )
        if not hasattr(model, "classes_"):
            return named_answers(model.predict(rows))
        if not hasattr(model, "predict_proba"):
            return named_answers(model.predict(rows), "label")
        probabilities = model.predict_proba(rows)
        if isinstance(probabilities, list):
            raise PackError(
                "the classifier answers several outputs at once",
                code="unsupported-model",
                hint="pack a function that returns a dict of arrays, one a output",
            )
        if type(_final(model)).__name__ in _ARGMAX_LABELS:
            labels = model.classes_[np.argmax(probabilities, axis=1)]
        else:
            labels = model.predict(rows)
        return {**named_answers(labels, "label"), "probabilities": probabilities}

    def categories(self, model: Any) -> Mapping[str, Sequence[Scalar]]:
        """A classifier's classes_, as Python values, when they are text, integers or booleans."""
        classes = getattr(model, "classes_", None)
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            return {}
        values = classes.tolist()
        return {"label": values} if all(isinstance(value, (str, int, bool)) for value in values) else {}

    def save(self, model: Any, folder: Path) -> Saved:
        """One pickle."""
        distributions = {*save_object(model, folder / MODEL_FILE), "scikit-learn", "numpy"}
        return Saved({}, tuple(sorted(distributions)), carries_code=True, trust="pickle")

    def load(
        self,
        folder: Path,
        options: Mapping[str, Any],  # noqa: ARG002  (nothing to choose here)
        signature: Signature,
        threads: int,
        preprocess: Preprocess | None,
    ) -> Loaded:
        """Unpickle: executes what the file says, so only for an allowed package."""
        model = load_object(folder / MODEL_FILE)
        return NativeLoaded(lambda rows: self.answer(model, rows), signature, threads, preprocess)


def _final(model: Any) -> Any:
    """The last estimator of nested pipelines."""
    while hasattr(model, "steps"):
        model = model.steps[-1][1]
    return model


FRAMEWORK = ScikitLearn()
