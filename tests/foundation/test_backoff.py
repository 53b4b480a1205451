"""Delays grow by their factor up to their cap, and jitter only ever shortens them."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.backoff import Backoff

BACKOFFS = st.builds(
    lambda initial_s, growth, factor, jitter: Backoff(initial_s, initial_s * growth, factor, jitter),
    st.floats(0.001, 100.0),
    st.floats(1.0, 1e6),
    st.floats(1.0, 10.0),
    st.floats(0.0, 1.0),
)
CHANCES = st.floats(0.0, 1.0)


def test_delays_double_up_to_the_cap() -> None:
    assert list(islice(Backoff(0.1, 0.5).delays(), 5)) == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert Backoff(5.0).delay(10) == 5.0 * 1_024
    assert Backoff(0.02, 0.5, factor=1.5).delay(1) == pytest.approx(0.03)


@given(BACKOFFS, st.integers(0, 10**6), CHANCES)
def test_a_delay_lies_between_the_rest_of_jitter_and_the_cap(backoff: Backoff, retry: int, chance: float) -> None:
    whole = backoff.delay(retry)
    assert backoff.initial_s * (1 - 1e-9) <= whole <= backoff.cap_s
    jittered = backoff.delay(retry, chance)
    assert whole * (1 - backoff.jitter) * (1 - 1e-9) <= jittered <= whole * (1 + 1e-9)


@given(BACKOFFS, CHANCES)
def test_delays_never_shrink_and_are_those_of_their_retries(backoff: Backoff, chance: float) -> None:
    delays = list(islice(backoff.delays(lambda: chance), 50))
    assert all(first <= second for first, second in pairwise(delays))
    assert delays == [backoff.delay(retry, chance) for retry in range(50)]


@given(BACKOFFS)
def test_a_new_iterator_starts_from_the_shortest_delay(backoff: Backoff) -> None:
    used = backoff.delays()
    list(islice(used, 10))
    assert next(backoff.delays()) == backoff.delay(0)


def test_a_delay_too_large_for_a_float_is_the_cap() -> None:
    assert Backoff(1.0, 60.0).delay(10_000) == 60.0
    assert math.isinf(Backoff(1.0).delay(10_000))


@given(st.floats(0.0, 1.0))
def test_half_jitter_leaves_half_to_all_of_a_delay(chance: float) -> None:
    assert Backoff(1.0, 3_600.0, jitter=0.5).delay(3, chance) == 8.0 * (0.5 + 0.5 * chance)
