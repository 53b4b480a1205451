"""The worker registry: it takes what workers send, and a slow, broken or hostile worker blocks no other."""

from __future__ import annotations

import stat
import struct
from pathlib import Path
from typing import Any

import msgspec

from roadworthy.agent.worker_registry import serves_earlier
from roadworthy.contract.local import REPORT
from roadworthy.contract.snapshot import KeyEntry, Snapshot
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.foundation.frames import encode_frame
from tests.agent.conftest import eventually


def test_the_socket_is_private(start_agent: Any, tmp_path: Path) -> None:
    """Folder 0700, socket 0600: a process that can connect could have predictions recorded under any name."""
    start_agent()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "run" / "agent.sock").stat().st_mode) == 0o600


def test_workers_that_do_not_read_hold_up_nobody(fake_control: Any, start_agent: Any) -> None:
    """Large snapshots to a worker that reads none: the other worker gets each, and records still arrive."""
    agent = start_agent(fake_control, constants={"worker_registry.SEND_TIMEOUT_S": 3_600.0})
    deaf, good = agent.worker(), agent.worker()
    deaf.hello(0)
    good.hello(1)
    keys = tuple(KeyEntry(f"key-{number}", f"{number:064x}", "predictor") for number in range(20_000))
    for revision in range(1, 4):
        fake_control.offer(Snapshot("e", revision, keys=keys))
        assert good.snapshot().revision == revision
    eventually(lambda: fake_control.frames and len(fake_control.frames[-1].workers) == 2, "both are connected")


def test_hostile_frames_cut_off_their_sender_only(fake_control: Any, start_agent: Any) -> None:
    """A length beyond the bound, an invalid report, a truncated frame: the others stay, and new workers can connect."""
    agent = start_agent(fake_control)
    good = agent.worker()
    good.hello(3)
    for data in (
        struct.pack("<IB", 1 << 31, 3),
        encode_frame(REPORT, b'{"slot": "x"}'),
        encode_frame(REPORT, b"{}")[:-1],
    ):
        bad = agent.worker()
        bad.socket.sendall(data)
        if data[0]:
            bad.close()
        else:
            assert bad.socket.recv(1) == b""
    eventually(
        lambda: fake_control.frames and [w.slot for w in fake_control.frames[-1].workers] == [3],
        "the good one is reported",
    )
    fake_control.offer(Snapshot("e", 1))
    assert good.snapshot().revision == 1
    assert agent.worker().snapshot().revision == 1


def test_the_same_report_twice_is_told_once(fake_control: Any, start_agent: Any) -> None:
    """Only changes trigger a frame; the next regular frame would never come here."""
    agent = start_agent(fake_control, constants={"sync.shipping.TELEMETRY_EVERY_S": 3_600.0})
    worker = agent.worker()
    report = worker.hello()
    eventually(lambda: fake_control.frames and fake_control.frames[-1].workers, "the worker is reported")
    before = len(fake_control.frames)
    for _ in range(200):
        worker.report(report)
    worker.hello(revision=9)
    eventually(lambda: fake_control.frames[-1].workers[0].revision == 9, "the change is reported")
    assert len(fake_control.frames) == before + 1


def test_a_rule_is_held_for_an_endpoint_that_a_worker_refuses() -> None:
    """The worker serves it as before, whatever revision it has reached with the others."""
    report = WorkerReport(0, 1, "b", "e", 5, 5)
    assert [serves_earlier(report, revision) for revision in (5, 6)] == [False, True]
    assert serves_earlier(msgspec.structs.replace(report, refused=("line",)), 5)
    assert not serves_earlier(msgspec.structs.replace(report, revision=0), 6)
