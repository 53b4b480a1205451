"""The state machine: whole rollouts of every strategy, the fault cases by their ids, and invariants under arbitrary histories."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from roadworthy.contract.evidence import CANARY, STABLE, PairCount, RolloutCounts, VariantCount
from roadworthy.rollout.decide.commands import COMMANDS, NOTHING, command
from roadworthy.rollout.decide.machine import LOAD_ATTEMPTS, RELOADS, STALE_LOOKS, Baseline, advance, begin, retreating, retreats
from roadworthy.rollout.decide.state import (
    FAILED,
    FINISHED,
    LOADING,
    PREPARING,
    PROMOTING,
    READY,
    RETURNING,
    STEPPING,
    Advance,
    Alert,
    Finish,
    Moment,
    Observation,
    Retry,
    SetSplit,
    SignalAlert,
    State,
    state_from_document,
)
from roadworthy.rollout.evidence.counts import Evidence, evidence_from_document
from roadworthy.rollout.plan.plan import DEPLOYMENT, END, WAIT, Criterion, Plan, Stage, Watch
from roadworthy.rollout.words import say

ERRORS = Criterion("errors", limit=0.05)
CANARY_PLAN = Plan(
    "canary",
    tuple(Stage(weight, hold_s=60.0) for weight in (500, 2_500, 10_000)),
    criteria=(ERRORS,),
    deadline_s=3_600.0,
)


class World:
    """A controller's environment: a clock, an endpoint whose splits workers apply at once, and traffic that tests order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state = begin("r1", 7, Baseline(12.5))
        self.evidence = Evidence()
        self.seen = Observation(Moment("boot-1", 100.0), 7, 7, READY, READY)
        self.alerts: list[str] = []
        self.outcome: str | None = None
        self.splits: list[tuple[int, int]] = []
        self._counts: dict[tuple[int, str], tuple[int, int]] = {}
        self.workers_follow = True

    def look(self, seconds: float = 0.0, **changes: object) -> Advance:
        """One look after so many seconds, with these changes to the observation from now on."""
        now = replace(self.seen.moment, seconds=self.seen.moment.seconds + seconds)
        self.seen = replace(self.seen, **{"moment": now, **changes})
        return self._stored(advance(self.plan, self.state, self.seen, self.evidence))

    def ask(self, name: str) -> str | None:
        """Give a person's command; return the refusal."""
        return self._stored(command(self.plan, self.state, name, self.seen)).refused

    def traffic(self, canary: tuple[int, int], stable: tuple[int, int] = (0, 0), signal: str = "errors") -> None:
        """More (samples, bad) in the present generation."""
        generation = self.state.generation
        counts = []
        for variant, (samples, bad) in ((CANARY, canary), (STABLE, stable)):
            before = self._counts.get((generation, f"{signal}/{variant}"), (0, 0))
            self._counts[generation, f"{signal}/{variant}"] = after = (before[0] + samples, before[1] + bad)
            counts.append(VariantCount(generation, signal, variant, *after))
        self.evidence = self.evidence.merged("gateway/1", RolloutCounts("r", tuple(counts)))

    def _stored(self, move: Advance) -> Advance:
        self.state = move.state
        for action in move.actions:
            if isinstance(action, SetSplit):
                assert action.generation == self.seen.generation + 1
                applied = action.generation if self.workers_follow else self.seen.applied
                self.seen = replace(self.seen, generation=action.generation, applied=applied)
                self.splits.append((action.weight, action.shadow))
            elif isinstance(action, Alert):
                self.alerts.append(action.code)
            elif isinstance(action, Finish):
                self.outcome = action.outcome
        return move


def stepping(plan: Plan = CANARY_PLAN) -> World:
    """A world in its first step."""
    world = World(plan)
    world.look()
    assert world.state.phase == STEPPING
    return world


