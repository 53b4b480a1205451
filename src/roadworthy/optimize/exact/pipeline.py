"""Splits a fitted scikit-learn pipeline into preprocessing and estimator, and traces each estimator column to its raw column.

Called by the exact candidates. Preprocessing must treat each column separately, with transformers whose float arithmetic is
monotonic or which, for text, look words up. This makes folding into thresholds exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible
from roadworthy.optimize.exact.columns import RawColumn, raw_columns
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.restore import Restore, Restorer
from roadworthy.schema.signature import Signature

_SCALERS = frozenset({"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"})
_USABLE = frozenset({DType.BOOL, DType.FLOAT32, DType.FLOAT64, DType.STRING}) | {d for d in DType if d.is_integer}


@dataclass(frozen=True)
class Origin:
    """The origin of one of the estimator's columns.

    Attributes:
        raw: the raw column.
        chain: (transformer, its column) in order of application.
    """

    raw: RawColumn
    chain: tuple[tuple[Any, int], ...] = ()

    def then(self, transformer: Any, column: int) -> Origin:
        return Origin(self.raw, (*self.chain, (transformer, column)))


@dataclass(frozen=True)
class Parts:
    """The pieces of a pipeline: `steps` apply in order to the container that `restore` returns; `estimator` gets `origins`."""

    steps: tuple[Any, ...]
    estimator: Any
    origins: tuple[Origin, ...]
    restore: Restore

    @property
    def transformers(self) -> tuple[str, ...]:
        """The class names of the transformers, in order of appearance."""
        return tuple(dict.fromkeys(type(step).__name__ for origin in self.origins for step, _ in origin.chain))

    def transform(self, batch: Batch, dtype: type[np.floating[Any]]) -> Array:
        """The input of the estimator's own code, (rows, columns) of `dtype`: the result of the pipeline's transformers on its own
        container, cast as by the estimator. Non-finite values are not refused."""
        from sklearn import config_context
        from sklearn.utils import check_array

        table = self.restore(batch)
        with config_context(assume_finite=True), np.errstate(over="ignore", invalid="ignore"):
            for step in self.steps:
                table = step.transform(table)
            return np.asarray(check_array(table, dtype=dtype, ensure_all_finite=False))


def take_apart(model: Any, signature: Signature) -> Parts:
    """Split a fitted estimator, a pipeline, or a search over them.

    Raises:
        NotConvertible: a piece, named in the text, does not treat each column separately.
    """
    if type(model).__module__.startswith("sklearn.model_selection."):
        model = getattr(model, "best_estimator_", model)
    if not is_sklearn(model):
        raise NotConvertible("the model is not a scikit-learn model")
    *steps, estimator = _flatten(model)
    origins: tuple[Origin, ...] = tuple(Origin(raw) for raw in raw_columns(signature))
    for step in steps:
        origins = _follow(step, origins)
    for origin in origins:
        _check(origin)
    return Parts(tuple(steps), estimator, origins, Restorer.of(signature).restore)


def is_sklearn(piece: Any) -> bool:
    """Whether a piece has one of scikit-learn's own classes; a user's subclass may behave differently."""
    return type(piece).__module__.startswith("sklearn.")


def _flatten(model: Any) -> list[Any]:
    if type(model).__name__ != "Pipeline" or not is_sklearn(model):
        return [model]
    pieces = [piece for _, step in model.steps if step not in (None, "passthrough") for piece in _flatten(step)]
    return pieces or [model]


def _follow(step: Any, origins: tuple[Origin, ...]) -> tuple[Origin, ...]:
    """The origins of a transformer's output columns."""
    name = type(step).__name__
    if isinstance(step, str) and step == "passthrough":
        return origins
    if not is_sklearn(step):
        raise NotConvertible(f"{name} is not a scikit-learn class")
    if name == "Pipeline":
        for piece in _flatten(step):
            origins = _follow(piece, origins)
        return origins
    if name == "ColumnTransformer":
        return _follow_columns(step, origins)
    if type(step).__module__.startswith("sklearn.feature_selection."):
        return tuple(origins[int(i)] for i in np.flatnonzero(step.get_support()))
    if name == "FunctionTransformer" and step.func is None:
        return origins
    if name in _SCALERS or (name == "SimpleImputer" and _imputes_plainly(step)) or name == "OrdinalEncoder":
        return tuple(origin.then(step, column) for column, origin in enumerate(origins))
    raise NotConvertible(f"{name} is not known to keep columns separate and in order")


