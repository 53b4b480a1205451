"""The benchmark of neighbours weights a loop's lag by its duration, and misses its targets when it should."""

from __future__ import annotations

import numpy as np

from bench.load.heavy import LEGAL, LIMIT_BYTES, heavies
from bench.neighbours import _LAG, Seen, figures, lag_ms


def seen(late_s: list[float], times_ms: list[float], counts: dict[str, int] | None = None) -> Seen:
    """A round with these lags of the loop and these latencies of callers."""
    lags = np.array([(number, late, 0.0, 0.0) for number, late in enumerate(late_s)], dtype=_LAG)
    return Seen(np.array(times_ms), 0, lags, counts or {})


def test_a_long_stall_is_weighted_by_its_duration() -> None:
    """A second without answers is not just one sample in a thousand."""
    stalled = seen([0.0001] * 4_000 + [1.0], [1.0])
    assert lag_ms(stalled.lags, 0.999) == 1_000
    assert lag_ms(seen([0.0001] * 4_000, [1.0]).lags, 0.999) < 1


def test_targets_are_missed_when_they_should_be() -> None:
    """Late answers, a late loop, a request without an answer, a refused valid body."""
    fine = figures("JSON", seen([0.001] * 99, [5.0] * 99, {"JSON: largest legal 200": 3}), {"JSON: largest legal"})
    assert all(measure.met is not False for measure in fine)
    bad = seen([0.1] * 99, [5.0] * 90 + [500.0] * 9, {"JSON: largest legal 413": 1, "JSON: nulls 500": 1})
    assert not any(measure.met for measure in figures("JSON", bad, {"JSON: largest legal"}))
    assert sum(measure.met is False for measure in figures("JSON", bad, {"JSON: largest legal"})) == 4
    assert not all(measure.met for measure in figures("JSON", seen([], []), set()))


def test_every_codec_has_its_largest_legal_body() -> None:
    """All of them are within the byte limit."""
    legal = {heavy.codec: heavy for heavy in heavies() if heavy.kind == LEGAL}
    assert {heavy.codec for heavy in heavies()} == legal.keys()
    assert len(legal["JSON records"].make()) < LIMIT_BYTES
