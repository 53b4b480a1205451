"""The pure parts of rollouts on a gateway: stable assignments, the evidence in an outcome, and counts that outlive their
process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.contract.evidence import (
    CONFIDENCE,
    COUNTERS,
    DRAWN,
    FAILED,
    OUTPUT_BINS,
    BadUnit,
    BinCount,
    Excluded,
    MetricCount,
    PairCount,
    VariantCount,
)
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import FULL_SHARE, EndpointEntry, RolloutEntry, VariantEntry, WatchedOutput
from roadworthy.foundation.errors import DeadlineExceeded, InputRefused, InvalidInput, ModelFault, Unavailable
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.runtime.layers.layer import layer_failed
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.runtime.queue.run_times import BINS, WARM_UP_RUNS, RunTimes
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from roadworthy.serving.metrics import executing, open_worker_metrics, read_totals
from roadworthy.serving.rollout import counters as evidence
from roadworthy.serving.rollout import judging
from roadworthy.serving.rollout import outputs as watched
from roadworthy.serving.rollout.assignment import ATTEMPT_HEADER, RolloutAssignment
from roadworthy.serving.rollout.counters import EvidenceCells
from roadworthy.serving.rollout.judging import RolloutCounters, seen_of
from roadworthy.serving.rollout.outputs import OutputCounters
from roadworthy.serving.split import Split, sticky_key, unit_hash
from roadworthy.signals.discovery import signal_named
from roadworthy.signals.signal import (
    BinJudge,
    BinSignal,
    Judge,
    OutcomeSignal,
    PairJudge,
    PairSignal,
    Seen,
    Use,
)
from tests.runtime.test_parts import Source

ANSWER = Answer(Batch(Layout(()), 1, ()), 0, 1)
FAULT = ModelFault("it failed", code="model-failed")


def canary_has(unit: str, weight: int) -> bool:
    """Whether a user is assigned to the canary at that weight, with the variants in a snapshot's order."""
    split = Split(["stable", "canary"], [FULL_SHARE - weight, weight])
    return split.choose(sticky_key("r", unit)) == "canary"


@given(st.text(), st.integers(0, FULL_SHARE), st.integers(0, FULL_SHARE))
def test_who_got_the_canary_keeps_it_while_its_share_grows(unit: str, one: int, other: int) -> None:
    """The threshold only grows with the share."""
    small, large = sorted((one, other))
    assert canary_has(unit, large) or not canary_has(unit, small)


def test_each_rollout_assigns_its_users_anew() -> None:
    """Otherwise the same tenth of the users would get every canary first."""
    split = Split(["stable", "canary"], [5_000, 5_000])
    both = [[split.choose(sticky_key(rollout, str(n))) for rollout in ("one", "two")] for n in range(2_000)]
    assert 850 < sum(first == second for first, second in both) < 1_150


@given(st.text(), st.text())
def test_hashes_of_users_fit_a_cell(rollout: str, unit: str) -> None:
    """0 means no user."""
    assert 0 < unit_hash(rollout, unit) < 1 << 63


GOOD = {"errors": False, "invalid_outputs": False}


def counting(
    tmp_path: Path, slow_us: int | None, *signals: str, parameters: dict[str, dict[str, Any]] | None = None
) -> RolloutCounters:
    """A worker's counters of these signals; without any, of the default criteria."""
    create_slab(tmp_path / "slab", 2)
    cells = open_worker_metrics(tmp_path / "slab", 0).evidence
    asked = signals or ("errors", "invalid_outputs", "slow")
    rollout = RolloutEntry("r", "s", "c", slow_us=slow_us, signals=asked, parameters=parameters or {})
    return RolloutCounters(cells, rollout, 3, Signature((), ANSWERED))


def evidence_of(counters: RolloutCounters, outcome: Outcome, ran_us: int, inputs: Batch | None = None) -> Any:
    """The evidence in an outcome."""
    return counters.evidence(outcome, seen_of(outcome, ran_us, inputs))


