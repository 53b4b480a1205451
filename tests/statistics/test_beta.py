"""Logarithms of the Beta distribution compared with scipy where it is accurate, and otherwise with exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc, betaln

from roadworthy.statistics.beta import log_beta, log_beta_cdf, root

SHAPES = (0.5, 1.0, 1.5, 3.0, 9.5, 10.0, 30.0, 250.0, 4_000.0, 1e5, 1e7)
PLACES = (1e-6, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.95, 0.999)


def exact_log_sf(x: Fraction, a: int, b: int) -> float:
    """ln P(Beta(a, b) > x) as the tail of a binomial, in integers."""
    n = a + b - 1
    p, q = x.numerator, x.denominator - x.numerator
    total, whole = sum(math.comb(n, j) * p**j * q ** (n - j) for j in range(a)), x.denominator**n
    if 2 * total > whole:
        return math.log1p(-float(Fraction(whole - total, whole)))
    return math.log(total) - math.log(whole)


@pytest.mark.parametrize("a", SHAPES)
def test_the_normaliser_equals_scipys(a: float) -> None:
    """To scipy's accuracy, which for (30, 10^7) is nine digits."""
    for b in SHAPES:
        assert log_beta(a, b) == pytest.approx(float(betaln(a, b)), rel=1e-9)
        assert log_beta(a, b) == log_beta(b, a)


def test_the_normaliser_equals_that_of_factorials() -> None:
    """To the last digits, also where scipy loses some."""
    for a in (1, 5, 9, 10, 30, 200):
        for b in (1, 9, 10, 250, 4_000, 100_000):
            exact = math.log(math.factorial(a - 1)) - math.fsum(math.log(i) for i in range(b, b + a))
            assert log_beta(float(a), float(b)) == pytest.approx(exact, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("a", SHAPES)
def test_both_tails_are_those_of_scipy_where_it_has_digits(a: float) -> None:
    """Compared where neither tail is close to underflow or to 1."""
    compared = 0
    for b in SHAPES:
        for x in PLACES:
            p = float(betainc(a, b, x))
            if 1e-250 < p < 1 - 1e-6:
                assert log_beta_cdf(x, a, b) == pytest.approx(math.log(p), rel=1e-7), (a, b, x)
                assert log_beta_cdf(1.0 - x, b, a) == pytest.approx(math.log1p(-p), rel=1e-6), (a, b, x)
                compared += 1
    assert compared > 0


@pytest.mark.parametrize("x", [Fraction(1, 1_000), Fraction(1, 20), Fraction(1, 4), Fraction(1, 2), Fraction(99, 100)])
def test_far_tails_are_those_of_exact_fractions(x: Fraction) -> None:
    """Also where the tail is e^-1000 and scipy returns 0."""
    smallest = 0.0
    for a in (1, 2, 7, 40, 150):
        for b in (1, 3, 20, 400):
            exact = exact_log_sf(x, a, b)
            smallest = min(smallest, exact)
            assert log_beta_cdf(float(1 - x), b, a) == pytest.approx(exact, rel=1e-11), (a, b)
    assert smallest < (-1_000 if x > Fraction(9, 10) else -0.1)


@settings(deadline=None)
@given(st.floats(0.001, 0.999), st.integers(1, 3_000), st.integers(1, 3_000))
def test_the_tails_add_up_to_one(x: float, a: int, b: int) -> None:
    """Whichever is computed from the other."""
    assert np.logaddexp(log_beta_cdf(x, a, b), log_beta_cdf(1.0 - x, b, a)) == pytest.approx(0.0, abs=1e-9)


def test_the_ends_are_exact() -> None:
    """There is no probability below 0 or above 1."""
    assert (log_beta_cdf(0.0, 2, 3), log_beta_cdf(1.0, 2, 3)) == (-math.inf, 0.0)


def test_roots_outside_are_the_nearer_end() -> None:
    """And inside to the last digit."""
    assert root(lambda x: x * x - 2, 0, 2) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert root(lambda x: x + 1, 0, 2) == 0
    assert root(lambda x: x - 3, 0, 2) == 2
