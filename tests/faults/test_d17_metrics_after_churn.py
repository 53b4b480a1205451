"""D17: metrics after thousands of deploys and takeovers: no sum decreases, no series is lost, the work of a scrape is bounded.

`tests/serving/test_metrics.py` has the thousand restarts.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from roadworthy.agent.metrics.exposition import AgentFacts, GatewayCollector, render
from roadworthy.foundation.slab import GAUGE, SlabReader, SlotWriter, create_slab
from roadworthy.serving.metrics import WorkerMetrics, open_worker_metrics, read_totals
from tests.waiting import DEADLINE_S

GENERATIONS = 3_000
WATCH = """
import sys
from pathlib import Path
from roadworthy.foundation.slab import SlabReader
reader = SlabReader(Path(sys.argv[1]))
last, looks = 0, 0
print("looking", flush=True)
while True:
    total = sum(cells.values[0] for cells in reader.read(0)[1] if cells.name.startswith("n"))
    assert total >= last, f"{last} became {total}"
    last, looks = total, looks + 1
    if total >= int(sys.argv[2]):
        break
print(looks)
"""


@pytest.fixture
def slab(tmp_path: Path) -> Path:
    """A slab for three workers and the agent."""
    path = tmp_path / "slab"
    create_slab(path, 4)
    return path


def answered(slab: Path) -> int:
    """Requests of endpoint e, over all series."""
    reader = SlabReader(slab)
    totals = read_totals(reader)
    reader.close()
    assert sum(status.overflows for status in totals.slots) == 0
    return sum(count for (bound, _), count in totals.requests.items() if bound.endpoint == "e")


def test_d17_thousands_of_generations_lose_no_series(slab: Path) -> None:
    """Each deploy makes new series; the latest is always separate, and the endpoint's sum is exact, also after takeovers."""
    counted = 0
    metrics = open_worker_metrics(slab, 0)
    first = metrics.bind("e", 1, "m:1", f"sha256:{1:064x}")
    for generation in range(1, GENERATIONS + 1):
        bound = metrics.bind("e", generation, f"m:{generation}", f"sha256:{generation:064x}")
        for code in ("ok", "invalid-input", "model-fault"):
            bound.observe(code, 0.001, 1)
        metrics.probed(f"m:{generation}", "ok", 0.001)
        bound.in_flight.add(1)
        first.observe("ok", 0.001, 1)  # an answer to an old request, on the split of that time
        bound.in_flight.add(-1)
        counted += 4
        if generation % 500 == 0:
            assert answered(slab) == counted
            metrics = open_worker_metrics(slab, 0)
            first = metrics.bind("e", generation, f"m:{generation}", f"sha256:{generation:064x}")
    assert answered(slab) == counted
    reader = SlabReader(slab)
    totals = read_totals(reader)
    newest = [bound for bound, _ in totals.requests if bound.version == f"m:{GENERATIONS}"]
    assert newest
    assert sum(totals.in_flight.values()) == 0
    assert sum(sum(cells[:-1]) for cells in totals.latency.values()) == counted
    assert sum(totals.probes.values()) == GENERATIONS


def test_d17_the_work_of_a_scrape_is_bounded(slab: Path) -> None:
    """It is proportional to the series in the slots, which are folded before they become many, for any duration."""
    readers = [SlabReader(slab)]
    collector = GatewayCollector(lambda: read_totals(readers[0]), lambda: AgentFacts(None, (), None, 0))
    metrics = [open_worker_metrics(slab, slot) for slot in range(3)]
    work, samples = [], []
    for upto in (250, 500, 2_000, 4_000):
        for each in metrics:
            for generation in range(1, upto + 1):
                bound = each.bind("e", generation, f"m:{generation}", f"sha256:{generation:064x}")
                bound.observe("ok", 0.001, 1)
        samples.append(len(render(collector).splitlines()))
        work.append(calls_of(lambda: render(collector)))
    assert SlotWriter(slab, 0).fullness > 0.3
    assert work[1] < 2.5 * work[0]
    assert max(samples[2:]) < 2 * samples[1]
    assert max(work[2:]) < 2.5 * work[1]


