"""Processes with embedded endpoints at the agent's socket: what they say of themselves is not believed; none disturbs another."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from array import array
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadworthy.contract.evidence import MOST
from roadworthy.contract.local import HELLO, RECORDS
from roadworthy.contract.record import Pieces, decode_records, encode_columns
from roadworthy.contract.snapshot import EndpointEntry, Snapshot
from roadworthy.contract.telemetry import LOADING, VersionState, WorkerReport
from roadworthy.foundation.frames import encode_frame, frame_head
from roadworthy.foundation.slab import SlotWriter
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.agent.conftest import FIRST_MEMBER, eventually
from tests.agent.records import record
from tests.records import pack

STRANGER = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setuid(65534)
end = socket.socket(socket.AF_UNIX)
end.connect("agent.sock")
end.settimeout(60)
try:
    print(end.recv(1))
except ConnectionResetError:
    print(b"")
"""
SIGNATURE = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),), Container.RECORDS)
SERVED = Snapshot("e", 1, endpoints=(EndpointEntry("credit", 1, (), SIGNATURE.to_document()),))


def closed(end: Any) -> bool:
    """Whether the agent has closed a connection; what it sent before is read."""
    try:
        while end.socket.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_member_gets_snapshots_and_is_no_worker(fake_control: Any, start_agent: Any) -> None:
    """The control plane hears of the workers alone, so a member that still loads holds up no switch."""
    agent = start_agent(fake_control)
    member, worker = agent.worker(), agent.worker()
    member.hello(FIRST_MEMBER, versions=(VersionState("sha256:" + "a" * 64, LOADING),))
    worker.hello(1)
    fake_control.offer(Snapshot("e", 1))
    assert member.snapshot() == worker.snapshot() == Snapshot("e", 1)
    eventually(lambda: fake_control.frames and fake_control.frames[-1].workers, "the worker is reported")
    assert [each.slot for each in fake_control.frames[-1].workers] == [1]


def test_a_slot_belongs_to_the_process_that_the_slab_names(start_agent: Any) -> None:
    """Neither a free slot, nor the agent's, nor a second one; the process with the slot is not disturbed."""
    agent = start_agent()
    good = agent.worker()
    good.hello(FIRST_MEMBER)
    for slot in (FIRST_MEMBER + 1, FIRST_MEMBER + 2, 1 << 40):
        bad = agent.worker()
        bad.report(WorkerReport(slot=slot, pid=os.getpid(), boot="b", epoch=None, revision=0, offered=0), HELLO)
        assert closed(bad)
    changed = agent.worker()
    changed.hello(1)
    changed.report(WorkerReport(slot=FIRST_MEMBER, pid=1, boot="b", epoch=None, revision=0, offered=0))
    assert closed(changed)
    good.send_records([record("unknown")])
    eventually(lambda: agent.metrics()["roadworthy_records_lost_total"] == 1, "it is still heard")


def test_a_process_that_connects_again_replaces_its_connection(start_agent: Any) -> None:
    """One connection for each slot: a member cannot use up the agent's descriptors."""
    agent = start_agent()
    first, second = agent.worker(), agent.worker()
    for lost, process in enumerate((first, second), 1):
        process.hello(FIRST_MEMBER)
        process.send_records([record("unknown")])
        eventually(lambda lost=lost: agent.metrics()["roadworthy_records_lost_total"] == lost, "it is heard")
    assert closed(first)


def test_connections_without_an_identity_are_few(start_agent: Any) -> None:
    """One more than the bound is closed at once, and each after a while; workers can connect again."""
    agent = start_agent(constants={"worker_registry.MOST_STRANGERS": 2, "worker_registry.HELLO_S": 2.0})
    strangers = [agent.worker() for _ in range(2)]
    eventually(lambda: closed(agent.worker()), "one more is refused")
    assert all(map(closed, strangers))
    agent.worker().send_records([record()])
    eventually(agent.files, "a worker is heard again")


def test_members_record_for_endpoints_of_the_gateway_only(fake_control: Any, start_agent: Any) -> None:
    """Records for another name are counted as lost; damaged ones cost the member its connection, and no one's records."""
    agent = start_agent(fake_control)
    fake_control.offer(SERVED)
    member = agent.worker()
    member.hello(FIRST_MEMBER)
    assert member.snapshot().revision == 1
    member.send_records([record("made-up")] * 3)
    member.send_records([record("credit")] * 2)
    bad = agent.worker()
    bad.hello(FIRST_MEMBER + 1)
    bad.socket.sendall(encode_frame(RECORDS, b"\xff\xff\xff\xff\x90"))
    assert closed(bad)
    files = eventually(lambda: fake_control.frames and fake_control.frames[-1].record_files, "the records are shipped")
    assert [(file.endpoint, file.rows) for file in files] == [("credit", 2)]
    assert agent.metrics()["roadworthy_records_lost_total"] == 3


