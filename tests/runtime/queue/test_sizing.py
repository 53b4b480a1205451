"""The cost of a run is learned from run times: whether joining pays off, and how long waiting requests will wait."""

from __future__ import annotations

import random

import pytest

from roadworthy.runtime.queue.sizing import FIRST_ROWS, BatchSizer


def learned(base_s: float, per_row_s: float, fixed: int | None = None, most: int = 1_024) -> tuple[BatchSizer, list[int]]:
    """After 300 runs of a model that costs base + per_row a row, with a fifth of noise; and the limits before each."""
    drawn = random.Random(1)
    sizer = BatchSizer(fixed, most)
    asked = []
    for _ in range(300):
        asked.append(sizer.limit())
        rows = min(drawn.randint(1, 40), asked[-1])
        sizer.ran(rows, (base_s + per_row_s * rows) * drawn.uniform(0.9, 1.1))
    return sizer, asked


def test_a_model_that_goes_row_by_row_is_left_alone() -> None:
    """It soon gets one request at a time, and now and then several, to check whether that still holds."""
    _, asked = learned(0.0, 0.001)
    assert asked[0] == FIRST_ROWS
    later = asked[50:]
    assert later.count(1) > 0.9 * len(later)
    assert max(later) > 1


@pytest.mark.parametrize(("base_s", "per_row_s"), [(0.001, 0.0), (0.001, 0.00002), (0.0005, 0.002)])
def test_a_model_with_a_cost_for_each_run_is_joined(base_s: float, per_row_s: float) -> None:
    """Each joined request saves that cost; runs grow as far as they are filled."""
    _, asked = learned(base_s, per_row_s)
    assert min(asked) == FIRST_ROWS
    assert asked[-1] > FIRST_ROWS


def test_runs_grow_to_the_bound_and_no_further() -> None:
    """Each run that is half full doubles the limit."""
    sizer = BatchSizer(None, 100)
    limits = []
    for _ in range(6):
        limits.append(sizer.limit())
        sizer.ran(limits[-1], 0.001)
    assert limits == [64, 100, 100, 100, 100, 100]


def test_a_persons_limit_holds() -> None:
    """Learning does not change it."""
    assert set(learned(0.001, 0.0, fixed=7)[1]) == {7}


def test_equal_runs_teach_nothing_about_joining() -> None:
    """Without runs of different sizes the initial assumption stays."""
    sizer = BatchSizer(None, 64)
    for _ in range(200):
        sizer.ran(1, 0.001)
    assert sizer.limit() == FIRST_ROWS
    assert sizer.seconds(1) == pytest.approx(0.001)


def test_how_long_rows_will_take() -> None:
    """By the learned costs, in runs of the current limit."""
    sizer, _ = learned(0.0, 0.005)
    assert sizer.seconds(100) == pytest.approx(0.5, rel=0.2)
    joined, asked = learned(0.010, 0.0001)
    assert joined.seconds(1) == pytest.approx(0.0101, rel=0.2)
    assert joined.seconds(10 * asked[-1]) == pytest.approx(10 * (0.010 + 0.0001 * asked[-1]), rel=0.3)


def test_nothing_is_known_before_the_first_run() -> None:
    """Then no request is refused."""
    sizer = BatchSizer(None, 1_024)
    assert sizer.seconds(10_000) == 0
    assert sizer.rows_within(0.001) == 1_024


def test_how_many_rows_are_over_in_time() -> None:
    """At least one row: some request has to be first."""
    sizer, _ = learned(0.0, 0.005)
    assert sizer.rows_within(0.5) == pytest.approx(100, rel=0.2)
    assert sizer.rows_within(0.0) == 1