def test_a_healthy_canary_goes_all_the_way() -> None:
    """Step by step, each with its time and its evidence, then finished."""
    world = stepping()
    for weight in (500, 2_500, 10_000):
        assert world.state.weight == weight
        assert world.look(30).state.code == "minimum-time"
        assert world.look(30).state.code == "no-evidence"
        world.traffic((120, 0), (1_000, 2) if weight < 10_000 else (0, 0))
        world.look(1)
    assert (world.outcome, world.state.phase) == ("promoted", FINISHED)
    assert world.splits == [(500, 0), (2_500, 0), (10_000, 0)]
    assert world.alerts == []


def test_e1_a_canary_that_fails_every_request_is_back_after_three() -> None:
    """At 5 %, in the look that sees the third failure (errors have half of alpha), with the reason."""
    world = stepping(replace(CANARY_PLAN, criteria=(ERRORS, Criterion("invalid_outputs", evidence=0))))
    world.traffic((2, 2), (40, 0))
    assert world.look(1).state.phase == STEPPING
    world.traffic((1, 1), (20, 0))
    world.look(1)
    assert world.splits[-1] == (0, 0)
    assert world.state.code == "worse"
    assert world.alerts == ["worse"]
    world.look(1)
    assert (world.outcome, world.state.phase) == ("rolled-back", FINISHED)
    assert world.state.peaks["errors"] > 7


def test_c6_a_slow_canary_goes_back() -> None:
    """Ten times slower: nearly all of its requests exceed the stable's 95th percentile."""
    world = stepping(replace(CANARY_PLAN, criteria=(ERRORS, Criterion("slow", ratio=1.25))))
    world.traffic((6, 6), (110, 5), "slow")
    world.look(1)
    assert (world.state.phase, world.state.ends_as, world.state.code) == (RETURNING, "rolled-back", "worse")
    assert say(world.state.why).startswith("slow:")


def test_e4_a_shared_outage_holds() -> None:
    """Both versions fail alike: nothing moves in either direction, people are alerted once, and it goes on after the outage."""
    world = stepping()
    world.look(100)
    for _ in range(5):
        world.traffic((50, 25), (950, 475))
        world.look(1)
    assert (world.state.code, world.splits, world.alerts) == ("shared-outage", [(500, 0)], ["shared-outage"])
    world.traffic((20_000, 0), (400_000, 0))
    world.look(1)
    assert world.splits[-1] == (2_500, 0)


def test_e5_without_traffic_it_holds_and_goes_back_at_the_deadline() -> None:
    """Never promoted on silence; with the policy "hold" it stays, and alerts people."""
    world = stepping()
    for _ in range(59):
        assert world.look(60).state.code == "no-evidence"
    world.look(60)
    world.look()
    assert (world.outcome, world.splits) == ("inconclusive", [(500, 0), (0, 0)])
    assert world.alerts == ["inconclusive"]
    assert say(world.state.why) == (
        "no decision before the deadline; missing in step 1: errors: no samples yet; the step needs 100; step 2 of 3"
    )
    world = stepping(replace(CANARY_PLAN, at_deadline="hold"))
    for _ in range(100):
        world.look(60)
    assert (world.state.phase, world.state.code, world.alerts) == (STEPPING, "inconclusive", ["inconclusive"])
    world.traffic((9, 9), (100, 0))
    world.look(1)
    assert (world.state.phase, world.state.ends_as) == (RETURNING, "rolled-back"), "what is found worse still goes back as that"


def test_a_shared_outage_at_the_deadline_accuses_nobody() -> None:
    """It goes back because the plan says so; the reason names the shared outage, with its numbers."""
    world = stepping()
    world.traffic((500, 250), (9_500, 4_750))
    world.look(3_600)
    world.look(1)
    assert (world.outcome, world.state.code, world.alerts) == ("inconclusive", "inconclusive", ["inconclusive"])
    assert "but so are 4,750 of 9,500 (0.5) of the stable's: both versions suffer" in say(world.state.why)
    unlimited = replace(CANARY_PLAN, criteria=(Criterion("errors"),))
    world = stepping(unlimited)
    world.traffic((100, 50), (1_900, 950))
    world.look(3_600)
    assert world.state.ends_as == "inconclusive"
    assert "errors: 50 bad of 100 in this step, the stable's 950 of 1,900: not shown to be well" in say(world.state.why)


