"""The E-value of different answers: its definition, its guarantee by simulation, and misleading data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from roadworthy.statistics.drift import WEIGHTS, Answers, log_e_different, shifts_of, total_variation

COUNTS = st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)), min_size=2, max_size=6)
SHARES = st.sampled_from([0.0001, 0.05, 0.5, 0.95])
UNEVEN = np.array([0.55, 0.25, 0.12, 0.05, 0.03])


def answers(pairs: list[tuple[int, int]], share: float) -> Answers:
    """Answers from (stable, canary) of each class."""
    return Answers(tuple(one for one, _ in pairs), tuple(other for _, other in pairs), share)


def likelihood(q: float, prior: Any, canary: int, stable: int) -> float:
    """The likelihood of a class's answers, each the canary's with probability q, weighted by q's prior density."""
    return float(prior.pdf(q) * q**canary * (1 - q) ** stable)


@pytest.mark.parametrize(("pairs", "share"), [([(3, 4), (9, 0)], 0.5), ([(20, 1), (5, 3), (0, 0)], 0.1), ([(7, 2)], 0.25)])
def test_it_is_the_ratio_of_its_definition(pairs: list[tuple[int, int]], share: float) -> None:
    """Each class's mixture by quadrature, over the best single coin; the mean over the weights of the prior."""
    k, s = sum(other for _, other in pairs), sum(one for one, _ in pairs)
    best = (k / (k + s)) ** k * (s / (k + s)) ** s
    ratios = []
    for weight in WEIGHTS:
        prior = beta(weight * share, weight * (1 - share))
        mixture = 1.0
        for stable, canary in pairs:
            middle = prior.mean()
            mixture *= quad(likelihood, 0, 1, args=(prior, canary, stable), points=[middle])[0]
        ratios.append(mixture / best)
    assert log_e_different([answers(pairs, share)]) == pytest.approx(math.log(sum(ratios) / len(ratios)), abs=1e-6)


def test_known_figures() -> None:
    """No answers give no evidence, a class of only one version much; equal proportions are evidence against a difference."""
    assert log_e_different([]) == log_e_different([answers([(0, 0), (0, 0)], 0.1)]) == pytest.approx(0.0)
    assert log_e_different([answers([(900, 0), (0, 100)], 0.1)]) > 250
    assert log_e_different([answers([(4_500, 500), (4_500, 500)], 0.1)]) < -2


@given(COUNTS, SHARES)
def test_classes_have_no_order_and_segments_multiply(pairs: list[tuple[int, int]], share: float) -> None:
    """A class without answers has no effect."""
    here = log_e_different([answers(pairs, share)])
    assert log_e_different([answers(pairs[::-1], share)]) == pytest.approx(here, abs=1e-6)
    assert log_e_different([answers([*pairs, (0, 0)], share)]) == pytest.approx(here, abs=1e-6)
    assert log_e_different([answers(pairs, share), answers(pairs, share)]) == pytest.approx(2 * here, abs=1e-6)


@given(COUNTS, SHARES)
def test_the_difference_is_a_part_of_the_answers(pairs: list[tuple[int, int]], share: float) -> None:
    """From 0 to 1, 0 for equal proportions; the shifts of the classes add up to zero."""
    segments = [answers(pairs, share)]
    assert 0.0 <= total_variation(segments) <= 1.0 + 1e-12
    assert math.fsum(shifts_of(segments)) == pytest.approx(0.0, abs=1e-9)
    assert total_variation([answers([(one, one) for one, _ in pairs], share)]) == pytest.approx(0.0, abs=1e-12)
    assert total_variation([answers([(1, 0), (0, 5)], share)]) == 1.0