def with_ids(*ids: bytes, own: bool = True) -> bytes:
    """A payload of records with these ids; `own` false: with these request ids."""
    (group,) = decode_records(pack([record("credit")] * len(ids)))
    pieces = Pieces(memoryview(array("I", map(len, ids))), memoryview(b"".join(ids)))
    return bytes(encode_columns([msgspec.structs.replace(group, **{"ids" if own else "request_ids": pieces})]))


HOSTILE = {
    "a number beyond 64 bits": encode_frame(RECORDS, pack([record("credit", version=2**63)])),
    "a negative number": encode_frame(RECORDS, pack([record("credit", generation=-1)])),
    "a time after all years": encode_frame(RECORDS, pack([record("credit", at_us=2**62)])),
    "a time before 1970": encode_frame(RECORDS, pack([record("credit", at_us=-1)])),
    "ids that are texts only together": encode_frame(RECORDS, with_ids(b"a\xc3", b"\xa9b")),
    "request ids that are no texts": encode_frame(RECORDS, with_ids(b"a\xc3", b"\xa9b", own=False)),
    "long texts that would be repeated": encode_frame(RECORDS, pack([record("credit", code="x" * 2_000)] * 500)),
    "many records": encode_frame(RECORDS, pack([record("credit")] * 513)),
    "a long frame": frame_head(RECORDS, 25 << 20),
    "an unknown kind": encode_frame(99, b""),
}


def test_records_that_would_harm_those_of_others_cost_their_sender_only(fake_control: Any, start_agent: Any) -> None:
    """A member may send what a process with endpoints sends, up to a body of 15 MiB; anything else ends its connection."""
    agent = start_agent(fake_control)
    fake_control.offer(SERVED)
    good = agent.worker()
    good.hello(FIRST_MEMBER)
    assert good.snapshot().revision == 1
    for what, frame in HOSTILE.items():
        bad = agent.worker()
        bad.hello(FIRST_MEMBER + 1)
        bad.socket.sendall(frame)
        assert closed(bad), what
    good.send_records([record("credit", caller=f"key-{number}", request_id="\u00e9") for number in range(512)])
    good.send_records([record("credit", bytes(15 << 20))])
    eventually(lambda: sum(file.rows for frame in fake_control.frames for file in frame.record_files) >= 513, "the good ones")
    assert agent.metrics()["roadworthy_records_lost_total"] == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_not_served(start_agent: Any, tmp_path: Path) -> None:
    """Even where the socket's folder is open to it: the kernel says who connects."""
    start_agent()
    run = tmp_path / "run"
    run.chmod(0o711)
    (run / "agent.sock").chmod(0o666)
    done = subprocess.run([sys.executable, "-c", STRANGER, str(run)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "b''\n"), done.stderr


def test_garbage_in_a_members_slot_stops_nothing(fake_control: Any, start_agent: Any) -> None:
    """An id that no process has, a name that is no text, and counts that no frame may hold: frames go on, with the workers'
    counts."""
    agent = start_agent(fake_control)
    member, worker = SlotWriter(agent.slab, FIRST_MEMBER), SlotWriter(agent.slab, 0)
    member.take()
    worker.take()
    worker.values[worker.place("records-lost")] = 1
    member.place("garbage")
    member.values[member.place("records-lost")] = MOST
    data = agent.slab.read_bytes()
    at, pid = data.index(b"garbage"), data.index(os.getpid().to_bytes(8, "little"))
    text = b"\xff" * 7
    with agent.slab.open("r+b") as file:
        file.seek(at)
        file.write(text)
        file.seek(at - 4)
        file.write(zlib.crc32(text).to_bytes(4, "little"))
        file.seek(data.index(os.getpid().to_bytes(8, "little"), pid + 8))
        file.write((1 << 40).to_bytes(8, "little"))
    before = len(fake_control.frames)
    eventually(lambda: len(fake_control.frames) > before + 1, "frames")
    assert fake_control.frames[-1].lost_records == 1
    assert agent.metrics()["roadworthy_records_lost_total"] == 1
    assert agent.process.poll() is None
