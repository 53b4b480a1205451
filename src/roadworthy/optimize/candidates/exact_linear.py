"""Converts linear models behind scalers to one double ONNX graph: the scalers' operations, one product, the estimator's link.

The arithmetic: scaled values equal scikit-learn's to the bit (`exact/scaling.py`). The product with the coefficients is double
and rounds within 1e-12 of the terms, like scikit-learn's own product, which adds in a different order for one row than for many.
A row on the decision boundary, to within that rounding, may get either label; a score of exactly 0 is the first class. Models
that compute in float32 are not converted: their rounding depends on the order of the sum and is visible in the answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import NotConvertible, Source
from roadworthy.optimize.exact.admitted import guards
from roadworthy.optimize.exact.columns import RawColumn
from roadworthy.optimize.exact.graph import (
    Writer,
    label_dtype,
    write_largest,
    write_logistic,
    write_matrix,
    write_outputs,
    write_prediction,
    write_sign,
)
from roadworthy.optimize.exact.pipeline import Origin, Parts, is_sklearn, take_apart
from roadworthy.optimize.exact.scaling import ARITHMETIC, Operation, Step, operations, write_operations
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

_REGRESSORS = frozenset(
    {"LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "BayesianRidge"}
    | {"ARDRegression", "HuberRegressor", "LinearSVR", "SGDRegressor", "Lars", "LassoLars", "QuantileRegressor"}
)
_CLASSIFIERS = frozenset(
    {"LogisticRegression", "LogisticRegressionCV", "SGDClassifier", "LinearSVC", "RidgeClassifier", "Perceptron"}
)


class ExactLinear:
    """The candidate "onnx-linear"."""

    name = "onnx-linear"
    framework = "onnx"
    has_ties = True

    def convert(self, source: Source, folder: Path) -> Saved:
        """As Candidate.convert."""
        parts = take_apart(source.model, source.signature)
        estimator, kind = parts.estimator, type(parts.estimator).__name__
        if kind not in _REGRESSORS | _CLASSIFIERS or not is_sklearn(estimator):
            raise NotConvertible(f"{kind} is not a supported linear model")
        _refuse_narrow(parts)
        writer = Writer()
        stated = (
            *(f"{name}: {ARITHMETIC[name]}" for name in parts.transformers if name in ARITHMETIC),
            f"{kind}: values times coefficients plus intercept, in double, within 1e-12 of the terms",
        )
        sums = _write_sums(writer, parts, source.signature)
        if kind in _REGRESSORS:
            if estimator.coef_.ndim != 1:
                raise NotConvertible("the model has several outputs")
            write_outputs(writer, {"prediction": write_prediction(writer, sums)}, source.signature)
        else:
            stated += _write_classes(writer, sums, estimator, source.signature)
        return writer.save(folder, stated, guards(source, parts, np.float64))


def _refuse_narrow(parts: Parts) -> None:
    if parts.estimator.coef_.dtype != np.float64 or any(o.raw.dtype is DType.FLOAT32 for o in parts.origins):
        raise NotConvertible("the model computes in float32, whose rounding depends on the order of its sums")


def _write_sums(writer: Writer, parts: Parts, signature: Signature) -> str:
    """The estimator's decision function or prediction, (rows, sums)."""
    raws: tuple[RawColumn, ...] = tuple(dict.fromkeys(origin.raw for origin in parts.origins))
    columns = [_operations(origin) for origin in parts.origins]
    matrix, places = write_matrix(writer, signature, raws)
    order = np.array([places[origin.raw] for origin in parts.origins], dtype=np.int64)
    matrix = writer.add("Gather", matrix, writer.constant(order), axis=1)
    matrix = write_operations(writer, matrix, columns)
    weights = np.atleast_2d(parts.estimator.coef_)
    bias = np.resize(np.asarray(parts.estimator.intercept_, dtype=np.float64), len(weights))
    return writer.add("Gemm", matrix, writer.constant(weights.T.copy()), writer.constant(bias))


def _operations(origin: Origin) -> list[Step]:
    """The operations on one column before the estimator."""
    if origin.raw.dtype is DType.STRING:
        raise NotConvertible(f"column {origin.raw.label!r} is text")
    steps = operations(origin)
    if origin.raw.field.nullable and not any(operation is Operation.FILL for operation, _ in steps):
        raise NotConvertible(f"column {origin.raw.label!r} may be missing, and the model refuses missing values")
    return steps


def _write_classes(writer: Writer, sums: str, estimator: Any, signature: Signature) -> tuple[str, ...]:
    """Write probabilities and labels; return the statements of their arithmetic."""
    classes, dtype = estimator.classes_, label_dtype(signature)
    binary = len(estimator.coef_) == 1
    results: dict[str, str] = {}
    stated: tuple[str, ...] = ()
    if any(output.name == "probabilities" for output in signature.outputs):
        _refuse_other_links(estimator, binary=binary)
        results["probabilities"] = write_logistic(writer, sums) if binary else writer.add("Softmax", sums, axis=1)
        link = "1 / (1 + exp(-score)) and 1 less that" if binary else "softmax in double"
        stated += (f"probabilities: {link}, within 1e-15",)
    if dtype is not None and binary:
        results["label"] = write_sign(writer, sums, classes, dtype, zero_is_second=False)
        stated += ("label: the second class where the score is above 0; a score within rounding of 0 may be either",)
    elif dtype is not None:
        results["label"] = write_largest(writer, sums, classes, dtype)
        stated += ("label: the class of the largest score; scores equal to within rounding may be either",)
    write_outputs(writer, results, signature)
    return stated


def _refuse_other_links(estimator: Any, *, binary: bool) -> None:
    """Refuse estimators whose probabilities are neither the logistic function nor the softmax of the scores."""
    kind = type(estimator).__name__
    if kind == "SGDClassifier" and not (binary and estimator.loss == "log_loss"):
        raise NotConvertible(f"the probabilities of an SGDClassifier with loss {estimator.loss} are not supported")
    if not binary and (getattr(estimator, "multi_class", None) == "ovr" or getattr(estimator, "solver", "") == "liblinear"):
        raise NotConvertible("the probabilities of one-vs-rest classifiers are not supported")


CANDIDATES = (ExactLinear(),)
