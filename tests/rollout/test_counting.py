"""Signals that a rollout cannot be judged by: where they are not counted, and where no one knows them."""

from __future__ import annotations

import pytest

from roadworthy.contract.evidence import CANARY, STABLE, RolloutCounts, VariantCount
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.rollout.decide.machine import advance, begin
from roadworthy.rollout.decide.state import READY, STEPPING, Moment, Observation
from roadworthy.rollout.decide.verdict import HOLD, Scope, Segment, judge
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan import counting
from roadworthy.rollout.plan.counting import unbindable, uncounted
from roadworthy.rollout.plan.plan import Criterion, Plan, Stage, Watch, plan_from_document
from roadworthy.schema.signature import Signature
from roadworthy.signals.discovery import signal_or_missing
from roadworthy.signals.signal import Judge, OutcomeSignal, Use

NOTHING = Signature((), ())
GONE = Plan("canary", (Stage(5_000, hold_s=0.0),), criteria=(Criterion("errors"), Criterion("gone")))
WORSE = Evidence().merged(
    "g",
    RolloutCounts("r", tuple(VariantCount(2, "gone", name, 900, bad) for name, bad in ((STABLE, 0), (CANARY, 900)))),
)


def worker(*signals: str, earlier: bool = False) -> WorkerReport:
    """A worker that counts these, or one of a release that does not say."""
    return WorkerReport(0, 1, "w", "e", 1, 1, signals=None if earlier else signals)


def test_a_signal_is_counted_where_every_worker_says_so() -> None:
    """Gateways of the previous release do not say it, and count those of their time. A worker that says it counts no others."""
    plan = Plan("canary", (), criteria=tuple(map(Criterion, ("errors", "slow", "feedback", "custom.own"))))
    assert dict(uncounted(plan, [worker("errors", "slow"), worker(earlier=True)])) == {}
    found = dict(uncounted(plan, [worker("errors"), worker(earlier=True)]))
    assert list(found) == ["slow"]
    assert found["slow"].startswith("1 of 2 workers do not count it")
    assert dict(uncounted(plan, [])) == {}


class Picky(OutcomeSignal):
    """Raises what it is made of."""

    def __init__(self, error: Exception) -> None:
        self.name = "picky"
        self.error = error

    def bind(self, use: Use) -> Judge:
        """Never works."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "why"),
    [(ValueError("no text here"), "no text here"), (KeyError("x"), "its plug-in raised KeyError: 'x'")],
)
def test_a_signal_says_where_it_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    """Or breaks, which is the same for the plan."""
    monkeypatch.setattr(counting, "signal_or_missing", lambda _name: Picky(error))
    plan = Plan("canary", (), criteria=(Criterion("picky"),))
    assert dict(unbindable(plan, NOTHING)) == {"picky": why}
    monkeypatch.setattr(counting, "signal_or_missing", signal_or_missing)
    assert dict(unbindable(Plan("canary", (), criteria=(Criterion("slow"),)), NOTHING)) == {}


def test_a_plan_whose_signal_is_gone_holds() -> None:
    """Its plug-in is no longer loaded: it is read, judged by nothing that was counted, and never rolled back by it."""
    plan = plan_from_document(GONE.to_document())
    assert plan == GONE
    assert (
        dict(unbindable(plan, NOTHING)) == dict(uncounted(plan, [])) == {"gone": signal_or_missing("gone").unmeasurable}
    )
    assert [each for each, _ in uncounted(Plan("canary", (), watches=(Watch("gone"),)), [])] == ["gone"]
    verdict = judge(plan, Scope((Segment(2, 5_000),), 2, 0, 100), WORSE)
    assert {each.signal: (each.outcome, each.code) for each in verdict.findings} == {
        "errors": (HOLD, "no-evidence"),
        "gone": (HOLD, "signal-not-measurable"),
    }


def test_a_worker_that_does_not_count_holds_the_step_and_alerts() -> None:
    """Until it does, or is gone: the version may be bad there without being seen."""
    plan = Plan("canary", (Stage(5_000, hold_s=0.0, evidence=0), Stage(10_000, hold_s=0.0, evidence=0)))
    state = begin("r", 1)
    looks = []
    for number, missing in enumerate(((), (), ("odd: 1 of 2 workers",), ("odd: 1 of 2 workers",), ())):
        seen = Observation(Moment("b", float(number)), state.generation, state.generation, READY, uncounted=missing)
        done = advance(plan, state, seen, Evidence())
        state = done.state
        looks.append((state.phase, state.step, state.code, len(done.actions)))
    assert looks[2:4] == [(STEPPING, 1, "signal-not-measurable", 1), (STEPPING, 1, "signal-not-measurable", 0)]
    assert looks[4][2] != "signal-not-measurable"
