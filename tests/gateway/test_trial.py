"""The pure parts of rollouts on a gateway: draws that stay, what an outcome says, and counts that outlive their process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.contract.evidence import ArmCount, BadUnit, Excluded, PairCount
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.foundation.errors import DeadlineExceeded, InvalidInput, ModelFault, Unavailable
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.gateway import evidence
from roadworthy.gateway.metrics import executing, open_worker_metrics, read_totals
from roadworthy.gateway.split import Split, sticky_key, unit_hash
from roadworthy.gateway.trial import own_outcome
from roadworthy.runtime.run_times import BINS, WARM_UP_RUNS, RunTimes
from roadworthy.runtime.ticket import Answer, NotedAnswer
from roadworthy.schema.batch import Batch, Layout

ANSWER = Answer(Batch(Layout(()), 1, ()), 0, 1)
FAULT = ModelFault("it failed", code="model-failed")


def canary_has(unit: str, weight: int) -> bool:
    """Whether a user is the canary's at that weight, in the order of arms that snapshots have."""
    arms = Split(["stable", "canary"], [FULL_SHARE - weight, weight])
    return arms.choose(sticky_key("r", unit)) == "canary"


@given(st.text(), st.integers(0, FULL_SHARE), st.integers(0, FULL_SHARE))
def test_who_got_the_canary_keeps_it_while_its_share_grows(unit: str, one: int, other: int) -> None:
    """Thresholds only grow with the share."""
    small, large = sorted((one, other))
    assert canary_has(unit, large) or not canary_has(unit, small)


def test_each_rollout_draws_its_users_anew() -> None:
    """Else the same tenth of the users would meet every canary first."""
    arms = Split(["stable", "canary"], [5_000, 5_000])
    both = [[arms.choose(sticky_key(rollout, str(n))) for rollout in ("one", "two")] for n in range(2_000)]
    assert 850 < sum(first == second for first, second in both) < 1_150


@given(st.text(), st.text())
def test_hashes_of_users_fit_a_cell(rollout: str, unit: str) -> None:
    """And 0 stands for none."""
    assert 0 < unit_hash(rollout, unit) < 1 << 63


GOOD = {"errors": False, "invalid_outputs": False}


@pytest.mark.parametrize(
    ("outcome", "ran_us", "said"),
    [
        (ANSWER, 10, GOOD | {"slow": False}),
        (ANSWER, 101, GOOD | {"slow": True}),
        (ANSWER, -1, GOOD),
        (FAULT, 10, {"errors": True, "invalid_outputs": False}),
        (ModelFault("nan", code="non-finite-output"), 10, {"errors": True, "invalid_outputs": True}),
        (NotedAnswer(ANSWER, (), source="static", instead_of=FAULT), 10, {"errors": True, "invalid_outputs": False}),
        (NotedAnswer(ANSWER, (), source="static", instead_of=Unavailable("x", code="overloaded")), 10, "fallback"),
        (NotedAnswer(ANSWER, (), source="version", instead_of=Unavailable("x", code="circuit-open")), 10, "breaker"),
        (NotedAnswer(ANSWER, (), source="cache"), 10, "cached"),
        (Unavailable("x", code="circuit-open"), -1, "breaker"),
        (Unavailable("x", code="overloaded"), -1, "shed"),
        (Unavailable("x", code="runner-died"), -1, "shed"),
        (ModelFault("closed", code="version-closed"), -1, "shed"),
        (InvalidInput("x"), -1, "shed"),
        (DeadlineExceeded("late"), -1, "shed"),
        (DeadlineExceeded("late"), 100, "shed"),
        (DeadlineExceeded("late"), 101, {"slow": True}),
    ],
)
def test_what_an_outcome_says(outcome: object, ran_us: int, said: object) -> None:
    """The version's own doing is told from everybody else's, whatever the caller gets."""
    assert own_outcome(outcome, ran_us, 100) == said  # type: ignore[arg-type]


def test_slow_is_not_asked_where_nothing_says_what_slow_is() -> None:
    """Not for answers, and not for those that never came."""
    assert own_outcome(ANSWER, 10**9, None) == GOOD
    assert own_outcome(DeadlineExceeded("late"), 10**9, None) == "shed"


