"""The cells of an embedded endpoint are counted like a worker's, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadworthy.agent.metrics.exposition import AgentFacts, GatewayCollector, render
from roadworthy.agent.sync.shipping import count_requests
from roadworthy.contract.evidence import MOST
from roadworthy.foundation.slab import COUNTER, EMBEDDED, GAUGE, SlabReader, SlotWriter, create_slab
from roadworthy.serving.histogram import WIDTH
from roadworthy.serving.metrics import open_worker_metrics, read_totals

DIGEST = "sha256:" + "a" * 64
VERSION = ("credit", "2", "credit:1", "a" * 64)


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
        (("requests", *VERSION, "o" * 200), COUNTER, [1]),
        (("requests", *VERSION, "ok"), COUNTER, [-1]),
        (("requests", *VERSION, "ok"), COUNTER, [MOST + 1]),
        (("requests", *VERSION, "ok"), GAUGE, [1]),
        (("latency", *VERSION), COUNTER, [1] * (WIDTH - 1)),
        (("run-times", "a" * 64, "100000"), COUNTER, [1] * 48),
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
