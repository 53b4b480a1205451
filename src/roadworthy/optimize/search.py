"""Searches for jumps, places where a model's answer changes between two neighbouring floats, without knowledge of the model.

Conversions of trees, bins, clips, numeric categories and stepwise calibration go wrong at jumps. Two rows that differ in one
column and have different answers have a jump, or a slope, between them. Bisection over the floats towards the larger change ends
at two neighbours, and both become rows for the comparison. The original and each conversion are searched, since a conversion may
jump where the original does not. Called by `exams.py` and `compile.py`.

Its limits: columns of numbers, one at a time; jumps between training values or up to three training ranges outside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible
from roadworthy.optimize.exact.columns import RawColumn, keys_of, raw_columns, values_of, with_values
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

PAIRS = 400
_FAR_SHARE = 0.15
_HALVINGS = 64
_MOST_COLUMNS = 256
Run = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Jumps:
    """The result of a search.

    Attributes:
        pairs: pairs of rows with different answers, between which the search ran.
        rows: both sides of each jump, and the pairs themselves.
    """

    pairs: int
    rows: Batch


def searchable(signature: Signature) -> tuple[RawColumn, ...]:
    """The columns of numbers along which a search can run; empty when the model's input is not a table."""
    try:
        raws = raw_columns(signature)
    except NotConvertible:
        return ()
    usable = (raw for raw in raws if raw.dtype.is_numeric and raw.dtype is not DType.UINT64 and not raw.field.categorical)
    return tuple(usable)


def find_jumps(run: Run, training: Batch, raws: Sequence[RawColumn], seed: int = 0) -> Jumps | None:
    """Search between PAIRS pairs of rows made from `training`; None when no pair has different answers, or `run` refuses them.

    Args:
        run: the runtime to search.
        training: rows to start from. raws: the columns to search along. seed: of the choice of pairs.
    """
    if not raws:
        return None
    generator = np.random.default_rng(seed)
    if len(raws) > _MOST_COLUMNS:
        raws = [raws[i] for i in sorted(generator.choice(len(raws), _MOST_COLUMNS, replace=False))]
    base = training.take(generator.integers(0, training.rows, PAIRS))
    which = generator.integers(0, len(raws), PAIRS)
    ends = {raw: _far_end(raw, training, generator) for raw in raws}
    start = _keys(base, raws)
    low = start.copy()
    high = start.copy()
    for place, raw in enumerate(raws):
        mine = which == place
        high[place, mine] = ends[raw][mine]
    try:
        return _bisect(run, base, raws, low, high)
    except Exception:  # noqa: BLE001  the original may refuse mixtures of its training rows with any exception
        return None


def _far_end(raw: RawColumn, training: Batch, generator: np.random.Generator) -> Array:
    """(PAIRS,) keys of the other row's value: from another training row, or outside the training range."""
    block = training.blocks[raw.block]
    values = block.values[generator.integers(0, training.rows, PAIRS), raw.column]
    present = block.values[:, raw.column].astype(np.float64)
    low, high = float(present.min()), float(present.max())
    width = max(high - low, 1.0)
    far = generator.uniform(low - 3 * width, high + 3 * width, PAIRS)
    if not raw.dtype.is_float:
        bounds = np.iinfo(raw.dtype.value)
        far = np.clip(np.round(far), max(float(bounds.min), -(2.0**53)), min(float(bounds.max), 2.0**53))
    chosen = np.where(generator.random(PAIRS) < _FAR_SHARE, far, values.astype(np.float64))
    return keys_of(chosen.astype(raw.dtype.numpy), raw.dtype)


def _keys(base: Batch, raws: Sequence[RawColumn]) -> Array:
    """(columns, rows) keys of the rows' own values."""
    return np.stack([keys_of(base.blocks[raw.block].values[:, raw.column], raw.dtype) for raw in raws])


def _bisect(run: Run, base: Batch, raws: Sequence[RawColumn], low: Array, high: Array) -> Jumps | None:
    answers_low, answers_high = _ask(run, base, raws, low), _ask(run, base, raws, high)
    differ = changes(answers_low, answers_high) > 0
    if not differ.any():
        return None
    index = np.flatnonzero(differ)
    base, low, high = base.take(index), low[:, index], high[:, index]
    pairs = Batch.concatenate([_rows(base, raws, low), _rows(base, raws, high)])
    answers_low, answers_high = answers_low.take(index), answers_high.take(index)
    for _ in range(_HALVINGS):
        middle = (low & high) + ((low ^ high) >> 1)
        if ((middle == low) | (middle == high)).all():
            break
        answers = _ask(run, base, raws, middle)
        left = changes(answers_low, answers) >= changes(answers, answers_high)
        high, low = np.where(left, middle, high), np.where(left, low, middle)
        answers_low, answers_high = _either(left, answers_low, answers), _either(left, answers, answers_high)
    return Jumps(len(index), Batch.concatenate([pairs, _rows(base, raws, low), _rows(base, raws, high)]))


def _either(first: Array, a: Batch, b: Batch) -> Batch:
    """For each row, the answer of `a` if `first`, otherwise the answer of `b`."""
    rows = np.arange(a.rows)
    return Batch.concatenate([a, b]).take(np.where(first, rows, rows + a.rows))


def _rows(base: Batch, raws: Sequence[RawColumn], keys: Array) -> Batch:
    """The rows of `base` with the values of `keys` in the columns `raws`; unchanged missing values stay missing."""
    changed = {}
    for place, raw in enumerate(raws):
        block = base.blocks[raw.block]
        values = values_of(keys[place], raw.dtype)
        if not np.array_equal(values, block.values[:, raw.column]):
            changed[raw] = values
    made = with_values(base, changed)
    for raw in changed:
        mask, before = made.blocks[raw.block].mask, base.blocks[raw.block].mask
        if mask is not None and before is not None:
            same = made.blocks[raw.block].values[:, raw.column] == base.blocks[raw.block].values[:, raw.column]
            mask[:, raw.column] = before[:, raw.column] & same
    return made


def _ask(run: Run, base: Batch, raws: Sequence[RawColumn], keys: Array) -> Batch:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(_rows(base, raws, keys))


def changes(first: Batch, second: Batch) -> Array:
    """float64 (rows,): the difference of two answers: the distance of their numbers, plus 1 for each other value that differs."""
    total = np.zeros(first.rows)
    for position, field in enumerate(first.layout.fields):
        left, right = first.column_at(position)[0], second.column_at(position)[0]
        if field.dtype.is_float:
            with np.errstate(over="ignore", invalid="ignore"):
                apart = np.abs(left.astype(np.float64) - right.astype(np.float64))
            apart = np.nan_to_num(np.where(left == right, 0.0, apart), nan=1.0, posinf=np.finfo(np.float64).max)
        else:
            apart = np.asarray(left != right).astype(np.float64)
        with np.errstate(over="ignore"):
            total += apart.reshape(first.rows, -1).sum(axis=1)
    return total
