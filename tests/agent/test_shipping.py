"""Telemetry and record files: at least once, soon, in order; no silent loss while the control plane is away."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from roadworthy.contract.evidence import BadUnit, RolloutCounts, VariantCount
from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import LOADING, READY, VersionState
from roadworthy.runtime.queue.run_times import RunTimes
from roadworthy.serving.metrics import open_worker_metrics
from tests.agent.conftest import PATIENT, FakeControl, eventually
from tests.agent.records import record

DIGEST = "sha256:" + "a" * 64
SELDOM = {"sync.shipping.TELEMETRY_EVERY_S": 3_600.0}


def test_files_are_shipped_then_named_then_deleted(fake_control: Any, start_agent: Any) -> None:
    """The manifest describes the file, and the local copy is deleted once the frame was accepted."""
    agent = start_agent(fake_control)
    worker = agent.worker()
    worker.send_records([record(at_us=5), record(at_us=9), record("other")])
    manifests = eventually(lambda: [m for frame in fake_control.frames for m in frame.record_files][:2], "two manifests")
    eventually(lambda: len({m.blob for frame in fake_control.frames for m in frame.record_files}) == 2, "both manifests")
    manifests = {m.endpoint: m for frame in fake_control.frames for m in frame.record_files}
    flights = manifests["flights"]
    assert (flights.rows, flights.first_us, flights.last_us) == (2, 5, 9)
    data = fake_control.records[flights.blob.removeprefix("records/")]
    assert flights.size_bytes == len(data)
    assert {frame.gateway for frame in fake_control.frames} == {"key-abcdefgh/local"}, "with the id of its key"
    assert flights.blob.startswith("records/key-abcdefgh/local/")
    assert pq.read_table(io.BytesIO(data)).column("at_us").to_pylist() == [5, 9]
    eventually(lambda: agent.files() == [], "local copies are gone")


def test_frames_are_numbered_and_repeated_until_accepted(fake_control: Any, start_agent: Any) -> None:
    """After three refusals the same number comes again, without gaps; the boot is the slab's, after a restart too."""
    fake_control.refuse_frames = 3
    agent = start_agent(fake_control, constants=PATIENT)
    eventually(lambda: len(fake_control.frames) >= 2, "two frames")
    assert agent.stop() == 0
    count = len(fake_control.frames)
    start_agent(fake_control)
    eventually(lambda: len(fake_control.frames) > count, "frames of the second agent")
    assert [frame.sequence for frame in fake_control.frames] == list(range(1, len(fake_control.frames) + 1))
    assert len({(frame.gateway, frame.boot) for frame in fake_control.frames}) == 1


def test_counts_come_from_the_slab(fake_control: Any, start_agent: Any) -> None:
    """Answered, refused and lost records, since the slab was created."""
    agent = start_agent(fake_control)
    metrics = open_worker_metrics(agent.slab, 0)
    bound = metrics.bind("flights", 2, "flights:3", DIGEST)
    for outcome in ("ok", "ok", "model-failed"):
        bound.observe(outcome, 0.002, 1)
    metrics.refused("", "not-found")
    metrics.lost_records(4)
    frame = eventually(lambda: [f for f in fake_control.frames if f.lost_records == 4], "the counts arrive")[-1]
    found = {(c.endpoint, c.generation, c.digest, c.outcome): c.count for c in frame.counts}
    assert found == {
        ("flights", 2, DIGEST, "ok"): 2, ("flights", 2, DIGEST, "model-failed"): 1, ("", 0, "", "not-found"): 1
    }  # fmt: skip


def test_evidence_and_run_times_come_from_the_slab(fake_control: Any, start_agent: Any) -> None:
    """Every frame has all counts since the slab was created, also from a restarted agent."""
    agent = start_agent(fake_control)
    metrics = open_worker_metrics(agent.slab, 0)
    key = ("rollout-1", "4", "errors", "canary")
    metrics.evidence.sample(key, bad=True)
    metrics.evidence.unit(key, 255)
    for _ in range(2):
        metrics.evidence.crash("rollout-1")
    times = RunTimes()
    times.warming = 0
    metrics.time_runs(DIGEST, times)
    times.ran(1e-5, 3)
    counts = RolloutCounts(
        "rollout-1",
        (VariantCount(4, "errors", "canary", 1, 1),),
        units=(BadUnit(4, "errors", "canary", "00000000000000ff"),),
        crashes=2,
    )
    eventually(lambda: [f for f in fake_control.frames if f.rollouts == (counts,)], "the counts arrive")
    assert agent.stop() == 0
    before = len(fake_control.frames)
    start_agent(fake_control)
    eventually(lambda: len(fake_control.frames) > before, "a frame of the second agent")
    assert fake_control.frames[before].rollouts == (counts,)
    (run_times,) = fake_control.frames[-1].run_times
    assert (run_times.digest, run_times.counts[0], sum(run_times.counts)) == (DIGEST, 3, 3)


