"""Signals that a rollout cannot be judged by: where they are not counted, and where no one knows them."""

from __future__ import annotations

import pytest

from roadworthy.contract.evidence import CANARY, OUTPUT_BINS, STABLE, BinCount, RolloutCounts, VariantCount
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.rollout.decide import alerts
from roadworthy.rollout.decide.machine import advance, begin
from roadworthy.rollout.decide.state import READY, STEPPING, Alert, Moment, Observation, State
from roadworthy.rollout.decide.verdict import FAIL, HOLD, Scope, Segment, judge
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan import counting, preflight
from roadworthy.rollout.plan import plan as plan_module
from roadworthy.rollout.plan.counting import unbindable, uncounted
from roadworthy.rollout.plan.plan import WAIT, Criterion, Plan, Stage, Watch, plan_from_document
from roadworthy.rollout.plan.preflight import Facts, obstacles
from roadworthy.rollout.words import say
from roadworthy.schema.signature import Signature
from roadworthy.signals.discovery import signal_or_missing
from roadworthy.signals.signal import BinSignal, Judge, OutcomeSignal, Signal, Use

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
    assert say(found["slow"]).startswith("1 of 2 workers do not count it")
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
    assert [(name, say(found)) for name, found in unbindable(plan, NOTHING, None)] == [("picky", why)]
    monkeypatch.setattr(counting, "signal_or_missing", signal_or_missing)
    assert dict(unbindable(Plan("canary", (), criteria=(Criterion("slow"),)), NOTHING, None)) == {}


class Extreme(OutcomeSignal):
    """Judges by a multiple of the stable's run time."""

    name = "extreme"
    needs_run_times = True

    def bind(self, use: Use) -> Judge:
        """By its documentation the time is known."""
        assert use.slow_us is not None
        limit_us = 2 * use.slow_us
        if limit_us > 10_000:
            raise ValueError(f"limit {limit_us}")
        return lambda seen: seen.ran_us > limit_us


def test_a_signal_that_needs_run_times_is_bound_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are unknown it is not asked; "no-baseline" refuses the rollout, by a criterion and by a watched signal."""
    for module in (counting, preflight):
        monkeypatch.setattr(module, "signal_or_missing", lambda _name: Extreme())
    plan = Plan("canary", (Stage(5_000),), watches=(Watch("extreme"),))
    assert dict(unbindable(plan, NOTHING, None)) == {}
    assert dict(unbindable(plan, NOTHING, 5_000)) == {}
    assert dict(unbindable(plan, NOTHING, 5_001)) == {"extreme": "limit 10002"}
    codes = {slow_ms: [each.code for each in obstacles(plan, Facts("a:1", "a:2", slow_ms=slow_ms))] for slow_ms in (None, 5.0)}
    assert codes == {None: ["no-baseline"], 5.0: []}


def test_a_plan_whose_signal_is_gone_holds() -> None:
    """Its plug-in is no longer loaded: it is read, judged by nothing that was counted, and never rolled back by it."""
    plan = plan_from_document(GONE.to_document())
    assert plan == GONE
    assert dict(unbindable(plan, NOTHING, None)) == dict(uncounted(plan, [])) == {"gone": signal_or_missing("gone").unmeasurable}
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


class Broken(OutcomeSignal):
    """A criterion whose `allowed` raises an error."""

    name = "broken"
    event = "an event"

    def allowed(self, ratio: float, margin: float) -> float:
        """Never works."""
        raise ZeroDivisionError(ratio, margin)


class Sign(BinSignal):
    """A watched signal with three bins."""

    name = "sign"
    event = "sign of the answer"
    bins: tuple[str, ...] = ("negative", "zero", "positive")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Signal]:
    """The two signals above, as if a plug-in had them."""
    known: dict[str, Signal] = {"broken": Broken(), "sign": Sign()}
    monkeypatch.setattr(alerts, "signal_named", known.get)
    monkeypatch.setattr(plan_module, "signal_named", known.get)
    monkeypatch.setattr(plan_module, "signal_or_missing", lambda name: known.get(name) or signal_or_missing(name))
    return known


@pytest.mark.usefixtures("planted")
def test_a_criterion_that_raises_holds_and_the_others_act() -> None:
    """It names the error; a version that another criterion finds worse still goes back."""
    plan = Plan("canary", (Stage(5_000, hold_s=0.0),), criteria=(Criterion("errors"), Criterion("broken")))
    for bad, outcome in ((0, HOLD), (450, FAIL)):
        samples = tuple(
            VariantCount(2, signal, name, 900, bad if (signal, name) == ("errors", CANARY) else 0)
            for signal in ("errors", "broken")
            for name in (STABLE, CANARY)
        )
        verdict = judge(plan, Scope((Segment(2, 5_000),), 2, 0, 100), Evidence().merged("g", RolloutCounts("r", samples)))
        assert verdict.outcome == outcome
        found = {each.signal: (each.outcome, each.code, say(each.why)) for each in verdict.findings}["broken"]
        text = "broken: its plug-in raised ZeroDivisionError: (1.0, 1.5)"
        assert found == (HOLD, "signal-not-measurable", text)


@pytest.mark.parametrize("on_alarm", ["hold", "alert"])
def test_a_watched_signal_that_raises(planted: dict[str, Signal], on_alarm: str) -> None:
    """It holds or alerts, as its alarm would, and names the error. A bin that it does not have is no error."""
    plan = Plan("canary", (Stage(5_000, hold_s=0.0, evidence=0),), after=WAIT, watches=(Watch("sign", on_alarm),))
    cells = {STABLE: (100, 100, 100), CANARY: (0, 0, 0, 0, 0, 300)}
    bins = tuple(BinCount(1, 0, name, (*found, *[0] * (OUTPUT_BINS - len(found))), "sign") for name, found in cells.items())
    evidence = Evidence().merged("g", RolloutCounts("r", bins=bins))
    state = State("r", phase=STEPPING, weight=5_000, generation=1, segments=(Segment(1, 5_000),), step_from=1)
    look = alerts.Look(plan, state, evidence, ())
    (alarm,) = alerts.signal_alerts(look)
    assert say(alarm.why).endswith("; most of it bin 5: +100.0%")
    planted["sign"].bins = None  # type: ignore[attr-defined]  # the fault under test
    (alarm,) = alerts.signal_alerts(look)
    assert (alarm.raised, alarm.samples) == (True, 0)
    assert say(alarm.why).startswith("its plug-in raised TypeError: ")
    seen = Observation(Moment("b", 0.0), 1, 1, READY, alerts=(alarm,))
    done = advance(plan, state, seen, evidence)
    expected = {"hold": "signal-not-measurable", "alert": "alarm-sign"}[on_alarm]
    assert expected in [each.code for each in done.actions if isinstance(each, Alert)]
    assert done.state.code == (expected if on_alarm == "hold" else "waits-for-decision")