def calls_of(job: Callable[[], object]) -> int:
    """The number of function calls of a job, a measure of work that is the same on every machine."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        job()
    finally:
        sys.setprofile(before)
    return count


def test_d17_a_reader_sees_no_step_back_while_runs_are_folded(slab: Path) -> None:
    """Another process reads continuously."""
    writer = SlotWriter(slab, 0)
    writer.take()
    rounds, runs = 600, 20
    watcher = subprocess.Popen([sys.executable, "-c", WATCH, str(slab), str(rounds * runs)], stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "looking\n"
        for turn in range(rounds):
            names = [f"n {turn} {number}" for number in range(runs)]
            for name in names:
                writer.values[writer.place(name)] += 1
            writer.fold(dict.fromkeys(names, "n all"))
        assert int(watcher.stdout.read()) > 1  # looks; on a busy machine the writer may have most of the time
        assert watcher.wait(DEADLINE_S) == 0
    finally:
        watcher.kill()
        watcher.wait()
        if watcher.stdout is not None:
            watcher.stdout.close()


def test_folded_places_are_used_again_and_found_by_a_successor(slab: Path) -> None:
    """Places of the same width are reused; a successor in the slot knows which are free."""
    writer = SlotWriter(slab, 0)
    writer.take()
    for name, width in (("a", 1), ("b", 3), ("c", 1)):
        for offset in range(width):
            writer.values[writer.place(name, width=width) + offset] = 10 + offset
    writer.values[writer.place("g", kind=GAUGE)] = 7
    before = writer.fullness
    writer.fold({"a": "sum", "c": "sum", "b": "wide"})
    assert writer.fullness < before
    successor = SlotWriter(slab, 0)
    successor.take()
    assert successor.values[successor.place("sum")] == 20
    room = successor.fullness
    assert successor.place("new") != successor.place("sum")
    assert successor.fullness > room
    reader = SlabReader(slab)
    found = {cells.name: cells.values for cells in reader.read(0)[1]}
    assert found == {"sum": (20,), "wide": (10, 11, 12), "g": (0,), "new": (0,)}
    successor.fold({"new": "sum"})
    assert "new" not in {cells.name for cells in reader.read(0)[1]}
    reader.close()


def test_a_place_whose_writer_was_killed_hides_no_other(slab: Path) -> None:
    """A writer killed between the name and its checksum loses that run, but not the later ones."""
    writer = SlotWriter(slab, 0)
    writer.take()
    for name in ("a", "the second", "c"):
        writer.values[writer.place(name)] = 5
    raw = bytearray(slab.read_bytes())
    raw[raw.index(b"the second")] = ord("x")  # a single letter could also occur in a clock or a checksum
    slab.write_bytes(raw)
    reader = SlabReader(slab)
    assert [cells.name for cells in reader.read(0)[1]] == ["a", "c"]
    reader.close()
    successor = SlotWriter(slab, 0)
    successor.take()
    assert successor.values[successor.place("c")] == 5
    successor.place("d")
    reader = SlabReader(slab)
    assert [cells.name for cells in reader.read(0)[1]] == ["a", "c", "d"]
    reader.close()


def test_checks_and_dropped_log_lines_go_on_over_a_take_over(slab: Path) -> None:
    """A slot's counters continue from its predecessor's values."""
    for _ in range(2):
        metrics: WorkerMetrics = open_worker_metrics(slab, 0)
        metrics.log_lines_dropped(2)
        metrics.log_lines_dropped(3)
        metrics.probed("m:1", "ok", 0.25)
    reader = SlabReader(slab)
    totals = read_totals(reader)
    assert (totals.log_lines_lost, dict(totals.probes), dict(totals.probe_us)) == (
        6,
        {("m:1", "ok"): 2},
        {"m:1": 250_000},
    )
    reader.close()