def test_users_with_bad_events_are_told_until_they_were_heard(fake_control: Any, start_agent: Any) -> None:
    """Once when frames are accepted, though counts come each time; again after a refusal or a restored control plane."""
    fake_control.offer(Snapshot("epoch-1", 1))
    agent = start_agent(fake_control)
    cells = open_worker_metrics(agent.slab, 0).evidence
    key = ("rollout-1", "4", "errors", "canary")

    def named(since: int = 0) -> list[str]:
        """Every user in every accepted frame from there on."""
        found = [counts for frame in fake_control.frames[since:] for counts in frame.rollouts]
        return [unit.unit[-1] for counts in found for unit in counts.units]

    def two_frames_later() -> None:
        before = len(fake_control.frames)
        eventually(lambda: len(fake_control.frames) >= before + 2, "two more frames")
        assert fake_control.frames[-1].rollouts[0].variants == (VariantCount(4, "errors", "canary", 1, 1),)

    cells.sample(key, bad=True)
    cells.unit(key, 1)
    eventually(lambda: named() == ["1"], "the first user is named")
    two_frames_later()
    assert named() == ["1"]
    fake_control.refuse_frames = 3
    cells.unit(key, 2)
    eventually(lambda: named() == ["1", "2"], "the second user is named")
    two_frames_later()
    assert (named(), fake_control.refuse_frames) == (["1", "2"], 0)
    before = len(fake_control.frames)
    fake_control.offer(Snapshot("epoch-2", 1))
    eventually(lambda: named(before) == ["1", "2"], "both are named again")
    two_frames_later()
    assert named(before) == ["1", "2"]


def test_a_change_of_state_is_told_at_once(fake_control: Any, start_agent: Any) -> None:
    """A deploy waits for the change, and the next regular frame would never come here."""
    agent = start_agent(fake_control, constants=SELDOM)
    worker = agent.worker()
    worker.hello(versions=(VersionState(DIGEST, LOADING),))
    eventually(lambda: [f for f in fake_control.frames if f.workers], "the worker is reported")
    for revision in range(1, 6):
        worker.hello(revision=revision, versions=(VersionState(DIGEST, READY, "native"),))
        eventually(lambda n=revision: fake_control.frames[-1].workers[0].revision == n, "the report arrives")
    report = fake_control.frames[-1].workers[0]
    assert min(report.memory_free_bytes, report.disk_free_bytes) > 0, "what the machine has left"


def test_a_worker_that_died_is_in_no_report(fake_control: Any, start_agent: Any) -> None:
    """The end of its connection removes it; the other one stays."""
    agent = start_agent(fake_control)
    one, other = agent.worker(), agent.worker()
    one.hello(0)
    other.hello(1)
    eventually(lambda: fake_control.frames and len(fake_control.frames[-1].workers) == 2, "both are reported")
    one.close()
    eventually(lambda: [w.slot for w in fake_control.frames[-1].workers] == [1], "one is left")


def test_files_wait_on_disk_while_the_control_plane_is_away(start_agent: Any) -> None:
    """They are written and kept; the next agent ships each exactly once when the control plane is back."""
    first = FakeControl()
    first.close()
    agent = start_agent(first)
    agent.worker().send_records([record(id="x" * 32)])
    eventually(lambda: len(agent.files()) == 1, "the file is there")
    assert agent.stop() == 0
    assert len(agent.files()) == 1
    again = FakeControl(first.port)
    try:
        start_agent(again)
        eventually(lambda: [m for f in again.frames for m in f.record_files], "the manifest arrives")
        eventually(lambda: agent.files() == [], "the file is gone")
        manifests = {m for f in again.frames for m in f.record_files}
        assert [(m.endpoint, m.rows) for m in manifests] == [("flights", 1)]
        (data,) = again.records.values()
        assert pq.read_table(io.BytesIO(data)).column("id").to_pylist() == ["x" * 32]
    finally:
        again.close()