@pytest.mark.parametrize(
    ("outcome", "ran_us", "said"),
    [
        (ANSWER, 10, GOOD | {"slow": False}),
        (ANSWER, 101, GOOD | {"slow": True}),
        (ANSWER, -1, GOOD),
        (FAULT, 10, {"errors": True, "invalid_outputs": False}),
        (layer_failed("limits"), 10, {"errors": True, "invalid_outputs": False}),
        (
            ANSWER.noted((), source="static", instead_of=layer_failed("x")),
            10,
            {"errors": True, "invalid_outputs": False},
        ),
        (Unavailable("x", code="layer-quota"), 10, "shed"),
        (ModelFault("nan", code="non-finite-output"), 10, {"errors": True, "invalid_outputs": True}),
        (ANSWER.noted((), source="static", instead_of=FAULT), 10, {"errors": True, "invalid_outputs": False}),
        (ANSWER.noted((), source="static", instead_of=Unavailable("x", code="overloaded")), 10, "fallback"),
        (ANSWER.noted((), source="version", instead_of=Unavailable("x", code="circuit-open")), 10, "breaker"),
        (ANSWER.noted((), source="cache"), 10, "cached"),
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
def test_what_an_outcome_says(tmp_path: Path, outcome: object, ran_us: int, said: object) -> None:
    """Failures of the version itself are distinguished from all others, whatever the caller gets."""
    assert evidence_of(counting(tmp_path, 100), outcome, ran_us) == said  # type: ignore[arg-type]


def test_slow_is_not_asked_where_nothing_says_what_slow_is(tmp_path: Path) -> None:
    """Neither for answers nor for runs that never ended; nor where the plan does not ask."""
    unknown = counting(tmp_path, None)
    assert evidence_of(unknown, ANSWER, 10**9) == GOOD
    assert evidence_of(unknown, DeadlineExceeded("late"), 10**9) == "shed"
    (tmp_path / "slab").unlink()
    other = counting(tmp_path, 100, "errors", "drift", "unknown_here")
    assert evidence_of(other, ANSWER, 10**9) == {"errors": False}
    assert evidence_of(other, DeadlineExceeded("late"), 10**9) == "shed"
    assert not other.failed


def test_run_times_begin_after_the_warm_up() -> None:
    """Each request of a run counts, in the bin of its time; a time above all bounds counts in the last bin."""
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
    """The counts of one worker."""
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
    """A worker that takes over a slot continues its counts; a user is stored once per signal, in the first generation."""
    create_slab(tmp_path / "slab", 3)
    for slot in (0, 1, 0):
        count_some(tmp_path / "slab", slot)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert counts.variants == (VariantCount(3, "errors", "canary", 9, 3),)
    assert counts.pairs == (PairCount(2, "slow", 9, 3, 3),)
    assert counts.excluded == (Excluded(3, "stable", "shed", 3),)
    assert counts.units == tuple(BadUnit(3, "errors", "canary", f"{unit:016x}") for unit in (7, 8))
    assert not counts.overflow


def test_watched_answers_add_up_over_workers(tmp_path: Path) -> None:
    """Sums are sent as such, not in millionths; a total read in the middle of a count is trimmed to a possible one."""
    create_slab(tmp_path / "slab", 3)
    for slot in (0, 1, 0):
        cells = open_worker_metrics(tmp_path / "slab", slot).evidence
        cells.value(("r", "3", CONFIDENCE, "canary"), 0.25)
        cells.value(("r", "3", CONFIDENCE, "canary"), 1.0)
        cells.bin(("r", "3", "0", "canary"), 4)
        cells.bin(("r", "3", "0", "canary"), OUTPUT_BINS - 1)
    totals = read_totals(SlabReader(tmp_path / "slab")).evidence
    counts = totals.counts("r")
    assert counts.metrics == (MetricCount(3, CONFIDENCE, "canary", 6, 3.75),)
    assert counts.bins == (BinCount(3, 0, "canary", tuple(3 if n in (4, OUTPUT_BINS - 1) else 0 for n in range(OUTPUT_BINS))),)
    totals.values["r", "3", CONFIDENCE, "canary"] = [2, 2_500_000]
    assert totals.counts("r").metrics[0].total == 2.0


def watching(tmp_path: Path, *outputs: WatchedOutput, probabilities: str | None = None) -> tuple[OutputCounters, EvidenceCells]:
    """A worker's output counters for answers with a label, a price and probabilities, and its cells."""
    create_slab(tmp_path / "slab", 2)
    cells = open_worker_metrics(tmp_path / "slab", 0).evidence
    rollout = RolloutEntry("r", "s", "c", outputs=outputs, probabilities=probabilities)
    return OutputCounters(cells, rollout, 3, Signature((), ANSWERED)), cells


ANSWERED = (
    Field("label", DType.STRING, nullable=True),
    Field("price", DType.FLOAT64, nullable=True),
    Field("probabilities", DType.FLOAT32, (3,)),
)
LABELS = WatchedOutput("label", categories=("a", "b"))
PRICES = WatchedOutput("price", edges=(0.0, 10.0))


def answer(*rows: tuple[str | None, float | None, list[float]]) -> Answer:
    """One with these rows, among others of the same run."""
    rows = (("x", -1.0, [1, 0, 0]), *rows, ("x", -1.0, [1, 0, 0]))
    nulls = np.array([[row[place] is None for place in (0, 1)] for row in rows])
    columns = [
        (np.array([row[0] or "" for row in rows], dtype=object), nulls[:, 0]),
        (np.array([row[1] or 0.0 for row in rows]), nulls[:, 1]),
        (np.array([row[2] for row in rows], dtype=np.float32), None),
    ]
    return Answer(Batch.from_columns(Layout(ANSWERED), columns, len(rows)), 1, len(rows) - 1)


def seen(tmp_path: Path) -> dict[tuple[int, str], dict[int, int]]:
    """The bins that are not empty, by output and variant."""
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    return {(each.output, each.variant): {n: cell for n, cell in enumerate(each.cells) if cell} for each in counts.bins}


def test_answers_are_counted_in_bins(tmp_path: Path) -> None:
    """Labels by class, the rest together; numbers by edges; nulls in a bin of their own. Of several rows one counts."""
    watch, _ = watching(tmp_path, LABELS, PRICES)
    for label, price in (("a", 5.0), ("b", -0.5), ("c", 10.0), (None, None), ("a", 0.0)):
        watch.answered("canary", answer((label, price, [1, 0, 0])), None)
    watch.answered("stable", answer(("b", 5.0, [1, 0, 0]), ("b", 6.0, [1, 0, 0]), ("b", 7.0, [1, 0, 0])), None)
    watch.answered("stable", answer(), None)
    last = OUTPUT_BINS - 1
    assert seen(tmp_path) == {
        (0, "canary"): {0: 2, 1: 1, 2: 1, last: 1},
        (1, "canary"): {0: 1, 1: 2, 2: 1, last: 1},
        (0, "stable"): {1: 1},
        (1, "stable"): {1: 1},
    }


def test_each_row_has_its_turn_and_both_versions_the_same_one(tmp_path: Path) -> None:
    """Regardless of the variant; otherwise one version could be counted by first rows and the other by last rows."""
    watch, _ = watching(tmp_path, LABELS)
    two = answer(("a", 1.0, [1, 0, 0]), ("b", 1.0, [1, 0, 0]))
    for _ in range(10):
        watch.both_answered(two, two)
    assert seen(tmp_path) == {(0, "stable"): {0: 5, 1: 5}, (0, "canary"): {0: 5, 1: 5}}


def test_how_sure_an_answer_is(tmp_path: Path) -> None:
    """The mean of its rows' largest probability; one number for each answer, 0 to 1 whatever rounding did."""
    watch, _ = watching(tmp_path, probabilities="probabilities")
    watch.answered("canary", answer(("a", 1.0, [0.5, 0.25, 0.25])), None)
    watch.answered("canary", answer(("a", 1.0, [0.5, 0.25, 0.25]), ("a", 1.0, [0.0, 1.0, 0.0])), None)
    watch.answered("stable", answer(("a", 1.0, [1.5, 0.0, 0.0])), None)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert counts.metrics == (
        MetricCount(3, CONFIDENCE, "canary", 2, 1.25),
        MetricCount(3, CONFIDENCE, "stable", 1, 1.0),
    )


def test_a_sticky_user_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per variant and generation; users beyond the worker's memory do not count."""
    monkeypatch.setattr(watched, "MOST_SEEN", 3)
    watch, cells = watching(tmp_path, LABELS)
    one = answer(("a", 1.0, [1, 0, 0]))
    for variant, unit in (("stable", 1), ("stable", 1), ("canary", 1), ("stable", 2), ("stable", 3)):
        watch.answered(variant, one, unit)
    assert seen(tmp_path) == {(0, "stable"): {0: 2}, (0, "canary"): {0: 1}}
    assert cells_of_metrics(tmp_path) == ()
    later = OutputCounters(cells, RolloutEntry("r", "s", "c", outputs=(LABELS,)), 4, Signature((), ANSWERED))
    later.answered("stable", one, 1)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert [(each.generation, sum(each.cells)) for each in counts.bins if each.variant == "stable"] == [(3, 2), (4, 1)]


def cells_of_metrics(tmp_path: Path) -> tuple[MetricCount, ...]:
    """The metrics of the rollout."""
    return read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r").metrics


def test_each_worker_that_counts_users_is_counted(tmp_path: Path) -> None:
    """Per generation, and a replacement again: a user may be in the counts that many times."""
    create_slab(tmp_path / "slab", 3)
    rollout = RolloutEntry("r", "s", "c", outputs=(LABELS,), sticky_header="X-User")
    for slot in (0, 1, 0):
        OutputCounters(open_worker_metrics(tmp_path / "slab", slot).evidence, rollout, 3, Signature((), ANSWERED))
    assert cells_of_metrics(tmp_path) == (MetricCount(3, COUNTERS, "stable", 3, 0.0),)


def test_more_users_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that fit are stored, and the overflow is reported; a successor finds the same."""
    monkeypatch.setattr(evidence, "MOST_UNIT_RUNS", 2)
    create_slab(tmp_path / "slab", 2)
    for _ in range(2):
        cells = open_worker_metrics(tmp_path / "slab", 0).evidence
        for unit in range(1, 122):
            cells.unit(("r", "3", "errors", "canary"), unit)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert (len(counts.units), counts.overflow) == (120, True)


def test_rollouts_that_are_over_make_room(tmp_path: Path) -> None:
    """Hundreds of them find room, a running one loses nothing, and nothing overflows."""
    create_slab(tmp_path / "slab", 2, names=600, cells=8_000)
    metrics = open_worker_metrics(tmp_path / "slab", 0)
    metrics.evidence.sample(("stays", "1", "errors", "canary"), bad=True)
    times = RunTimes()
    times.warming = 0
    for number in range(300):
        name = f"r{number}"
        metrics.evidence.keep(["stays", name])
        metrics.evidence.value((name, str(number), CONFIDENCE, "canary"), 0.5)
        metrics.evidence.bin((name, str(number), "0", "canary"), 7)
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
    assert totals.evidence.counts("stays").variants == (VariantCount(1, "errors", "canary", 2, 2),)
    assert totals.evidence.counts("r299").variants[0] == VariantCount(299, "errors", "canary", 1, 0)
    assert totals.evidence.counts("r299").units[0].unit == f"{(1 << 63) - 300:016x}"
    assert sum(totals.run_times[f"sha256:{299:064x}"]) == 1
    assert totals.evidence.counts("r299").metrics[0] == MetricCount(299, CONFIDENCE, "canary", 1, 0.5)
    assert totals.evidence.counts("r299").bins[0].cells[7] == sum(totals.evidence.counts("r299").bins[0].cells) == 1
    assert "r3" not in totals.evidence.rollouts()


def test_a_worker_that_died_of_a_copy_names_the_version() -> None:
    """Copies count for no endpoint, but are in flight."""
    assert executing({"shadowing\x1fabc": 1, "shadowing\x1fdef": 0}) == {"sha256:abc"}


class Odd(OutcomeSignal):
    """An answer with a price over the plan's. Of a request without rows it raises an error."""

    name = "odd"
    needs_inputs = True

    def bind(self, use: Use) -> Judge:
        """The plan says which price."""
        most = use.parameters["most"]

        def judge(seen: Seen) -> bool | None:
            if seen.outputs is None or seen.inputs is None:
                return None
            return bool(1 % seen.inputs.rows == 0 and seen.outputs.column("price")[0].max() > most)

        return judge


class Rows(BinSignal):
    """How many rows an answer has; more than one is a fault of the signal."""

    name = "rows"
    bins = ("none", "one")

    def bind(self, use: Use) -> BinJudge:
        """Works everywhere."""
        return lambda outputs: outputs.rows if outputs.rows < 2 else 99


class Unbound(PairSignal):
    """Cannot be measured anywhere."""

    name = "unbound"

    def bind(self, use: Use) -> PairJudge:
        """Says so."""
        raise ValueError("there is nothing to measure")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three signals above, as if a plug-in had them."""
    known = {"odd": Odd(), "rows": Rows(), "unbound": Unbound()}
    monkeypatch.setattr(judging, "signal_named", lambda name: known.get(name) or signal_named(name))


@pytest.mark.usefixtures("planted")
def test_a_signal_of_a_plug_in_counts_like_ours(tmp_path: Path) -> None:
    """With the plan's parameters, the request's rows, and the hash of the user."""
    counters = counting(tmp_path, None, "errors", "odd", "custom.own", parameters={"odd": {"most": 5.0}})
    assert counters.needs_inputs
    for price, unit in ((1.0, 7), (9.0, 7), (9.0, 8)):
        said = evidence_of(counters, answer(("a", price, [1, 0, 0])), 10, ANSWER.joined)
        assert said == {"errors": False, "odd": price > 5.0, "custom.own": False}
        counters.judged("canary", said, unit)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert [(each.signal, each.samples, each.bad) for each in counts.variants] == [
        ("custom.own", 3, 0),
        ("errors", 3, 0),
        ("odd", 3, 2),
    ]
    assert {each.unit for each in counts.units if each.signal == "odd"} == {f"{unit:016x}" for unit in (7, 8)}
    assert evidence_of(counters, FAULT, 10, ANSWER.joined) == {"errors": True, "custom.own": False}
    counters.paired({"errors": False, "odd": True, "custom.own": False}, {"errors": False, "odd": False, "custom.own": False})
    pairs = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r").pairs
    assert pairs == (PairCount(3, "errors", 1, 0), PairCount(3, "odd", 1, 1))


@pytest.mark.usefixtures("planted")
def test_a_signal_that_raises_counts_no_more(tmp_path: Path) -> None:
    """The others go on, and the caller's answer is not touched; the failure is counted for the rollout."""
    counters = counting(tmp_path, None, "odd", "errors", "rows", "unbound", parameters={"odd": {"most": 5.0}})
    assert counters.failed == {"unbound"}
    none = Batch(Layout(()), 0, ())
    assert evidence_of(counters, answer(("a", 9.0, [1, 0, 0])), 10, none) == {"errors": False}
    assert evidence_of(counters, answer(("a", 9.0, [1, 0, 0])), 10, ANSWER.joined) == {"errors": False}
    for rows in (1, 0, 2, 1):
        counters.answered("canary", answer(*[("a", 9.0, [1.0, 0, 0])] * rows), None)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    (sorted_,) = counts.bins
    assert (sorted_.output, sorted_.signal, sorted_.cells[:3]) == (0, "rows", (0, 1, 0))
    assert counters.failed == {"unbound", "odd", "rows"}
    told = {each.signal: each.samples for each in counts.variants if each.signal.startswith(FAILED)}
    assert told == {f"{FAILED}{name}": 1 for name in counters.failed}
    assert Evidence().merged("g", counts).failed == counters.failed


@pytest.mark.usefixtures("planted")
def test_a_comparison_that_raises_counts_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other signals still compare both answers."""

    def differ(_signal: Unbound, _use: Use) -> PairJudge:
        return lambda served, copied: bool(served.column("price")[0][0] / copied.rows > 5.0)

    monkeypatch.setattr(Unbound, "bind", differ)
    counters = counting(tmp_path, None, "unbound", "disagreement")
    one = answer(("a", 9.0, [1, 0, 0]))
    for copied in (one, Answer(one.joined, 1, 1), one):
        counters.both_answered(one, copied)
    pairs = {each.signal: each for each in read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r").pairs}
    assert (pairs["unbound"].pairs, pairs["unbound"].canary_bad, pairs["disagreement"].pairs) == (1, 1, 3)
    assert counters.failed == {"unbound"}


def test_events_of_a_request_count_beside_its_sample(tmp_path: Path) -> None:
    """Those that the plan asks for, with the request's user."""
    counters = counting(tmp_path, None, "errors", "guard_hits", "custom.refund")
    for signal, unit in (("guard_hits", 7), ("guard_hits", None), ("custom.other", 7)):
        counters.judged("canary", {"errors": False, signal: False} if signal == "guard_hits" else {"errors": False}, unit)
        counters.event(signal, "canary", unit)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert counts.variants == (VariantCount(3, "errors", "canary", 3, 0), VariantCount(3, "guard_hits", "canary", 2, 2))
    assert counts.units == (BadUnit(3, "guard_hits", "canary", f"{7:016x}"),)


USERS = Layout((Field("user", DType.INT64, nullable=True), Field("name", DType.STRING)))


def users(*numbers: int | None) -> Batch:
    """A request of these users; the name of each is that of the first."""
    nulls = np.array([number is None for number in numbers], dtype=bool)
    values = np.array([number or 0 for number in numbers], dtype=np.int64)
    return Batch.from_columns(USERS, [(values, nulls), (np.array(["Ann"] * len(numbers), dtype=object), None)], len(numbers))


@pytest.mark.parametrize(
    ("sticky", "headers", "batch", "user"),
    [
        ({"sticky_field": "user"}, {}, users(7, 8), "7"),
        ({"sticky_field": "name"}, {}, users(7), "Ann"),
        ({"sticky_field": "user"}, {}, users(None, 8), None),
        ({"sticky_field": "user"}, {}, users(), None),
        ({"sticky_field": "gone"}, {}, users(7), None),
        ({"sticky_header": "X-User"}, {b"x-user": b"Ann"}, users(7), "Ann"),
        ({"sticky_header": "X-User"}, {b"x-user": b""}, users(7), None),
        ({"sticky_header": "X-User"}, {}, users(7), None),
    ],
    ids=["number", "text", "null", "no rows", "no such field", "header", "empty header", "no header"],
)
def test_a_sticky_user_is_found_in_the_request(
    tmp_path: Path, sticky: dict[str, str], headers: dict[bytes, bytes], batch: Batch, user: str | None
) -> None:
    """In the first row or a header. A request without a user is a user of its own."""
    rollout = RolloutEntry("r", "s", "c", signals=("errors",), **sticky)  # type: ignore[arg-type]  # texts
    assigned = assigner(tmp_path, rollout).assign(PendingRequest(0.0, ""), headers, "p-1", batch)[1]
    assert assigned.unit == unit_hash("r", "p-1" if user is None else f"={user}")


def test_a_repeated_attempt_is_answered_and_gives_no_evidence(tmp_path: Path) -> None:
    """A proxy numbers the attempts: what failed once would be counted again."""
    assigning = assigner(tmp_path, RolloutEntry("r", "s", "c", signals=("errors",)))
    for attempt in (b"1", b"2", b"3"):
        request = Told(0.0, "")
        _, assigned = assigning.assign(request, {ATTEMPT_HEADER: attempt}, "p-1", users(7))
        assigned.settle(ANSWER)
        assert request.outcome is ANSWER
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert {each.signal: each.samples for each in counts.variants} == {DRAWN: 1, "errors": 1}
    assert [(each.reason, each.count) for each in counts.excluded] == [("retried", 2)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, {"errors": 0, "slow": 1}),
        (FAULT, {"errors": 1}),
        (InputRefused("too large"), {"errors": 1}),
        (DeadlineExceeded("the next part did not come", code="part-too-late"), {"errors": 1}),
        (Unavailable("x", code="runner-died"), "shed"),
        (ModelFault("closed", code="version-closed"), "shed"),
        ("given up", {"slow": 1}),
        ("given up in the warm-up", "shed"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_what_the_end_of_an_answer_in_parts_says(tmp_path: Path, error: Any, said: Any) -> None:
    """It is counted once, at its end, as an answer at once. A deadline among its errors is the version's fault. Of an answer that
    its caller gave up only the first part is known: the version may have stalled after it."""
    assigning = assigner(tmp_path, RolloutEntry("r", "s", "c", signals=("errors", "slow"), slow_us=5))
    request, rest = Told(0.0, ""), Parts(Source())
    variant, assigned = assigning.assign(request, {}, "p-1", users(7))
    variant.version.batcher.times.last_us = -1 if error == "given up in the warm-up" else 10
    assigned.settle(Answer(ANSWER.joined, 0, 1, rest=rest))
    assert request.outcome is not None
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    assert [each.signal for each in counts.variants] == [DRAWN]
    if isinstance(error, str):
        rest.stop()
    else:
        rest.end(error)
    counts = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")
    counted = {each.signal: each.bad for each in counts.variants if each.signal != DRAWN}
    assert counted == ({} if said == "shed" else said)
    assert [(each.reason, each.count) for each in counts.excluded] == ([("shed", 1)] if said == "shed" else [])


class Told(PendingRequest):
    """Remembers its outcome."""

    outcome: Outcome | None = None

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        self.outcome = outcome


def assigner(tmp_path: Path, rollout: RolloutEntry) -> RolloutAssignment:
    """The assignment of an endpoint whose canary gets every request."""
    create_slab(tmp_path / "slab", 2)
    cells = open_worker_metrics(tmp_path / "slab", 0).evidence
    entry = EndpointEntry("e", 3, (VariantEntry("s", 0), VariantEntry("c", FULL_SHARE)), {}, Policy(), rollout)
    version = SimpleNamespace(digest="c", batcher=SimpleNamespace(times=RunTimes()))
    variants: Any = [SimpleNamespace(version=SimpleNamespace(digest="s")), SimpleNamespace(version=version)]
    return RolloutAssignment(entry, rollout, variants, RolloutCounters(cells, rollout, 3, Signature((), ANSWERED)), None)


@pytest.mark.usefixtures("planted")
def test_a_bin_that_a_signal_does_not_have_is_an_error_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last bin counts; the next number would mean nothing at the control plane, although there are cells for it."""
    monkeypatch.setattr(Rows, "bind", lambda _signal, _use: lambda rows: rows.rows)
    counters = counting(tmp_path, None, "rows")
    last = len(Rows.bins) - 1
    for rows in (last, last + 1, last):
        counters.answered("canary", answer(*[("a", 9.0, [1.0, 0, 0])] * rows), None)
    (counted,) = read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r").bins
    assert {place: number for place, number in enumerate(counted.cells) if number} == {last: 1}
    assert counters.failed == {"rows"}