def test_what_is_missing_at_the_deadline_is_told_whatever_it_is() -> None:
    """A criterion's evidence with its numbers, an alarm, time, an approval, a person's decision."""
    criteria = (ERRORS, Criterion("slow", ratio=1.25))
    waits = replace(CANARY_PLAN, criteria=criteria, watches=(Watch("drift"),), at_deadline="hold", deadline_s=100.0)
    world = stepping(waits)
    world.traffic((200, 0), (3_800, 0))
    world.traffic((200, 12), (3_800, 190), "slow")
    world.look(50, fresh=False)
    world.look(50, fresh=True, alerts=(SignalAlert("drift", 200, raised=True, why="label: 20.0% of answers differ"),))
    text = say(world.state.why)
    assert "errors:" not in text, "that criterion has passed"
    for part in (
        "slow: 12 bad of 200 in this step, the stable's 190 of 3,800: not shown to be well. Its rate is at most 0.12, and",
        "drift: label: 20.0% of answers differ (200 samples)",
        "10 s left in this step",
        "step 2 of 3",
    ):
        assert part in text
    approved = replace(CANARY_PLAN, steps=(Stage(500, hold_s=10.0), Stage(10_000, approve=True)), deadline_s=100.0)
    world = stepping(approved)
    world.traffic((200, 0), (3_800, 0))
    world.look(20)
    world.look(80)
    assert say(world.state.why).endswith("missing in step 1: step 2 of 2, which needs approval")
    person = Plan("ab", (Stage(5_000, hold_s=10.0),), WAIT, criteria=(ERRORS,), deadline_s=100.0)
    world = stepping(person)
    world.traffic((200, 0), (200, 0))
    world.look(20)
    world.look(80)
    assert say(world.state.why).endswith("missing in step 1: a person's decision")


def test_an_outage_that_goes_on_without_the_canary_is_not_its_own() -> None:
    """The canary had all traffic, so its share was withdrawn; the stable fails as much since then. The canary is not the
    cause."""
    plan = Plan("blue-green", (Stage(10_000, hold_s=60),), criteria=(ERRORS,), deadline_s=100.0)
    for stable, outcome in (((500, 350), "inconclusive"), ((500, 1), "rolled-back")):
        world = stepping(plan)
        world.traffic((40, 30))
        world.look(10)
        assert (world.state.withdrawn, world.splits[-1]) == ("over-limit", (0, 0))
        world.traffic((0, 0), stable)
        world.look(10)
        assert world.state.withdrawn == "over-limit", "nothing comes back by itself"
        world.look(100)
        assert world.state.ends_as == outcome
        shared = "but so are 350 of 500 (0.7) of the stable's: both versions suffer" in say(world.state.why)
        assert shared is (outcome == "inconclusive")


def test_a_canary_whose_share_was_taken_is_not_inconclusive_at_the_deadline() -> None:
    """It was over its limit and the stable was not: that is the reason for going back."""
    blue = Plan("blue-green", (Stage(10_000, hold_s=60),), criteria=(ERRORS,), deadline_s=100.0)
    for at_deadline, phase in (("rollback", RETURNING), ("hold", STEPPING)):
        world = stepping(replace(blue, at_deadline=at_deadline))
        world.traffic((40, 30))
        world.look(10)
        assert world.state.withdrawn == "over-limit"
        for _ in range(3):
            world.look(50)
        assert world.state.code == "deadline"
        assert say(world.state.why).startswith("no person decided before the deadline: errors: 30 of 40 (0.75) of the canary's")
        assert (world.state.phase in (phase, FINISHED), world.state.ends_as) == (
            True,
            "rolled-back" if phase == RETURNING else None,
        )


def test_e6_lost_telemetry_holds_apart_from_the_verdict() -> None:
    """Time does not count meanwhile, people are alerted after some looks, and it goes on when telemetry is back."""
    world = stepping()
    world.traffic((120, 0), (1_000, 0))
    for number in range(1, 10):
        world.look(20, fresh=False)
        assert world.state.stale == number
        assert world.state.code == ("telemetry-lost" if number >= STALE_LOOKS else "not-fresh")
    assert world.state.step_s == 0
    assert world.alerts == ["telemetry-lost"]
    assert world.look(1, fresh=True).state.stale == 0
    world.look(60)
    assert world.splits[-1] == (2_500, 0)


