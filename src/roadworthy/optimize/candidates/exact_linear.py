"""Linear models behind scalers as one double ONNX graph: subtract, multiply, add, and the estimator's own link.

The sums are double and the formula is the original's, so answers agree to about 1e-15. "Equal for every input" cannot be said of
the label of a row that lies on the boundary to within that rounding: scikit-learn itself adds in another order for one row than
for many.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import NotConvertible, Source
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
from roadworthy.optimize.exact.pipeline import Origin, Parts, take_apart
from roadworthy.schema.batch import Array
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

_REGRESSORS = frozenset(
    {"LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "BayesianRidge"}
    | {"ARDRegression", "HuberRegressor", "LinearSVR", "SGDRegressor", "Lars", "LassoLars", "QuantileRegressor"}
)
_CLASSIFIERS = frozenset(
    {"LogisticRegression", "LogisticRegressionCV", "SGDClassifier", "LinearSVC", "RidgeClassifier", "Perceptron"}
)


@dataclass(frozen=True, slots=True)
class _Affine:
    """x → (x - shift) * factor + offset, after a missing x became `fill`."""

    shift: float = 0.0
    factor: float = 1.0
    offset: float = 0.0
    fill: float | None = None


class ExactLinear:
    """The candidate "onnx-linear"."""

    name = "onnx-linear"
    framework = "onnx"
    by_construction = True

    def convert(self, source: Source, folder: Path) -> Saved:
        """As Candidate.convert."""
        parts = take_apart(source.model, source.signature)
        kind = type(parts.estimator).__name__
        if kind not in _REGRESSORS | _CLASSIFIERS:
            raise NotConvertible(f"{kind} is not a linear model that can be read")
        writer = Writer()
        sums = _write_sums(writer, parts, source.signature)
        if kind in _REGRESSORS:
            if parts.estimator.coef_.ndim != 1:
                raise NotConvertible("the model answers several outputs")
            write_outputs(writer, {"prediction": write_prediction(writer, sums)}, source.signature)
        else:
            _write_classes(writer, sums, parts.estimator, source.signature)
        return writer.save(folder)


def _write_sums(writer: Writer, parts: Parts, signature: Signature) -> str:
    """(rows, sums) of the estimator's decision function or prediction."""
    raws: tuple[RawColumn, ...] = tuple(dict.fromkeys(origin.raw for origin in parts.origins))
    chains = [_affine(origin) for origin in parts.origins]
    matrix, places = write_matrix(writer, signature, raws)
    order = np.array([places[origin.raw] for origin in parts.origins], dtype=np.int64)
    matrix = writer.add("Gather", matrix, writer.constant(order), axis=1)
    fills = np.array([np.nan if chain.fill is None else chain.fill for chain in chains])
    if not np.isnan(fills).all():
        matrix = writer.add("Where", writer.add("IsNaN", matrix), writer.constant(fills), matrix)
    shifts, factors, offsets = (np.array([getattr(c, name) for c in chains]) for name in ("shift", "factor", "offset"))
    if shifts.any():
        matrix = writer.add("Sub", matrix, writer.constant(shifts))
    weights = np.atleast_2d(parts.estimator.coef_).astype(np.float64)
    bias = np.resize(np.asarray(parts.estimator.intercept_, dtype=np.float64), len(weights)) + weights @ offsets
    return writer.add("Gemm", matrix, writer.constant((weights * factors).T.copy()), writer.constant(bias))


def _write_classes(writer: Writer, sums: str, estimator: Any, signature: Signature) -> None:
    classes, dtype = estimator.classes_, label_dtype(signature)
    binary = len(estimator.coef_) == 1
    results: dict[str, str] = {}
    if any(output.name == "probabilities" for output in signature.outputs):
        results["probabilities"] = write_logistic(writer, sums) if binary else writer.add("Softmax", sums, axis=1)
    if dtype is not None:
        results["label"] = _write_label(writer, sums, classes, dtype, binary=binary)
    write_outputs(writer, results, signature)


def _write_label(writer: Writer, sums: str, classes: Array, dtype: DType, *, binary: bool) -> str:
    if binary:
        return write_sign(writer, sums, classes, dtype, zero_is_second=False)
    return write_largest(writer, sums, classes, dtype)


def _affine(origin: Origin) -> _Affine:
    """A column's preprocessing as one formula."""
    if origin.raw.dtype is DType.STRING:
        raise NotConvertible(f"column {origin.raw.label!r} is text")
    chain = _Affine()
    for step, column in origin.chain:
        chain = _then(chain, step, column)
    if origin.raw.field.nullable and chain.fill is None:
        raise NotConvertible(f"column {origin.raw.label!r} may be missing, which the model itself refuses")
    return chain


def _then(chain: _Affine, step: Any, column: int) -> _Affine:
    kind = type(step).__name__
    if kind == "SimpleImputer":
        if (chain.shift, chain.factor, chain.offset) != (0.0, 1.0, 0.0):
            raise NotConvertible("values are imputed after they were scaled")
        fill = float(step.statistics_[column]) if chain.fill is None else chain.fill
        return _Affine(fill=fill)
    if kind == "MinMaxScaler":
        if step.clip:
            raise NotConvertible("the MinMaxScaler clips")
        return _composed(chain, 0.0, float(step.scale_[column]), float(step.min_[column]))
    if kind in ("StandardScaler", "RobustScaler", "MaxAbsScaler"):
        centred = (kind == "StandardScaler" and step.with_mean) or (kind == "RobustScaler" and step.with_centering)
        centre = (step.mean_ if kind == "StandardScaler" else step.center_)[column] if centred else 0.0
        scale = 1.0 if step.scale_ is None else step.scale_[column]
        return _composed(chain, float(centre), 1.0 / float(scale), 0.0)
    raise NotConvertible(f"{kind} before a linear model")


def _composed(chain: _Affine, shift: float, factor: float, offset: float) -> _Affine:
    """`chain`, then (x - shift) * factor + offset. The first shift stays apart: folded in, it could cancel digits."""
    if (chain.factor, chain.offset) == (1.0, 0.0) and chain.shift == 0.0:
        return _Affine(shift, factor, offset, chain.fill)
    return _Affine(chain.shift, chain.factor * factor, (chain.offset - shift) * factor + offset, chain.fill)


CANDIDATES = (ExactLinear(),)
