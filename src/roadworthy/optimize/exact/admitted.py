"""Finds the raw values that the original accepts, since the converted graph alone would answer any value.

An estimator that casts to float32 refuses values outside its range, and a scaler may make an infinity of a huge value that the
next step refuses. With monotonic preprocessing, the accepted values of a column form one interval. Bisection over the floats,
with the pipeline's own transformers, finds its ends, and the original confirms them. Called by the exact candidates;
`frameworks/guards.py` enforces the limits.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible, Source
from roadworthy.optimize.exact.columns import (
    RawColumn,
    highest_key,
    keys_of,
    lowest_key,
    raw_columns,
    values_of,
    with_values,
)
from roadworthy.optimize.exact.pipeline import Parts
from roadworthy.schema.batch import Array, Batch, Block

_MOST_ASKED = 40
_LONGEST_REASON = 200


def guards(source: Source, parts: Parts, cast: type[np.floating[Any]], *, takes_infinite: bool = False) -> dict[str, Any]:
    """The options "guards" and "refusal" of `frameworks/guards.py`; empty when the original accepts every finite value.

    Args:
        source: the original. parts: its pieces. cast: the type to which its estimator casts columns before it checks them.
        takes_infinite: the estimator accepts infinities, so only an earlier step can refuse one.

    Raises:
        NotConvertible: the original refuses missing values that the signature allows, or other values than the limits predict.
    """
    template = source.training.slice(0, 1)
    every = raw_columns(source.signature)
    _refuse_missing(source, template, every)
    raws = tuple(raw for raw in every if raw.dtype.is_float)
    if not raws:
        return {}
    low = {raw: lowest_key(raw.dtype) for raw in raws}
    high = {raw: highest_key(raw.dtype) for raw in raws}
    if not takes_infinite:
        _bound_by_arithmetic(parts, cast, template, (low, high))
    _bound_by_asking(source, template, (low, high))
    beyond = [(raw, high[raw] + 1) for raw in raws if high[raw] != highest_key(raw.dtype)]
    beyond += [(raw, low[raw] - 1) for raw in raws if low[raw] != lowest_key(raw.dtype)]
    closed = tuple(dict.fromkeys(raw for raw, _ in beyond))
    if not closed:
        return {}
    found = [
        {"block": raw.block, "column": raw.column, "low": _text(low[raw], raw), "high": _text(high[raw], raw)} for raw in closed
    ]
    return {"guards": found, "refusal": _reason(source, template, beyond)}


def _refuse_missing(source: Source, template: Batch, raws: tuple[RawColumn, ...]) -> None:
    """Refuse to convert when a step refuses a missing value that the estimator accepts or a later imputer would fill."""
    nullable = [raw for raw in raws if raw.field.nullable]
    if nullable and _refusal(source, Batch.concatenate([_without(template, raw) for raw in nullable])) is not None:
        raise NotConvertible("a column may have missing values, and the original refuses them")


def _without(template: Batch, raw: RawColumn) -> Batch:
    """`template` with the value of one column missing."""
    blocks = list(template.blocks)
    block = blocks[raw.block]
    mask = np.zeros(block.values.shape, dtype=bool) if block.mask is None else block.mask.copy()
    mask[:, raw.column] = True
    blocks[raw.block] = Block(block.values, mask)
    return Batch(template.layout, template.rows, tuple(blocks))


def _text(key: int, raw: RawColumn) -> str:
    return repr(float(values_of(np.array([key]), raw.dtype)[0]))


Ends = tuple[dict[RawColumn, int], dict[RawColumn, int]]
"""Keys of the smallest and the largest accepted value of each column."""


def _bound_by_arithmetic(parts: Parts, cast: type[np.floating[Any]], template: Batch, ends: Ends) -> None:
    """Narrow `ends` to the values that reach the estimator as finite numbers, for all columns at once."""
    columns: dict[RawColumn, list[int]] = {}
    for column, origin in enumerate(parts.origins):
        if origin.raw.dtype.is_float:
            columns.setdefault(origin.raw, []).append(column)
    if not columns:
        return
    raws = tuple(columns)
    middle = {raw: int(keys_of(_one(template, raw), raw.dtype)[0]) for raw in raws}
    outer = {raw: np.array([ends[0][raw], ends[1][raw]]) for raw in raws}
    inner = {raw: np.array([middle[raw], middle[raw]]) for raw in raws}
    finite = _finite(parts, cast, template, columns, outer)
    if all(both.all() for both in finite.values()):
        return
    inner = {raw: np.where(finite[raw], outer[raw], inner[raw]) for raw in raws}
    for _ in range(64):
        between = {raw: (inner[raw] & outer[raw]) + ((inner[raw] ^ outer[raw]) >> 1) for raw in raws}
        finite = _finite(parts, cast, template, columns, between)
        outer = {raw: np.where(finite[raw], outer[raw], between[raw]) for raw in raws}
        inner = {raw: np.where(finite[raw], between[raw], inner[raw]) for raw in raws}
    for raw in raws:
        ends[0][raw], ends[1][raw] = int(inner[raw][0]), int(inner[raw][1])


def _bound_by_asking(source: Source, template: Batch, ends: Ends) -> None:
    """Narrow `ends` to the values that the original itself accepts. If the arithmetic was right, this takes one call.

    They may differ: a clip makes an overflowed value finite again, and a selection drops a column that an earlier step checked.
    """
    asked = [(raw, side) for side in (0, 1) for raw in ends[side]]
    if _refusal(source, Batch.concatenate([_with(template, raw, ends[side][raw]) for raw, side in asked])) is None:
        return
    wrong = [(raw, side) for raw, side in asked if _refusal(source, _with(template, raw, ends[side][raw])) is not None]
    if not wrong or len(wrong) > _MOST_ASKED:
        raise NotConvertible("the original refuses values for an unknown reason")
    for raw, side in wrong:
        inner, outer = int(keys_of(_one(template, raw), raw.dtype)[0]), ends[side][raw]
        while abs(outer - inner) > 1:
            between = (inner + outer) // 2
            if _refusal(source, _with(template, raw, between)) is None:
                inner = between
            else:
                outer = between
        ends[side][raw] = inner


def _one(template: Batch, raw: RawColumn) -> Array:
    values: Array = template.blocks[raw.block].values[:1, raw.column]
    return values


def _finite(
    parts: Parts,
    cast: type[np.floating[Any]],
    template: Batch,
    columns: dict[RawColumn, list[int]],
    keys: dict[RawColumn, Array],
) -> dict[RawColumn, Array]:
    """For each raw column, bool (2,): whether the values of the first and second key reach the estimator as finite numbers."""
    rows = template.take(np.zeros(2, dtype=np.intp))
    with np.errstate(over="ignore", invalid="ignore"):
        seen = parts.transform(with_values(rows, {raw: values_of(both, raw.dtype) for raw, both in keys.items()}), cast)
    arrived = np.isfinite(seen)
    return {raw: np.asarray(arrived[:, places].all(axis=1)) for raw, places in columns.items()}


def _reason(source: Source, template: Batch, refused: list[tuple[RawColumn, int]]) -> str:
    """The original's error for values outside the limits. It must refuse all the values that are tried."""
    reason = ""
    for raw, key in refused[:: max(1, len(refused) // _MOST_ASKED)]:
        said = _refusal(source, _with(template, raw, key))
        if said is None:
            raise NotConvertible(f"the original accepts values of column {raw.label!r} that its arithmetic should refuse")
        reason = reason or said
    return reason


def _with(template: Batch, raw: RawColumn, key: int) -> Batch:
    return with_values(template, {raw: values_of(np.array([key]), raw.dtype)})


def _refusal(source: Source, rows: Batch) -> str | None:
    """The original's error for rows, in one line; None when it answers them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source.reference(rows)
    except Exception as error:  # noqa: BLE001  the original may refuse with any exception
        return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
    return None