def test_e7_a_version_that_cannot_be_loaded_never_gets_traffic() -> None:
    """It is tried again with growing pauses, then the rollout ends."""
    world = World(CANARY_PLAN)
    retries = []
    world.seen = replace(world.seen, canary=FAILED, reason="out of memory")
    for second in range(60):
        move = world.look(1)
        retries += [second for action in move.actions if isinstance(action, Retry)]
        if world.state.phase == FINISHED:
            break
    assert len(retries) == LOAD_ATTEMPTS - 1
    assert retries[1] - retries[0] > RELOADS.delay(1) - 1
    assert (world.outcome, world.splits, world.alerts) == ("not-started", [], ["load-failed"])
    assert "out of memory" in say(world.state.why)


def test_e7_crashes_while_serving_go_back() -> None:
    """By a separate limit, not as bad requests, counted on all machines together; quarantine has the same effect."""
    for crashes, canary in ((3, READY), (2, FAILED)):
        world = stepping()
        world.evidence = world.evidence.merged("gateway/1", RolloutCounts("r", crashes=2))
        world.look(1)
        assert world.state.phase == STEPPING
        world.evidence = world.evidence.merged("gateway/2", RolloutCounts("r", crashes=crashes - 2))
        world.look(1, canary=canary)
        assert (world.state.phase, world.splits[-1]) == (RETURNING, (0, 0))


def test_e10_an_old_canary_keeps_its_share_until_its_traffic_is_moved() -> None:
    """A third version comes: the old rollout ends only when every worker has the split without it."""
    world = stepping()
    assert world.ask("supersede") is None
    assert (world.state.weight, world.state.phase) == (500, RETURNING)
    world.workers_follow = False
    world.look(1)
    assert world.splits[-1] == (0, 0)
    assert world.look(60).state.phase == RETURNING
    world.look(1, applied=world.seen.generation)
    assert world.outcome == "superseded"


def test_e11_going_back_while_promoting_ends_at_a_ready_version() -> None:
    """The stable is gone for a while: the canary keeps all traffic, people are alerted, and it goes back when it can."""
    world = stepping()
    world.workers_follow = False
    assert world.ask("promote") is None
    world.look(1)
    assert (world.state.phase, world.splits[-1]) == (PROMOTING, (10_000, 0))
    world.look(1, stable=LOADING)
    assert world.ask("abort") is None
    for _ in range(3):
        world.look(5)
        assert (world.state.phase, world.state.weight) == (RETURNING, 10_000)
    assert world.alerts == ["cannot-return"]
    world.workers_follow = True
    world.look(1, stable=READY)
    world.look(1)
    assert (world.outcome, world.splits[-1]) == ("aborted", (0, 0))


def test_e13_commands_with_nothing_in_progress_do_nothing() -> None:
    """All of them, on a finished rollout; a look at it changes nothing either."""
    world = stepping()
    world.ask("abort")
    world.look(1)
    world.look(1)
    finished = world.state
    assert finished.phase == FINISHED
    for name in COMMANDS:
        assert world.ask(name) == NOTHING
        assert world.look(100) == Advance(finished)


def test_d14_jumps_of_the_clock_and_restarts_neither_skip_nor_hang() -> None:
    """Only time that passes on one monotonic clock counts: not backwards, not across lives of the controller."""
    world = stepping()
    world.traffic((120, 0), (1_000, 0))
    world.look(30)
    world.look(-3_600)
    assert world.state.step_s == 30
    world.look(20)
    assert world.state.step_s == 50
    world.look(moment=Moment("boot-2", 1e9))
    assert (world.state.step_s, world.state.total_s) == (50, 50)
    world.look(9)
    assert world.state.weight == 500
    world.look(1)
    assert world.state.weight == 2_500


