"""Makes rows on which a conversion must equal its original.

Called by `exams.py`. Perturbed rows move values a little and a lot, shuffle columns against each other, and remove values that
may be missing. Ordinary rows hold numbers as people type them: whole numbers, halves and tenths, inside and outside the training
range. Extreme rows hold one huge or tiny value each, missing rows one missing value. Threshold rows show silent changes of
answers: in every column they hold a value exactly at one of the model's thresholds in raw input space, or one float below or
above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from roadworthy.optimize.exact.columns import RawColumn, highest_key, keys_of, lowest_key, values_of, with_values
from roadworthy.schema.batch import Array, Batch, Block
from roadworthy.schema.dtypes import DType

MAX_TRAINING = 20_000
MAX_PERTURBED = 2_000
MAX_THRESHOLD = 30_000
MAX_ORDINARY = 4_000
MAX_EXTREME = 56
MAX_MISSING = 400
_STEPS = (-1, 0, 1)
_FLOAT64_MAX = float(np.finfo(np.float64).max)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_JITTER = 0.05


def spread(batch: Batch, most: int) -> Batch:
    """All rows, or `most` evenly spread ones."""
    if batch.rows <= most:
        return batch
    return batch.take(np.linspace(0, batch.rows - 1, most).astype(np.intp))


def perturbed(training: Batch, seed: int = 0) -> Batch:
    """Rows near the training rows, and rows that mix them: as many as there are training rows, at most MAX_PERTURBED."""
    generator = np.random.default_rng(seed)
    count = min(MAX_PERTURBED, max(training.rows, 100))
    picked = training.take(generator.integers(0, training.rows, count))
    columns: list[tuple[Array, Array | None]] = []
    for position, field in enumerate(training.layout.fields):
        values, mask = picked.column_at(position)
        every, _ = training.column_at(position)
        if field.dtype.is_float:
            values = _jittered(values, every, generator)
        else:
            mixed = every[generator.integers(0, training.rows, count)]
            keep = generator.random(count) < 0.5
            values = np.where(keep.reshape(-1, *[1] * (values.ndim - 1)), values, mixed)
        if field.nullable and not field.shape:
            blank = generator.random(count) < _JITTER
            mask = blank if mask is None else mask | blank
        columns.append((values, mask))
    return Batch.from_columns(training.layout, columns, count)


def with_unseen_words(training: Batch) -> Batch | None:
    """Some training rows with unseen text in columns whose signature allows it; None when no column does."""
    columns: list[tuple[Array, Array | None]] = []
    some = spread(training, 50)
    for position, field in enumerate(training.layout.fields):
        values, mask = some.column_at(position)
        if field.dtype is DType.STRING and not field.categorical:
            values = values.copy()
            values[::2] = "never seen in training"
            mask = None
        columns.append((values, mask))
    if not any(field.dtype is DType.STRING and not field.categorical for field in training.layout.fields):
        return None
    return Batch.from_columns(training.layout, columns, some.rows)


def _jittered(values: Array, every: Array, generator: np.random.Generator) -> Array:
    """Move a third of the values by a share of the column's spread, a third to the neighbouring float, and leave a third."""
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.nan_to_num(every.astype(np.float64).std(axis=0), posinf=1.0)
        moved = (values + generator.normal(0.0, _JITTER, values.shape) * scale).astype(values.dtype)
    beside = np.nextafter(values, np.where(generator.random(values.shape) < 0.5, np.inf, -np.inf).astype(values.dtype))
    kind = generator.integers(0, 3, values.shape)
    chosen = np.select([kind == 0, kind == 1], [moved, beside], values)
    return np.where(np.isfinite(chosen), chosen, values)


def at_thresholds(training: Batch, edges: dict[RawColumn, Array], seed: int = 0) -> Batch | None:
    """Rows in which every column of `edges` is at a threshold or one float next to it; None when there are no thresholds.

    Each threshold of each column occurs with both neighbours, if they fit into MAX_THRESHOLD rows; their combination in rows is
    random. Other columns come from training rows.
    """
    generator = np.random.default_rng(seed)
    candidates = {raw: _beside(raw, limits) for raw, limits in edges.items() if len(limits)}
    if not candidates:
        return None
    longest = max(len(values) for values in candidates.values())
    count = min(MAX_THRESHOLD, max(longest, min(2_000, 10 * longest)))
    template = training.take(generator.integers(0, training.rows, count))
    chosen = {raw: _spread_over(values, count, generator) for raw, values in candidates.items()}
    return with_values(template, chosen)


def _beside(raw: RawColumn, limits: Array) -> Array:
    """Each threshold and its neighbours, distinct, in the column's dtype."""
    keys = keys_of(limits, raw.dtype)
    near = np.unique(np.concatenate([keys + step for step in _STEPS]))
    near = near[(near >= lowest_key(raw.dtype)) & (near <= highest_key(raw.dtype))]
    return values_of(near, raw.dtype)


