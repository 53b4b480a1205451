"""The cells of an embedded endpoint are counted like a worker's, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roadworthy.agent.metrics.exposition import AgentFacts, GatewayCollector, render
from roadworthy.agent.sync.shipping import Frames, GatewayState, count_requests
from roadworthy.contract.evidence import MOST
from roadworthy.contract.telemetry import decode_telemetry, encode_telemetry
from roadworthy.foundation.clock import SystemClock
from roadworthy.foundation.slab import COUNTER, EMBEDDED, GAUGE, SILENT_NS, SlabReader, SlotWriter, create_slab
from roadworthy.serving.histogram import WIDTH
from roadworthy.serving.metrics import MEMBER_RUNS, open_member_metrics, open_worker_metrics, read_totals

DIGEST = "sha256:" + "a" * 64
VERSION = ("credit", "2", "credit:1", "a" * 64)


class NoWorkers:
    """A registry without workers."""

    def reports(self) -> list[Any]:
        """None."""
        return []


@pytest.fixture
def slab(tmp_path: Path) -> Path:
    """One worker, one spare slot, two members, the agent."""
    create_slab(tmp_path / "slab", 5, members=2)
    return tmp_path / "slab"


def scrape(slab: Path) -> str:
    """The text of a scrape by an agent that serves the endpoint "credit"."""
    reader = SlabReader(slab)
    return render(GatewayCollector(lambda: read_totals(reader, {"credit"}), lambda: AgentFacts(None, (), None, 0))).decode()


def test_a_members_requests_are_added_to_the_workers(slab: Path) -> None:
    """Sums cover both; the member is no worker."""
    for slot in (0, 2):
        metrics = open_worker_metrics(slab, slot)
        metrics.bind("credit", 2, "credit:1", DIGEST).observe("ok", 0.001, 3)
        metrics.refused("credit", "overloaded")
        metrics.lost_records(4)
        metrics.evidence.sample(("r", "2", "errors", "canary"), bad=True)
        metrics.state(EMBEDDED)
    text = scrape(slab)
    assert 'roadworthy_requests_total{code="ok",endpoint="credit",version="credit:1"} 2.0' in text
    assert 'roadworthy_refused_total{code="overloaded",endpoint="credit"} 2.0' in text
    assert "roadworthy_records_lost_total 8.0" in text
    assert "roadworthy_embedded_processes 1.0" in text
    assert "roadworthy_worker_starts_total 1.0" in text
    totals = read_totals(SlabReader(slab), {"credit"})
    assert totals.evidence.variants["r", "2", "errors", "canary"] == [2, 2]
    assert {each.count for each in count_requests(totals)} == {2}


def test_other_endpoints_are_not_counted(slab: Path) -> None:
    """A member makes no series for a name of its own."""
    metrics = open_worker_metrics(slab, 2)
    metrics.bind("made-up", 2, "credit:1", DIGEST).observe("ok", 0.001, 3)
    metrics.refused("made-up", "overloaded")
    assert "made-up" not in scrape(slab)


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        (("requests", "credit", "x", "credit:1", "a" * 64, "ok"), COUNTER, [1]),
        (("requests", "credit", "²", "credit:1", "a" * 64, "ok"), COUNTER, [1]),
        (("requests", "credit", "2"), COUNTER, [1]),
        (("requests", *VERSION, "o\nk"), COUNTER, [1]),
        (("requests", *VERSION, "o" * 65), COUNTER, [1]),
        (("requests", "credit", "2", "credit:1", "a" * 65, "ok"), COUNTER, [1]),
        (("requests", *VERSION, "ok"), COUNTER, [-1]),
        (("requests", *VERSION, "ok"), COUNTER, [MOST + 1]),
        (("requests", *VERSION, "ok"), GAUGE, [1]),
        (("latency", *VERSION), COUNTER, [1] * (WIDTH - 1)),
        (("run-times", "a" * 64, "100000"), COUNTER, [1] * 48),
        (("run-times", "a" * 65, "0"), COUNTER, [1] * 48),
        (("evidence", "r" * 65, "2", "errors", "canary"), COUNTER, [1, 1]),
        (("bins", "r", "2", "9" * 18, "canary"), COUNTER, [1] * 32),
        (("evidence", "r", "2", "a/b", "canary"), COUNTER, [1, 1]),
        (("excluded", "r", "2", "tired", "canary"), COUNTER, [1]),
        (("refused", "credit", "c" * 65), COUNTER, [1]),
        (("evidence", "r", "2", "errors", "neither"), COUNTER, [1, 1]),
        (("units", "r", "2", "errors", "canary"), COUNTER, [1] * 60),
        (("breaker", "credit", "0"), COUNTER, [1] * 64),
        (("shadowing",), GAUGE, [1]),
        (("of-another-release",), COUNTER, [1]),
    ],
)
def test_what_no_worker_writes_is_left_out(slab: Path, name: tuple[str, ...], kind: int, values: list[int]) -> None:
    """It stops neither a scrape nor a frame, and other cells are counted."""
    writer = SlotWriter(slab, 3)
    writer.take()
    first = writer.place("\x1f".join(name), kind=kind, width=len(values))
    for place, value in enumerate(values, first):
        writer.values[place] = value
    open_worker_metrics(slab, 2).refused("credit", "overloaded")
    totals = read_totals(SlabReader(slab), {"credit"})
    assert totals.requests == totals.run_times == totals.breakers == totals.latency == {}
    assert totals.evidence.rollouts() == set()
    assert totals.refused == {("credit", "overloaded"): 1}


def test_sums_fit_a_frame(slab: Path) -> None:
    """However much members have counted."""
    create_slab(slab, 24, members=20)
    names = {
        ("requests", *VERSION, "ok"): 1,
        ("records-lost",): 1,
        ("run-times", "a" * 64, "0"): 48,
        ("evidence", "r", "2", "errors", "canary"): 2,
        ("excluded", "r", "2", "shed", "canary"): 1,
        ("canary-crashes", "r"): 1,
    }
    for slot in SlabReader(slab).members:
        writer = SlotWriter(slab, slot)
        writer.take()
        for labels, width in names.items():
            first = writer.place("\x1f".join(labels), width=width)
            for cell in range(first, first + width):
                writer.values[cell] = 1 << 50
    frames = Frames(
        ("g", "b"), SlotWriter(slab, 23), lambda: read_totals(SlabReader(slab), {"credit"}), SystemClock(), GatewayState
    )
    frame = decode_telemetry(encode_telemetry(frames.make(NoWorkers(), ())))
    assert frame.counts[0].count == frame.lost_records == frame.run_times[0].counts[0] == MOST
    (rollout,) = frame.rollouts
    assert rollout.variants[0].samples == rollout.excluded[0].count == rollout.crashes == MOST


def test_what_another_application_left_does_not_stop_a_member(slab: Path) -> None:
    """Names that no worker gives, a full slot, and counts near the largest number of a cell."""
    left = SlotWriter(slab, 2)
    left.take()
    left.values[left.place("\x1f".join(("requests", *VERSION, "ok")))] = 3
    for name in ("requests", "run-times", "units\x1fr", "probes", "units\x1fr\x1f2\x1ferrors\x1fcanary\x1fx"):
        left.place(name, width=60)
    for number in range(4_200):
        left.values[left.place("\x1f".join(("requests", "credit", str(1_000 + number), "credit:1", "a" * 64, "ok")))] = (
            1 << 63
        ) - 1
    metrics = open_member_metrics(slab, 2)
    metrics.bind("credit", 2, "credit:1", DIGEST).observe("ok", 0.001, 3)
    for generation in range(3, 153):
        metrics.bind("credit", generation, "credit:1", DIGEST).observe("ok", 0.001, 3)
        metrics.evidence.unit(("r", "2", "errors", "canary"), generation)
    totals = read_totals(SlabReader(slab), {"credit"})
    assert sum(totals.requests.values()) == 154
    assert sum(totals.rows.values()) == 151 * 3
    assert len(SlotWriter(slab, 2).names()) < MEMBER_RUNS


def test_what_a_silent_member_has_in_flight_is_not_lost_yet(slab: Path) -> None:
    """It may be stopped for a while; else a count would step back when it goes on."""
    metrics, writer = open_member_metrics(slab, 2), SlotWriter(slab, 2)
    metrics.bind("credit", 2, "credit:1", DIGEST).in_flight.add(1)
    writer._words[3] -= SILENT_NS
    totals = read_totals(SlabReader(slab), {"credit"})
    assert (sum(totals.in_flight.values()), sum(totals.lost.values())) == (0, 0)
    writer._words[0] = 1 << 40
    assert sum(read_totals(SlabReader(slab), {"credit"}).lost.values()) == 1


def test_runs_of_a_member_are_bounded(slab: Path) -> None:
    """A slot full of sound names costs each frame little."""
    writer = SlotWriter(slab, 2)
    writer.take()
    for number in range(MEMBER_RUNS + 10):
        writer.values[writer.place(f"refused\x1fcredit\x1fc{number}")] = 1
    assert len(read_totals(SlabReader(slab), {"credit"}).refused) == MEMBER_RUNS