def test_g21_what_is_refused_for_good_costs_nothing_else(fake_control: Any, start_agent: Any) -> None:
    """The control plane refuses one file and some counts for good: all else arrives, and the counts come again later."""
    fake_control.takes = lambda frame: not frame.counts and all(file.endpoint != "bad" for file in frame.record_files)
    agent = start_agent(fake_control, constants={"sync.shipping._LEFT_OUT_S": 0.2})
    metrics = open_worker_metrics(agent.slab, 0)
    metrics.refused("", "not-found")
    worker = agent.worker()
    worker.hello()
    worker.send_records([record("bad"), record("bad"), record("good")])

    def named() -> set[str]:
        return {file.endpoint for frame in fake_control.frames for file in frame.record_files}

    eventually(lambda: named() == {"good"} and agent.files() == [], "the good file is named, the other one is given up")
    eventually(lambda: fake_control.frames[-1].lost_records == 2, "its records are counted")
    assert fake_control.frames[-1].workers[0].slot == 0
    eventually(lambda: agent.metrics()["roadworthy_telemetry_refused_total"] > 6, "counts are tried again")
    assert not any(frame.counts for frame in fake_control.frames)
    fake_control.takes = lambda frame: True
    eventually(lambda: fake_control.frames[-1].counts, "they are taken")

    def logged() -> tuple[int, int]:
        log = (agent.folder / "log").read_text()
        return log.count("malformed-telemetry"), log.count("refuses the part counts")

    eventually(lambda: logged() == (1, 1), "each refusal is logged once")


def test_g10_files_that_are_damaged_or_gone_are_counted_and_hold_up_no_other(start_agent: Any) -> None:
    """Truncated, emptied or deleted while they wait: given up with their counts; the file behind them is shipped."""
    first = FakeControl()
    first.close()
    agent = start_agent(first)
    worker = agent.worker()
    for number in range(4):
        worker.send_records([record(id=f"{number:032x}")] * (number + 1))
        eventually(lambda written=number + 1: len(agent.files()) == written, "the file is there")
    cut, emptied, deleted, good = agent.files()
    cut.write_bytes(cut.read_bytes()[:-10])
    emptied.write_bytes(b"")
    deleted.unlink()
    again = FakeControl(first.port)
    try:
        eventually(lambda: [m for f in again.frames for m in f.record_files], "a manifest arrives")
        assert list(again.records) == [f"key-abcdefgh/local/{good.name}"]
        eventually(lambda: again.frames[-1].lost_records == 1 + 2 + 3, "telemetry tells what they held")
        metrics = agent.metrics()
        assert (metrics["roadworthy_record_files_lost_total"], metrics["roadworthy_records_lost_total"]) == (3, 6)
        eventually(lambda: agent.metrics()["roadworthy_record_files"] == 0, "all are gone")
    finally:
        again.close()


def test_g10_what_lies_among_the_record_files_of_an_earlier_life(start_agent: Any, fake_control: Any, tmp_path: Path) -> None:
    """Junk, an empty file, a folder and foreign tables are given up and counted; none of them stops shipping."""
    records = tmp_path / "records"
    records.mkdir()
    names = [f"flights-{number:032x}.parquet" for number in range(5)]
    (records / names[0]).write_bytes(b"junk")
    (records / names[1]).write_bytes(b"")
    (records / names[2]).mkdir()
    pq.write_table(pa.table({"x": [1]}), records / names[3])
    pq.write_table(pa.table({"at_us": [1]}), records / names[4], write_statistics=False)
    agent = start_agent(fake_control)
    eventually(lambda: agent.metrics()["roadworthy_record_files_lost_total"] == 5, "they are counted")
    agent.worker().send_records([record()])
    eventually(lambda: fake_control.records, "records are shipped")
    assert agent.process.poll() is None


def test_an_orderly_stop_writes_and_ships_what_is_left(fake_control: Any, start_agent: Any) -> None:
    """Records that came just before SIGTERM are not lost."""
    agent = start_agent(fake_control, constants=PATIENT)
    worker = agent.worker()
    worker.hello()
    worker.send_records([record() for _ in range(10)])
    worker.close()
    assert agent.stop() == 0
    assert sum(m.rows for m in {m for f in fake_control.frames for m in f.record_files}) == 10
    assert fake_control.frames[-1].workers == ()
    assert agent.files() == []