def test_a_breaker_takes_the_share_away_and_holds() -> None:
    """A person resumes with the step's share, or the deadline ends the rollout."""
    world = stepping()
    world.look(1, breaker_open=True)
    assert (world.splits[-1], world.state.withdrawn, world.state.phase) == ((0, 0), "breaker-open", STEPPING)
    world.look(500, breaker_open=False)
    assert (world.state.step_s, world.alerts) == (1, ["breaker-open"])
    assert world.ask("resume") is None
    assert (world.splits[-1], world.state.withdrawn) == ((500, 0), None)
    world.look(1, breaker_open=True)
    world.look(3_600)
    world.look(1)
    assert world.outcome == "rolled-back"


def test_blue_green_is_a_plan_with_one_full_step() -> None:
    """Over its limit at full share it holds with traffic back on the stable; resumed, its limit starts again."""
    plan = Plan("blue-green", (Stage(10_000, hold_s=300, evidence=50),), criteria=(ERRORS,))
    world = stepping(plan)
    assert world.splits == [(10_000, 0)]
    world.traffic((40, 20))
    world.look(10)
    assert (world.state.code, world.splits[-1], world.state.phase) == ("over-limit", (0, 0), STEPPING)
    world.look(10, canary=LOADING)
    assert world.ask("resume") == "the new version is not ready to take traffic"
    world.look(10, canary=READY)
    world.ask("resume")
    world.traffic((200, 1))
    world.look(10)
    world.look(300)
    assert world.outcome == "promoted"


def test_a_share_is_not_taken_for_a_stable_that_is_not_ready() -> None:
    """Over its limit, or behind an open breaker, the canary keeps its share until the stable can take it; people are alerted."""
    world = stepping()
    world.look(1, breaker_open=True, stable=LOADING)
    assert (world.state.code, world.splits, world.alerts) == ("cannot-withdraw", [(500, 0)], ["cannot-withdraw"])
    world.look(1, stable=READY)
    assert world.splits[-1] == (0, 0)


def test_what_is_found_worse_while_it_is_promoted_goes_back() -> None:
    """A person promoted it too soon."""
    world = stepping()
    world.workers_follow = False
    world.ask("promote")
    world.look(1)
    world.traffic((9, 9), (100, 0))
    world.evidence = world.evidence.merged(
        "late", RolloutCounts("r", (VariantCount(8, "errors", CANARY, 4, 4), VariantCount(8, "errors", STABLE, 90, 0)))
    )
    world.look(1)
    assert (world.state.phase, world.state.ends_as, world.splits[-1]) == (RETURNING, "rolled-back", (0, 0))
    assert world.ask("abort") == "the rollout is already going back"


def test_shadow_and_ab_are_plans_with_another_end() -> None:
    """A shadow never gets a live request and ends with the stable; an A/B test waits for a person."""
    shadow = Plan("shadow", (Stage(0, shadow=5_000, hold_s=60),), END, criteria=(Criterion("disagreement", limit=0.01),))
    world = stepping(shadow)
    pairs = RolloutCounts("r", pairs=(PairCount(world.state.generation, "disagreement", 1_000, 1),))
    world.evidence = world.evidence.merged("gateway/1", pairs)
    world.look(61)
    world.look(1)
    assert (world.outcome, world.splits) == ("completed", [(0, 5_000), (0, 0)])
    test = Plan("ab", (Stage(5_000, hold_s=60),), WAIT, criteria=(ERRORS,), deadline_s=None)
    world = stepping(test)
    world.traffic((500, 3), (500, 4))
    world.look(61)
    assert (world.state.code, world.alerts) == ("waits-for-decision", ["waits-for-decision"])
    assert world.ask("promote") is None
    world.look(1)
    world.look(1)
    assert world.outcome == "promoted"