def test_run_times_begin_after_the_warm_up() -> None:
    """Each of the requests of a run counts, in the bin that its time belongs to; longer than all bounds is the last."""
    times = RunTimes()
    cells = memoryview(bytearray(8 * BINS)).cast("q")
    times.keep_in(cells, range(BINS))
    for _ in range(WARM_UP_RUNS):
        times.ran(1e-5, 1)
        assert times.last_us == -1
    for seconds, requests in ((1e-5, 3), (0.0, 1), (601.0, 2)):
        times.ran(seconds, requests)
    assert (cells[0], cells[BINS - 1], sum(cells), times.last_us) == (4, 2, 6, 601_000_000)


def count_some(path: Path, slot: int) -> None:
    """What one worker counts."""
    cells = open_worker_metrics(path, slot).evidence
    for bad in (True, False, False):
        cells.sample(("r", "3", "errors", "canary"), bad=bad)
    cells.pair(("r", "2", "slow"), canary_bad=True, stable_bad=False)
    cells.pair(("r", "2", "slow"), canary_bad=True, stable_bad=True)
    cells.pair(("r", "2", "slow"), canary_bad=False, stable_bad=True)
    cells.exclude(("r", "3", "shed", "stable"))
    for unit in (7, 8, 7):
        cells.unit(("r", "3", "errors", "canary"), unit)
    cells.unit(("r", "4", "errors", "canary"), 8)


def test_counts_of_all_workers_and_their_predecessors_add_up(tmp_path: Path) -> None:
    """A worker that takes a slot over goes on from what is there; a user is noted once a signal, in the first generation."""
    create_slab(tmp_path / "slab", 3)
    for slot in (0, 1, 0):
        count_some(tmp_path / "slab", slot)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert counts.arms == (ArmCount(3, "errors", "canary", 9, 3),)
    assert counts.pairs == (PairCount(2, "slow", 9, 3, 3),)
    assert counts.excluded == (Excluded(3, "stable", "shed", 3),)
    assert counts.units == tuple(BadUnit(3, "errors", "canary", f"{unit:016x}") for unit in (7, 8))
    assert not counts.overflow


def test_more_users_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that fit are kept, the rest is told; a successor finds the same."""
    monkeypatch.setattr(evidence, "MOST_UNIT_RUNS", 2)
    create_slab(tmp_path / "slab", 2)
    for _ in range(2):
        cells = open_worker_metrics(tmp_path / "slab", 0).evidence
        for unit in range(1, 122):
            cells.unit(("r", "3", "errors", "canary"), unit)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert (len(counts.units), counts.overflow) == (120, True)


def test_rollouts_that_are_over_make_room(tmp_path: Path) -> None:
    """Hundreds of them find room, and one that goes on loses nothing; nothing overflows."""
    create_slab(tmp_path / "slab", 2, names=600, cells=8_000)
    metrics = open_worker_metrics(tmp_path / "slab", 0)
    metrics.evidence.sample(("stays", "1", "errors", "canary"), bad=True)
    times = RunTimes()
    times.warming = 0
    for number in range(300):
        name = f"r{number}"
        metrics.evidence.keep(["stays", name])
        digest = f"sha256:{number:064x}"
        metrics.bind("e", number, f"m:{number}", digest)
        metrics.time_runs(digest, times)
        times.ran(0.001, 1)
        for signal in ("errors", "slow"):
            metrics.evidence.sample((name, str(number), signal, "canary"), bad=False)
            metrics.evidence.unit((name, str(number), signal, "canary"), (1 << 63) - 1 - number)
    metrics.evidence.sample(("stays", "1", "errors", "canary"), bad=True)
    totals = read_totals(SlabReader(tmp_path / "slab"))
    assert totals.slots[0].overflows == 0
    assert totals.evidence.counts("stays").arms == (ArmCount(1, "errors", "canary", 2, 2),)
    assert totals.evidence.counts("r299").arms[0] == ArmCount(299, "errors", "canary", 1, 0)
    assert totals.evidence.counts("r299").units[0].unit == f"{(1 << 63) - 300:016x}"
    assert sum(totals.run_times[f"sha256:{299:064x}"]) == 1
    assert "r3" not in totals.evidence.rollouts()


def test_a_worker_that_died_of_a_copy_names_the_version() -> None:
    """Copies are in no endpoint's count, but in flight."""
    assert executing({"shadowing\x1fabc": 1, "shadowing\x1fdef": 0}) == {"sha256:abc"}
