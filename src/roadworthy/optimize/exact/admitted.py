"""Which raw values the original takes, found from the original itself: the graph in its place would answer any.

An estimator that casts to float32 refuses what float32 cannot hold, and a scaler may turn a huge value into an infinity that the
next step refuses. Preprocessing that never decreases makes the accepted values of a column one interval; its ends are found by
bisection over the floats themselves, with the pipeline's own transformers, and then asked of the original. Called by the exact
candidates; `frameworks/guards.py` enforces what is found.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible, Source
from roadworthy.optimize.exact.columns import RawColumn, highest_key, keys_of, lowest_key, values_of, with_values
from roadworthy.optimize.exact.pipeline import Parts
from roadworthy.schema.batch import Array, Batch

_MOST_ASKED = 40
_LONGEST_REASON = 200


def guards(
    source: Source, parts: Parts, cast: type[np.floating[Any]], *, takes_infinite: bool = False
) -> dict[str, Any]:
    """The options "guards" and "refusal" of `frameworks/guards.py`; empty when the original takes every finite value.

    Args:
        source: the original. parts: its pieces. cast: what its estimator casts columns to before it checks them.
        takes_infinite: the estimator takes infinities, so that only a step between could refuse one.

    Raises:
        NotConvertible: the original refuses other values than its arithmetic explains.
    """
    raws = tuple(dict.fromkeys(o.raw for o in parts.origins if o.raw.dtype.is_float))
    if not raws:
        return {}
    template = source.training.slice(0, 1)
    low, high = _asked_limits(source, template, raws) if takes_infinite else _limits(parts, cast, template, raws)
    open_low = {raw for raw in raws if low[raw] == lowest_key(raw.dtype)}
    open_high = {raw for raw in raws if high[raw] == highest_key(raw.dtype)}
    closed = [raw for raw in raws if raw not in open_low or raw not in open_high]
    if not closed:
        return {}
    beyond = [(raw, high[raw] + 1) for raw in closed if raw not in open_high]
    beyond += [(raw, low[raw] - 1) for raw in closed if raw not in open_low]
    reason = _ask(source, template, [(raw, ends[raw]) for raw in closed for ends in (low, high)], beyond)
    found = [
        {"block": raw.block, "column": raw.column, "low": _text(low[raw], raw), "high": _text(high[raw], raw)}
        for raw in closed
    ]
    return {"guards": found, "refusal": reason}


def _text(key: int, raw: RawColumn) -> str:
    return repr(float(values_of(np.array([key]), raw.dtype)[0]))


def _limits(
    parts: Parts, cast: type[np.floating[Any]], template: Batch, raws: tuple[RawColumn, ...]
) -> tuple[dict[RawColumn, int], dict[RawColumn, int]]:
    """Keys of the smallest and the largest value of each column that reaches the estimator as a finite number."""
    middle = {raw: int(keys_of(_one(template, raw), raw.dtype)[0]) for raw in raws}
    outer = {raw: np.array([lowest_key(raw.dtype), highest_key(raw.dtype)]) for raw in raws}
    inner = {raw: np.array([middle[raw], middle[raw]]) for raw in raws}
    finite = _finite(parts, cast, template, outer)
    if all(both.all() for both in finite.values()):
        inner = outer
    else:
        inner = {raw: np.where(finite[raw], outer[raw], inner[raw]) for raw in raws}
        for _ in range(64):
            between = {raw: (inner[raw] & outer[raw]) + ((inner[raw] ^ outer[raw]) >> 1) for raw in raws}
            finite = _finite(parts, cast, template, between)
            outer = {raw: np.where(finite[raw], outer[raw], between[raw]) for raw in raws}
            inner = {raw: np.where(finite[raw], between[raw], inner[raw]) for raw in raws}
    return {raw: int(inner[raw][0]) for raw in raws}, {raw: int(inner[raw][1]) for raw in raws}


def _asked_limits(
    source: Source, template: Batch, raws: tuple[RawColumn, ...]
) -> tuple[dict[RawColumn, int], dict[RawColumn, int]]:
    """As `_limits`, by asking the original: one call where it takes every value, as it nearly always does."""
    low = {raw: lowest_key(raw.dtype) for raw in raws}
    high = {raw: highest_key(raw.dtype) for raw in raws}
    ends = [(raw, limits[raw]) for raw in raws for limits in (low, high)]
    if _refusal(source, Batch.concatenate([_with(template, raw, key) for raw, key in ends])) is None:
        return low, high
    for raw in raws:
        middle = int(keys_of(_one(template, raw), raw.dtype)[0])
        for limits in (low, high):
            inner, outer = middle, limits[raw]
            if _refusal(source, _with(template, raw, outer)) is None:
                continue
            while abs(outer - inner) > 1:
                between = (inner + outer) // 2
                if _refusal(source, _with(template, raw, between)) is None:
                    inner = between
                else:
                    outer = between
            limits[raw] = inner
    return low, high


def _one(template: Batch, raw: RawColumn) -> Array:
    values: Array = template.blocks[raw.block].values[:1, raw.column]
    return values


def _finite(
    parts: Parts, cast: type[np.floating[Any]], template: Batch, keys: dict[RawColumn, Array]
) -> dict[RawColumn, Array]:
    """bool (2,) for each raw column: whether the value with the first and with the second key arrives as a finite number."""
    rows = template.take(np.zeros(2, dtype=np.intp))
    with np.errstate(over="ignore", invalid="ignore"):
        seen = parts.transform(with_values(rows, {raw: values_of(both, raw.dtype) for raw, both in keys.items()}), cast)
    arrived = np.isfinite(seen)
    found: dict[RawColumn, Array] = {}
    for raw in keys:
        columns = [c for c, origin in enumerate(parts.origins) if origin.raw == raw]
        found[raw] = np.asarray(arrived[:, columns].all(axis=1))
    return found


def _ask(
    source: Source, template: Batch, accepted: list[tuple[RawColumn, int]], refused: list[tuple[RawColumn, int]]
) -> str:
    """Ask the original at the ends of the intervals and beside them; returns what it says about a value outside."""
    inside = Batch.concatenate([_with(template, raw, key) for raw, key in accepted])
    if _refusal(source, inside) is not None:
        raise NotConvertible("the original refuses values that its arithmetic allows")
    reason = ""
    for raw, key in refused[:: max(1, len(refused) // _MOST_ASKED)]:
        said = _refusal(source, _with(template, raw, key))
        if said is None:
            raise NotConvertible(f"the original takes values of column {raw.label!r} that its arithmetic cannot")
        reason = reason or said
    return reason


def _with(template: Batch, raw: RawColumn, key: int) -> Batch:
    return with_values(template, {raw: values_of(np.array([key]), raw.dtype)})


def _refusal(source: Source, rows: Batch) -> str | None:
    """What the original says when it refuses rows, in one line; None when it answers them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source.reference(rows)
    except Exception as error:  # noqa: BLE001  the original may refuse in any way it likes
        return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
    return None