def test_approval_and_pause() -> None:
    """A step with approval waits for it; a pause stops time, but not a rollback."""
    plan = Plan("canary", (Stage(500, hold_s=10), Stage(10_000, hold_s=0, approve=True)), criteria=(ERRORS,))
    world = stepping(plan)
    world.traffic((120, 0), (1_000, 0))
    world.ask("pause")
    world.look(5_000)
    assert (world.state.code, world.state.total_s) == ("paused", 0)
    assert world.ask("pause") == "the rollout is already paused"
    assert world.ask("resume") is None
    assert world.ask("resume") == "the rollout is not paused"
    world.look(11)
    assert (world.state.code, world.alerts) == ("waits-for-approval", ["waits-for-approval"])
    assert world.ask("approve") is None
    world.look(1)
    assert world.state.weight == 10_000
    assert world.ask("approve") == "the next step needs no approval"
    twice = stepping(replace(plan, steps=(Stage(500, hold_s=10), *plan.steps[1:], *plan.steps[1:])))
    twice.traffic((120, 0), (1_000, 0))
    twice.ask("approve")
    twice.look(11)
    twice.traffic((120, 0))
    assert twice.look(11).state.code == "waits-for-approval", "each step is approved by itself"
    world = stepping(plan)
    world.ask("pause")
    world.traffic((5, 5), (100, 0))
    world.look(1)
    assert world.state.phase == RETURNING


def test_watches_hold_or_only_tell() -> None:
    """Drift holds while its alarm lasts and while it has no samples; confidence only alerts, once."""
    watches = (Watch("drift", "hold"), Watch("confidence", "alert"))
    world = stepping(replace(CANARY_PLAN, watches=watches))
    world.traffic((120, 0), (1_000, 0))
    world.look(61)
    assert (world.state.code, say(world.state.why)) == ("no-evidence", "drift: no measurement yet")
    drift = SignalAlert("drift", 800, True, "labels moved by 0.3")
    world.look(1, alerts=(drift, SignalAlert("confidence", 50, True, "lower")))
    world.look(1)
    assert (world.state.code, world.alerts) == ("alarm", ["alarm", "alarm-confidence"])
    world.look(1, alerts=(replace(drift, raised=False),))
    assert world.state.weight == 2_500


def test_a_change_of_the_endpoint_by_somebody_else_opens_a_segment() -> None:
    """A change of policy: the same split under a new generation, and the counts of both are evidence."""
    world = stepping()
    world.traffic((60, 0), (500, 0))
    world.look(1, generation=world.seen.generation + 1, applied=world.seen.generation + 1)
    assert [segment.weight for segment in world.state.segments] == [0, 500, 500]
    world.traffic((60, 0), (500, 0))
    world.look(61)
    assert world.state.weight == 2_500


def test_what_a_worker_does_not_have_yet_does_not_count_as_time() -> None:
    """A worker that is slow to apply the split delays the step."""
    world = World(CANARY_PLAN)
    world.workers_follow = False
    world.look()
    assert world.look(100).state.code == "split-not-applied"
    assert world.state.step_s == 0


STATES = st.sampled_from([*[READY] * 12, LOADING, FAILED])
BAD = st.sampled_from([0, 0, 0, 0, 0, 1, 40])
LOOKS = st.tuples(
    st.sampled_from([*["look"] * 14, *COMMANDS, "resume"]),
    st.sampled_from([61.0, 61.0, 61.0, 5.0, 0.0, -50.0]),
    STATES,
    STATES,
    st.sampled_from([True, True, True, False]),
    st.integers(0, 15),
    st.tuples(st.integers(60, 400), BAD, st.integers(500, 4_000), BAD),
)
PLANS = st.sampled_from(
    [
        CANARY_PLAN,
        Plan("blue-green", (Stage(10_000, hold_s=60, approve=True),), criteria=(ERRORS,), deadline_s=600.0),
        Plan("shadow", (Stage(0, 2_000, 60), Stage(1_000, 0, 60)), END, criteria=(ERRORS,)),
        Plan("ab", (Stage(5_000, hold_s=60),), WAIT, criteria=(ERRORS,), at_deadline="hold", deadline_s=600.0),
    ]
)


def survived(state: State) -> State:
    """The state after a crash, read from the store."""
    return state_from_document(json.loads(msgspec.json.encode(state)))