def _imputes_plainly(step: Any) -> bool:
    """Whether an imputer replaces NaN by one value per column, and adds or drops no column."""
    missing = step.missing_values
    kept = not any(isinstance(value, float) and math.isnan(value) for value in step.statistics_.tolist())
    return isinstance(missing, float) and math.isnan(missing) and not step.add_indicator and kept


def _follow_columns(step: Any, origins: tuple[Origin, ...]) -> tuple[Origin, ...]:
    if getattr(step, "sparse_output_", False):
        raise NotConvertible("the ColumnTransformer returns a sparse matrix")
    names = list(getattr(step, "feature_names_in_", []))
    placed: dict[int, Origin] = {}
    for name, transformer, columns in step.transformers_:
        place = step.output_indices_.get(name)
        if (isinstance(transformer, str) and transformer == "drop") or place is None or place.start == place.stop:
            continue
        found = _follow(transformer, tuple(origins[i] for i in _resolve(columns, names, len(origins))))
        if len(found) != place.stop - place.start:
            raise NotConvertible(f"{name} returns columns that cannot be traced to raw columns")
        placed.update(zip(range(place.start, place.stop), found, strict=True))
    return tuple(placed[column] for column in range(len(placed)))


def _resolve(columns: Any, names: list[str], count: int) -> list[int]:
    """The positions of a ColumnTransformer's columns, however it names them."""
    if isinstance(columns, (str, int, np.integer)):
        columns = [columns]
    if isinstance(columns, slice):
        if isinstance(columns.start, str) or isinstance(columns.stop, str):
            first = 0 if columns.start is None else names.index(columns.start)
            last = count if columns.stop is None else names.index(columns.stop) + 1
            return list(range(first, last))
        return list(range(count))[columns]
    chosen = list(columns)
    if chosen and all(isinstance(item, (bool, np.bool_)) for item in chosen):
        return [i for i, wanted in enumerate(chosen) if wanted]
    return [names.index(item) if isinstance(item, str) else range(count)[int(item)] for item in chosen]


def _check(origin: Origin) -> None:
    """Refuse a column for which the conversion would not be equal for every input that the signature allows."""
    raw, kinds = origin.raw, [type(step).__name__ for step, _ in origin.chain]
    if raw.dtype not in _USABLE or raw.dtype is DType.UINT64:
        raise NotConvertible(f"column {raw.label!r} is {raw.dtype.value}")
    if raw.field.native == "float16" or raw.field.element is not None:
        raise NotConvertible(f"column {raw.label!r} is rounded to another type before the model gets it")
    if raw.field.nullable and not raw.dtype.is_float:
        raise NotConvertible(f"column {raw.label!r} is {raw.dtype.value} and may be missing")
    if raw.dtype is not DType.STRING:
        if "OrdinalEncoder" in kinds:
            raise NotConvertible(f"column {raw.label!r} is encoded as a category and is not text")
        if raw.field.categorical:
            raise NotConvertible(f"column {raw.label!r} is a category of numbers")
        return
    if "OrdinalEncoder" not in kinds:
        raise NotConvertible(f"column {raw.label!r} is text that is not encoded")
    if kinds[0] != "OrdinalEncoder":
        raise NotConvertible(f"column {raw.label!r} is changed before it is encoded")
    encoder, column = origin.chain[0]
    closed = raw.field.categorical and set(raw.field.categories or ()) <= set(encoder.categories_[column])
    if encoder.handle_unknown != "use_encoded_value" and not closed:
        raise NotConvertible(f"the encoder refuses unknown words in column {raw.label!r}, which a graph cannot do")