def test_a_share_that_grows_while_the_mix_changes_is_no_difference() -> None:
    """At night all answers are of one class and the canary's share is small; by day they are of the other class and its share is
    half. The totals alone would look like a difference."""
    night, day = answers([(9_500, 500), (0, 0)], 0.05), answers([(0, 0), (5_000, 5_000)], 0.5)
    added = Answers((9_500, 5_000), (500, 5_000), 0.5)
    assert total_variation([night, day]) == pytest.approx(0.0)
    assert log_e_different([night, day]) < 0
    assert total_variation([added]) > 0.5
    assert log_e_different([added]) > 100


def test_counts_that_cannot_be_are_refused() -> None:
    """Negative counts, counts of other bins, and shares of 0 or 1."""
    for wrong in (
        Answers((1, -1), (1, 1), 0.5),
        Answers((1,), (1, 1), 0.5),
        Answers((1,), (1,), 0.0),
        Answers((1,), (1,), 1.0),
    ):
        with pytest.raises(ValueError):
            log_e_different([wrong])


def alarms(stable: np.ndarray, canary: np.ndarray, share: float, *, lost: float = 0.0, runs: int = 400) -> float:
    """How often E reaches 20 in 40 looks of 50 requests each; `lost` is the uncounted fraction of the canary's answers."""
    random, found = np.random.default_rng(20261121), 0
    for _ in range(runs):
        one, other = np.zeros(len(stable), dtype=int), np.zeros(len(stable), dtype=int)
        for _ in range(40):
            drawn = random.binomial(50, share)
            other += random.multinomial(random.binomial(drawn, 1 - lost), canary)
            one += random.multinomial(50 - drawn, stable)
            if log_e_different([Answers(tuple(one.tolist()), tuple(other.tolist()), share)]) >= math.log(20):
                found += 1
                break
    return found / runs


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_equal_versions_raise_it_as_rarely_as_promised(share: float) -> None:
    """At most alpha = 5 % at forty looks (0.08 is five standard errors above it), even if a third of the canary's answers is not
    counted. A different version is found, so the check can fail."""
    assert alarms(UNEVEN, UNEVEN, share) < 0.08
    assert alarms(UNEVEN, UNEVEN, share, lost=0.33) < 0.08
    assert alarms(UNEVEN, UNEVEN[::-1], share, runs=20) == 1.0


@pytest.mark.parametrize(("shift", "answers"), [(0.1, 550), (0.2, 150)])
def test_how_soon_a_shift_shows(shift: float, answers: int) -> None:
    """The figures in docs/rollouts.md: the canary's answers until E is 100, the median of 60 runs at a share of 25 %."""
    random, needed = np.random.default_rng(20261121), []
    for _ in range(60):
        canary, log_e = 0, 0.0
        late = [0, 0]
        while log_e < math.log(100):
            canary += 10
            late[0] += random.binomial(30, 0.5)
            late[1] += random.binomial(10, 0.5 + shift)
            one, other = (3 * canary - late[0], late[0]), (canary - late[1], late[1])
            log_e = log_e_different([Answers(one, other, 0.25)])
        needed.append(canary)
    assert np.median(needed) == pytest.approx(answers, rel=0.2)


def sticky_alarms(weight: float) -> float:
    """How often equal versions raise E to 20 if each of 500 users, a quarter of them the canary's, always gets the same one of
    ten classes and is counted by each of four workers."""
    random, found = np.random.default_rng(3), 0
    for _ in range(200):
        users, canary = random.integers(0, 10, 500), random.random(500) < 0.25
        counted = np.zeros((2, 10), dtype=int)
        for met in np.array_split(random.permutation(500 * 4) // 4, 40):
            np.add.at(counted, (canary[met].astype(int), users[met]), 1)
            answers = Answers(tuple(counted[0].tolist()), tuple(counted[1].tolist()), 0.25)
            if log_e_different([answers], weight) >= math.log(20):
                found += 1
                break
    return found / 200


def test_one_user_who_is_counted_by_several_workers_is_one() -> None:
    """Each count has a part of the weight; otherwise the users alone would make equal versions look different."""
    assert sticky_alarms(0.25) < 0.08
    assert sticky_alarms(1.0) > 0.3