def follow(plan: Plan, history: Iterable[tuple[object, ...]], crashing: bool) -> list[State]:
    """The result of a history; with `crashing`, everything goes through the store between two looks, and each look is first
    made once without being stored."""
    world, moves = World(plan), []
    for name, seconds, canary, stable, follows, chance, (good, bad, others, other_bad) in history:
        world.workers_follow = bool(follows)
        world.traffic((good + bad, bad), (others + other_bad, other_bad))  # type: ignore[operator]
        applied = world.seen.generation if follows else world.seen.applied
        before = world.state
        changes = {"canary": canary, "stable": stable, "fresh": chance != 0, "breaker_open": chance == 1}
        if crashing:
            world.state = survived(before)
            world.evidence = evidence_from_document(json.loads(msgspec.json.encode(world.evidence)))
            advance(plan, world.state, world.seen, world.evidence)
        world.look(seconds, applied=applied, **changes)  # type: ignore[arg-type]
        moves.append(world.state)
        check(before, world)
        if name != "look":
            before = world.state
            world.ask(str(name))
            check(before, world)
            moves.append(world.state)
    return moves


def check(before: State, world: World) -> None:
    """The invariants of one move."""
    after, seen = world.state, world.seen
    assert after.phase in (PREPARING, STEPPING, RETURNING, PROMOTING, FINISHED)
    assert 0 <= after.step < len(world.plan.steps)
    if after.weight > before.weight or after.shadow > before.shadow:
        assert seen.canary == READY
    if after.weight < before.weight:
        assert seen.stable == READY
    assert len(after.segments) <= len(before.segments) + 1
    assert after.slow_ms == 12.5
    assert after.segments[-1].weight == after.weight
    assert after.total_s >= before.total_s
    order = (PREPARING, STEPPING, PROMOTING, RETURNING, FINISHED)
    assert order.index(after.phase) >= order.index(before.phase)
    if before.phase == FINISHED:
        assert after == before
    if after.phase == FINISHED:
        assert world.outcome == after.ends_as
        assert after.weight == (10_000 if after.ends_as == "promoted" else 0)


@settings(max_examples=100, deadline=None)
@given(PLANS, st.lists(LOOKS, max_size=30))
def test_no_history_breaks_a_law_and_a_crash_anywhere_changes_nothing(plan: Plan, history: list[tuple[object, ...]]) -> None:
    """Any observations and commands in any order, with a crash before every look or none: the same states."""
    assert follow(plan, history, crashing=True) == follow(plan, history, crashing=False)


@pytest.mark.parametrize("document", [{}, {"format": 2}, {"format": 1, "rollout": 3}])
def test_documents_of_others_are_refused(document: dict[str, object]) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match=r"unknown rollout format|not a rollout's state"):
        state_from_document(document)


def test_a_deployment_takes_over_at_the_first_look_that_finds_it_ready() -> None:
    """In one change, without a split; before that nothing is remembered. The stable need not be ready."""
    world = World(DEPLOYMENT)
    before = world.state
    assert world.look(1e6, canary=LOADING, stable=LOADING) == Advance(before)
    assert world.look(canary=READY).actions == (Finish("promoted"),)
    assert (world.state.phase, world.state.ends_as, world.splits) == (FINISHED, "promoted", [])


def test_a_deployment_ends_with_its_first_failure() -> None:
    """With the worker's code and reason; it is not loaded again."""
    world = World(DEPLOYMENT)
    assert world.look(canary=FAILED, code="proof-failed", reason="answers differ").actions == (Finish("not-started"),)
    assert (world.state.phase, world.state.code, say(world.state.why)) == (FINISHED, "proof-failed", "answers differ")


def test_a_retreat_is_a_deployment_that_keeps_its_reason() -> None:
    """It begins only if the previous version can answer at once, and never while a canary has all traffic."""
    world = World(DEPLOYMENT)
    assert retreats(None, READY)
    assert retreats(replace(world.state, weight=5_000), READY)
    assert not retreats(replace(world.state, weight=10_000), READY)
    assert not retreats(None, LOADING)
    assert not retreats(retreating(world.state, "line:2", "it crashes"), READY)
    world.state = retreating(world.state, "line:2", "it crashed 3 times")
    assert world.look(canary=READY).actions == (Finish("promoted"),)
    told = (world.state.ends_as, world.state.code, say(world.state.why))
    assert told == ("promoted", "serving-quarantined", "line:2 is in quarantine: it crashed 3 times")