def _spread_over(values: Array, count: int, generator: np.random.Generator) -> Array:
    """`count` values in random order, each equally often; a part of the values when there are more than `count`."""
    if len(values) > count:
        return generator.permutation(values)[:count]
    return np.asarray(generator.permutation(np.resize(values, count)))


def ordinary(training: Batch, raws: Sequence[RawColumn], seed: int = 0) -> Batch | None:
    """Rows of whole numbers, halves and tenths in and around the range of each column; None when no column holds numbers."""
    generator = np.random.default_rng(seed)
    candidates = {raw: _ordinary_values(raw, _present(training, raw)) for raw in raws}
    if not candidates:
        return None
    count = min(MAX_ORDINARY, max(500, *(len(values) for values in candidates.values())))
    template = training.take(generator.integers(0, training.rows, count))
    chosen = {raw: _spread_over(values, count, generator) for raw, values in candidates.items()}
    return with_values(template, chosen)


def _present(training: Batch, raw: RawColumn) -> Array:
    """The column's values without missing ones, float64."""
    block = training.blocks[raw.block]
    values = block.values[:, raw.column]
    return np.asarray(values if block.mask is None else values[~block.mask[:, raw.column]], dtype=np.float64)


def _ordinary_values(raw: RawColumn, present: Array) -> Array:
    """At most 1,200 values of the column's dtype, from one training range below to one above the training values."""
    low, high = (present.min(), present.max()) if len(present) else (0.0, 1.0)
    width = max(high - low, 1.0)
    parts = []
    for step in (1.0, 0.5, 0.1) if raw.dtype.is_float else (1.0,):
        first, last = np.floor((low - width) / step), np.ceil((high + width) / step)
        count = int(min(last - first + 1, 400))
        whole = np.round(np.linspace(first, last, count))
        parts.append(whole / 10 if step == 0.1 else whole * step)  # 3 / 10 is the float 0.3; 3 * 0.1 is not
    values = np.unique(np.concatenate([*parts, [0.0]]))
    if raw.dtype.is_float:
        return np.asarray(values.astype(raw.dtype.numpy))
    bounds = (0, 1) if raw.dtype is DType.BOOL else (lowest_key(raw.dtype), highest_key(raw.dtype))
    values = values[(values >= max(bounds[0], -(2.0**53))) & (values <= min(bounds[1], 2.0**53))]
    return np.asarray(values.astype(raw.dtype.numpy))


def extremes(training: Batch, raws: Sequence[RawColumn], seed: int = 0) -> Batch | None:
    """Training rows with one value each that is huge, tiny, or at an end of the float32 range; None without floats."""
    floats = [raw for raw in raws if raw.dtype.is_float]
    if not floats:
        return None
    generator = np.random.default_rng(seed)
    magnitudes = [
        _FLOAT64_MAX,
        1e39,
        _FLOAT32_MAX,
        float(np.nextafter(_FLOAT32_MAX, np.inf)),
        1e300,
        1e15,
        1e-45,
        1e-310,
    ]
    pairs = [(raw, sign * size) for size in magnitudes for sign in (1.0, -1.0) for raw in floats]
    if len(pairs) > MAX_EXTREME:
        pairs = [pairs[i] for i in sorted(generator.choice(len(pairs), MAX_EXTREME, replace=False))]
    rows = []
    for number, (raw, value) in enumerate(pairs):
        largest = float(values_of(np.array([highest_key(raw.dtype)]), raw.dtype)[0])
        fitting = np.array([np.clip(value, -largest, largest)]).astype(raw.dtype.numpy)
        rows.append(with_values(training.slice(number % training.rows, number % training.rows + 1), {raw: fitting}))
    return Batch.concatenate(rows)


def with_missing(training: Batch) -> Batch | None:
    """Training rows with one missing value each, tensor elements included; None when no value may be missing."""
    places = []
    for position, field in enumerate(training.layout.fields):
        if field.nullable and len(field.shape) <= 1:
            block, column = training.layout.places[position]
            width = training.blocks[block].values.shape[1] if field.shape else 1
            places += [(block, column + element) for element in range(width)]
    if not places:
        return None
    count = min(max(1, MAX_MISSING // len(places)), 4, training.rows) * min(len(places), MAX_MISSING)
    rows = training.take(np.arange(count) % training.rows)
    blocks = list(rows.blocks)
    for number in dict.fromkeys(block for block, _ in places):
        values, mask = blocks[number].values, blocks[number].mask
        mask = np.zeros(values.shape, dtype=bool) if mask is None else mask.copy()
        for row in range(count):
            block, column = places[row % len(places)]
            if block == number:
                mask[row, column] = True
        blocks[number] = Block(values, mask)
    return Batch(rows.layout, count, tuple(blocks))


def chunks(batch: Batch, size: int = 5_000) -> Iterator[Batch]:
    """The rows in chunks of at most `size`, so that wide answers need little memory."""
    for start in range(0, batch.rows, size):
        yield batch.slice(start, min(start + size, batch.rows))
