"""Whether joining pays is learned from run times."""

from __future__ import annotations

import random

import pytest

from roadworthy.runtime.gain import Gain


def limits(base_s: float, per_row_s: float, fixed: int | None = None, most: int = 1_024) -> list[int]:
    """The limits before each of 300 runs of a model that costs base + per_row a row, with a fifth of noise."""
    drawn = random.Random(1)
    gain = Gain(fixed, most)
    asked = []
    for _ in range(300):
        asked.append(gain.limit())
        rows = min(drawn.randint(1, 8), asked[-1])
        gain.ran(rows, (base_s + per_row_s * rows) * drawn.uniform(0.9, 1.1))
    return asked


def test_a_model_that_goes_row_by_row_is_left_alone() -> None:
    """It gets one request at a time, but now and then two, to see whether that is still so."""
    asked = limits(0.0, 0.001)
    assert set(asked[:30]) == {1_024}
    later = asked[100:]
    assert later.count(1) > 0.9 * len(later)
    assert 1_024 in later


@pytest.mark.parametrize(("base_s", "per_row_s"), [(0.001, 0.0), (0.001, 0.00002), (0.0005, 0.002)])
def test_a_model_with_a_cost_for_each_run_is_joined(base_s: float, per_row_s: float) -> None:
    """What is saved for each joined request is worth it."""
    assert set(limits(base_s, per_row_s)) == {1_024}


def test_a_persons_limit_holds() -> None:
    """It is not learned away."""
    assert set(limits(0.001, 0.0, fixed=7)) == {7}


def test_equal_runs_teach_nothing() -> None:
    """Without runs of several sizes the first assumption stays."""
    gain = Gain(None, 64)
    for _ in range(200):
        gain.ran(1, 0.001)
    assert gain.limit() == 64
