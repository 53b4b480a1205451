"""The real part of `make bench-rollout` in a short form, and the failures that it must detect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from bench.load.traffic import Outcome
from bench.real.cases import ALL, Case, Way, drawn
from bench.real.measuring import LEAST_ROLLOUTS, Plan, Story, run
from bench.real.models import Kind
from bench.real.rollouts import Made
from bench.real.shares import Observed
from roadworthy.contract.api.rollouts import Rollout
from roadworthy.rollout.plan.parse import check_plan
from tests.contract.filled import filled

pytestmark = pytest.mark.usefixtures("warm_services")
SHORT = (
    Case(Kind.FAILING, Way.CANARY),
    Case(Kind.GOOD, Way.STICKY),
    Case(Kind.CRASHING, Way.CANARY),
    Case(Kind.DISAGREEING, Way.SHADOW_FIRST),
    Case(Kind.SLOW, Way.CANARY),
)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Five rollouts and one share on two workers."""
    plan = Plan(lanes=1, rate=100.0, workers=2, shares=(25,), requests=800)
    return run(tmp_path_factory.mktemp("real"), plan, 3, SHORT)


def test_real_rollouts_are_decided_right_and_no_stable_request_fails(story: Story) -> None:
    """E1: a version that fails every request loses its traffic within 5 s of its first failure."""
    assert [(made.case, made.wrong) for made in story.made] == [(case, []) for case in SHORT]
    assert all(made.right for made in story.made), [made.told() for made in story.made]
    assert all(made.canary for made in story.made if made.case.way is not Way.SHADOW_FIRST)
    exposed = story.made[0].exposed_s
    assert exposed is not None
    assert exposed < 5
    assert not story.made[3].canary  # it was only ever shadowed
    assert story.made[3].pairs >= 2


def test_e17_requests_and_users_are_split_as_was_set(story: Story) -> None:
    """Within 99.9 % intervals over both workers; no user changes versions."""
    (requests,), (users,) = story.by_request, story.by_user
    assert (requests.workers, users.workers) == (2, 2)
    assert requests.draws >= 800
    assert users.draws >= 500
    assert requests.right, requests
    assert users.right, users


def test_every_target_is_judged(story: Story) -> None:
    """Each figure of the short form meets its target."""
    measures = story.measures()
    assert all(measure.met for measure in measures), measures
    assert len(measures) == 3 + len({case.kind for case in SHORT}) + 2


def _made(case: Case, outcome: str, code: str, **more: Any) -> Made:
    withdrawn = more.pop("withdrawn", None)
    document = structs.replace(filled(Rollout), outcome=outcome, code=code, text="", withdrawn=withdrawn)
    return replace(Made(case, document, 1.0, [], [], 0), **more)


def _asked(version: str, cause: str, ended: float = 1.0) -> Outcome:
    return Outcome(ended - 0.1, ended, version, cause)


def test_a_wrong_decision_is_no_right_one() -> None:
    """A broken version that is promoted, a healthy one that is rolled back, or a wrong reason."""
    failing, good = Case(Kind.FAILING, Way.CANARY), Case(Kind.GOOD, Way.CANARY)
    assert _made(failing, "rolled-back", "worse").right
    assert not _made(failing, "promoted", "promoting").right
    assert not _made(failing, "rolled-back", "deadline").right
    assert _made(good, "promoted", "promoting").right
    assert not _made(good, "rolled-back", "worse").right
    withheld = Case(Kind.FAILING, Way.BLUE_GREEN)
    assert _made(withheld, "rolled-back", "deadline", withdrawn="over-limit").right
    assert not _made(withheld, "rolled-back", "deadline").right


def test_a_failed_stable_request_is_no_right_decision() -> None:
    """Nor is a missing answer; a broken canary's own failures are right, a healthy one's are not."""
    failing, good = Case(Kind.FAILING, Way.CANARY), Case(Kind.GOOD, Way.CANARY)
    own = [_asked("m:2", "500 model-failed", 3.0), _asked("m:2", "500 model-failed", 4.5)]
    decided = _made(failing, "rolled-back", "worse", canary=own, stable=[_asked("m:1", "")])
    assert decided.right
    assert decided.exposed_s == 1.5
    for cause in ("500 model-failed", "wrong answer", "broken"):
        assert not replace(decided, stable=[_asked("", cause)]).right
    assert not _made(good, "promoted", "promoting", canary=own).right


def test_a_share_that_is_off_and_users_who_stray_are_seen() -> None:
    """600 of 10,000 is not a share of 5 %, 520 is; one user that changed versions is too many."""
    assert Observed(5, 10_000, 520, 2).right
    assert not Observed(5, 10_000, 600, 2).right
    assert not Observed(5, 10_000, 520, 2, strays=1).right


def test_every_plan_is_valid_and_every_kind_is_there() -> None:
    """At least fifty rollouts; the same seed draws the same ones."""
    import numpy as np

    assert len(ALL) >= LEAST_ROLLOUTS
    assert {case.kind for case in ALL} == set(Kind)
    assert {case.way for case in ALL} == set(Way)
    assert all(check_plan(case.plan()).steps for case in ALL)
    orders = [drawn(np.random.default_rng(seed), 60) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert set(orders[0]) == set(ALL)
