"""E2, E3: a canary with more errors is rolled back within a few hundred requests; an equal one as rarely as guaranteed.

Simulated with the product's state machine, plan and verdict; `make bench-rollout` runs many more simulations.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.stats import binom

from bench.guarantees import clopper_pearson_upper
from bench.whole import Ending, Rates, rollouts
from roadworthy.rollout.plan.parse import read_plan


def test_e2_five_percent_errors_against_one_go_back_within_a_few_hundred_requests() -> None:
    """300 rollouts with the default plan are all rolled back as worse in the first step, half within 200 canary requests."""
    ended = rollouts(np.random.default_rng(2), read_plan("strategy: canary"), Rates((0.01, 0.05)), 300)
    assert {each.ending for each in ended} == {Ending.ROLLED_BACK}
    requests = np.array([each.canary_requests for each in ended])
    assert np.median(requests) <= 200
    assert np.quantile(requests, 0.9) <= 450
    assert requests.max() <= 1_000


def test_e3_of_a_thousand_equal_rollouts_no_more_go_back_than_alpha_allows() -> None:
    """At alpha 5 % and 3 % errors on both sides, with a limit of 10 % so that equal ones pass soon: the rate of rollbacks and
    its 95 % bound are below alpha."""
    alpha, runs = 0.05, 1_000
    plan = read_plan(f"strategy: canary\nalpha: {alpha}\nhold: 50s\nevidence: 50\ncriteria: {{errors: {{limit: 0.1}}}}")
    found = Counter(each.ending for each in rollouts(np.random.default_rng(3), plan, Rates((0.03, 0.03)), runs))
    false = found[Ending.ROLLED_BACK]
    assert false <= binom.ppf(0.001, runs, alpha)
    assert clopper_pearson_upper(false, runs) <= alpha
    assert found[Ending.PROMOTED] == runs - false
    assert false > 0  # the evidence is evaluated, and chance does cause some
