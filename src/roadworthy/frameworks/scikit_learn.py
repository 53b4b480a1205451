"""scikit-learn estimators and pipelines, saved as pickles with the user's own classes by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackError
from roadworthy.frameworks.answers import named_answers
from roadworthy.frameworks.code import load_object, save_object
from roadworthy.frameworks.framework import CODE, Loaded, ModelFiles, Nature, Preprocess, Saved, expect_only
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.schema.batch import Array
from roadworthy.schema.signature import Scalar, Signature

MODEL_FILE = "model.pkl"
_BY_PROBABILITY = frozenset(
    {
        "DecisionTreeClassifier",
        "ExtraTreeClassifier",
        "ExtraTreesClassifier",
        "GradientBoostingClassifier",
        "HistGradientBoostingClassifier",
        "LogisticRegression",
        "RandomForestClassifier",
    }
)
"""scikit-learn's classifiers whose `predict` is the class of the largest `predict_proba`, up to rounding: some compare the sums
before the link function. So the label comes from the probabilities, which saves half of the time, unless two are nearly equal."""
_NEARLY = 1e-9


class ScikitLearn:
    """Anything with scikit-learn's `predict`, fitted."""

    name = "scikit-learn"
    interface = 1
    suffixes = (".joblib",)

    def read_file(self, path: Path) -> Any:
        """The object that joblib wrote."""
        import joblib

        return joblib.load(path)

    def recognises(self, model: object) -> bool:
        """An estimator: scikit-learn's base class is among its ancestors. Nothing is imported."""
        return any(base.__module__.startswith("sklearn.") and base.__name__ == "BaseEstimator" for base in type(model).__mro__)

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
        if isinstance(probabilities, list):  # several outputs at once, with a matrix each
            return named_answers(model.predict(rows), "label")
        if _decides_by_probability(model) and not _nearly_tied(probabilities):
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
        return Saved({}, tuple(sorted(distributions)), carries_code=CODE.carries_code, trust=CODE.trust)

    def examine(self, files: ModelFiles, options: Mapping[str, Any]) -> Nature:  # noqa: ARG002  (nothing to find)
        """A pickle is code."""
        expect_only(files, [MODEL_FILE])
        return CODE

    def load(
        self,
        files: ModelFiles,
        options: Mapping[str, Any],  # noqa: ARG002  (nothing to choose here)
        signature: Signature,
        threads: int,
        preprocess: Preprocess | None,
    ) -> Loaded:
        """Unpickle: executes what the file says, so only for an allowed package."""
        model = load_object(files.read(MODEL_FILE))
        _bound_jobs(model, threads)
        return NativeLoaded(lambda rows: self.answer(model, rows), signature, threads, preprocess)


def _decides_by_probability(model: Any) -> bool:
    """Whether the last estimator of nested pipelines is one of _BY_PROBABILITY itself, and no other class of that name."""
    while type(model).__name__ == "Pipeline" and type(model).__module__ == "sklearn.pipeline":
        model = model.steps[-1][1]
    return type(model).__name__ in _BY_PROBABILITY and type(model).__module__.startswith("sklearn.")


def _nearly_tied(probabilities: Array) -> bool:
    """Whether in any row the two largest are so close that rounding may have swapped them."""
    if probabilities.shape[1] < 2:
        return True
    largest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return bool((largest[:, 1] - largest[:, 0] < _NEARLY).any())


def _bound_jobs(model: Any, threads: int) -> None:
    """Forests and the like start `n_jobs` threads of their own in each call; native pools are bounded by `native.py`."""
    try:
        jobs = [name for name in model.get_params() if name == "n_jobs" or name.endswith("__n_jobs")]
        model.set_params(**dict.fromkeys(jobs, threads))
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return  # an estimator of the user's own may not keep scikit-learn's rules for parameters


FRAMEWORK = ScikitLearn()
