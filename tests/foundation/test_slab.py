"""The slab: one writer a slot, numbers that outlive their writer, readers that see whole names only."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.foundation.slab import (
    GAUGE,
    MAX_NAME_BYTES,
    MAX_WIDTH,
    READY,
    SILENT_NS,
    SlabReader,
    SlotWriter,
    create_slab,
)

WRITE = """
import os, signal, sys
from pathlib import Path
from roadworthy.foundation.slab import GAUGE, READY, SlotWriter
writer = SlotWriter(Path(sys.argv[1]), 0)
print(writer.left)
writer.take()
writer.values[writer.place("served")] += 3
writer.values[writer.place("running", kind=GAUGE)] += 2
writer.state(READY)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def slab(tmp_path: Path) -> Path:
    """A fresh slab of three slots."""
    create_slab(tmp_path / "slab", 3, names=8, cells=80)
    return tmp_path / "slab"


def numbers(path: Path, slot: int) -> dict[str, tuple[int, ...]]:
    """All named runs of a slot."""
    return {cells.name: cells.values for cells in SlabReader(path).read(slot)[1]}


def test_a_new_slab_is_private_empty_and_has_its_own_boot(tmp_path: Path) -> None:
    """Mode 0600, slots without a process, and another id each time."""
    first = create_slab(tmp_path / "slab", 2)
    reader = SlabReader(tmp_path / "slab")
    assert (reader.slots, reader.boot) == (2, first)
    assert stat.S_IMODE((tmp_path / "slab").stat().st_mode) == 0o600
    status, cells = reader.read(1)
    assert (status.pid, status.state, status.starts, status.alive, cells) == (0, "", 0, False, [])
    assert create_slab(tmp_path / "slab", 2) != first
    assert reader.boot == first


def test_kill_9_keeps_counters_and_hands_over_what_was_under_way(slab: Path) -> None:
    """Killed twice: counters add up, the next process gets the gauges and starts from zero, crashes are counted."""
    for expected in ("{}\n", "{'running': 2}\n"):
        done = subprocess.run([sys.executable, "-c", WRITE, slab], stdout=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, expected)
    status = SlabReader(slab).status(0)
    assert (status.state, status.starts, status.crashes, status.alive) == (READY, 2, 1, False)
    assert numbers(slab, 0) == {"served": (6,), "running": (2,)}
    SlotWriter(slab, 0).take()
    assert numbers(slab, 0) == {"served": (6,), "running": (0,)}


def test_an_orderly_end_is_no_crash(slab: Path) -> None:
    """A released slot is STOPPED, and its next start counts as a start only."""
    writer = SlotWriter(slab, 1)
    writer.take()
    assert SlabReader(slab).status(1).pid == os.getpid()
    writer.release()
    SlotWriter(slab, 1).take()
    status = SlabReader(slab).status(1)
    assert (status.starts, status.crashes, status.alive) == (2, 0, True)


def test_slots_do_not_touch_each_other(slab: Path) -> None:
    """Writes in one slot do not show in others."""
    for slot in (0, 2):
        writer = SlotWriter(slab, slot)
        writer.take()
        writer.values[writer.place("n")] = slot + 1
    assert [numbers(slab, slot) for slot in range(3)] == [{"n": (1,)}, {}, {"n": (3,)}]


def test_a_full_table_counts_into_a_cell_that_nobody_reads(slab: Path) -> None:
    """Names and cells run out, or a name is too long: the writer continues, and counts the missing series."""
    writer = SlotWriter(slab, 0)
    writer.take()
    places = [writer.place(f"name {number}") for number in range(10)]
    assert places[8:] == [0, 0]
    assert writer.place("x" * (MAX_NAME_BYTES + 1)) == 0
    assert writer.place("wide", width=MAX_WIDTH + 1) == 0
    writer.values[places[9]] += 5
    writer.values[places[0]] += 1
    status, cells = SlabReader(slab).read(0)
    assert status.overflows == 4
    assert [run.values for run in cells] == [(1,), *[(0,)] * 7]


def test_a_name_that_is_not_whole_yet_is_not_seen(slab: Path) -> None:
    """A length without its text (a processor that reorders writes, a killed writer) is read as absent."""
    writer = SlotWriter(slab, 0)
    writer.take()
    writer.place("whole")
    reader = SlabReader(slab)
    assert [run.name for run in reader.read(0)[1]] == ["whole"]
    writer.place("torn")
    data = bytearray(slab.read_bytes())
    at = data.index(b"torn")
    data[at : at + 4] = b"to\0\0"
    assert zlib.crc32(b"to\0\0") != zlib.crc32(b"torn")
    slab.write_bytes(data)
    assert list(numbers(slab, 0)) == ["whole"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.integers(0, 9), st.booleans()), max_size=20))
@settings(max_examples=30, deadline=None)
def test_any_sequence_of_writes_and_take_overs_adds_up(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, bool]]
) -> None:
    """Against a model: sums per name, over all writers."""
    path = tmp_path_factory.mktemp("slab") / "slab"
    create_slab(path, 1, names=16, cells=64)
    writer = SlotWriter(path, 0)
    writer.take()
    model: dict[str, list[int]] = {}
    for letter, width, value, restart in steps:
        if restart:
            writer = SlotWriter(path, 0)
            writer.take()
        name = f"{letter}{width}"
        writer.values[writer.place(name, width=width) + width - 1] += value
        model.setdefault(name, [0] * width)[-1] += value
    assert numbers(path, 0) == {name: tuple(values) for name, values in model.items()}


def test_readers_meet_a_writer_at_work(slab: Path) -> None:
    """While a writer counts, every reading is between the previous one and the end."""
    writer = SlotWriter(slab, 0)
    writer.take()
    cell = writer.place("n")

    def write() -> None:
        for _ in range(100_000):
            writer.values[cell] += 1

    reader = SlabReader(slab)
    thread = threading.Thread(target=write)
    thread.start()
    seen = [0]
    while thread.is_alive():
        seen.append(reader.read(0)[1][0].values[0])
    thread.join()
    assert seen == sorted(seen)
    assert numbers(slab, 0) == {"n": (100_000,)}


def test_a_writer_that_stands_still_in_the_midst_of_a_folding_takes_nothing_back(slab: Path) -> None:
    """While it pauses in a folding, readers return their last reading. If it is killed there, they return what is left."""
    program = """
import os, signal, sys
from pathlib import Path
from roadworthy.foundation.slab import SlotWriter
writer = SlotWriter(Path(sys.argv[1]), 0)
writer.take()
cell = writer.place("served")
writer.values[cell] = 7
print("whole", flush=True)
sys.stdin.readline()
with writer._atomically():
    writer.values[cell] = 0
    print("half", flush=True)
    sys.stdin.readline()
"""
    reader = SlabReader(slab)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program, str(slab)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        read = lambda: [cells.values for cells in reader.read(0)[1]]  # noqa: E731 - asked four times
        assert process.stdout.readline() == "whole\n"
        assert read() == [(7,)]
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "half\n"
        assert read() == [(7,)]
        process.kill()
        process.wait()
        assert read() == [(0,)]
    reader.close()


def test_the_lost_are_accounted_for_in_the_same_step(slab: Path) -> None:
    """A take-over passes the gauges to the new owner before readers see them at zero."""
    writer = SlotWriter(slab, 0)
    writer.take()
    writer.values[writer.place("running", kind=GAUGE)] = 4
    successor = SlotWriter(slab, 0)
    seen = []

    def account(left: object) -> None:
        seen.append(left)
        successor.values[successor.place("lost")] += 4

    successor.take(account)
    assert seen == [{"running": 4}]
    assert numbers(slab, 0) == {"running": (0,), "lost": (4,)}


@pytest.mark.parametrize("data", [b"", b"x" * 5000, b"RW-SLAB\0" + b"\xff" * 5000])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    """A file that is not a slab of this release raises ValueError."""
    (tmp_path / "slab").write_bytes(data)
    with pytest.raises(ValueError, match="not a slab"):
        SlabReader(tmp_path / "slab")


def test_unknown_slots_are_refused(slab: Path) -> None:
    """Slots beyond the last do not exist."""
    with pytest.raises(ValueError, match="slots 0 to 2"):
        SlotWriter(slab, 3)


def test_member_slots_stand_before_the_agents(tmp_path: Path) -> None:
    """Readers learn from the file which slots are for embedded endpoints; workers do not read what those share."""
    create_slab(tmp_path / "slab", 5, members=2, names=8, cells=200)
    assert SlabReader(tmp_path / "slab").members == range(2, 4)
    worker, member, other = (SlotWriter(tmp_path / "slab", slot) for slot in (0, 2, 3))
    for writer in (worker, member, other):
        writer.take()
        writer.values[writer.place("shared", width=MAX_WIDTH)] = writer.slot + 1
    assert [numbers[0] for numbers, _ in worker.everywhere("shared")] == [1]
    assert [numbers[0] for numbers, _ in member.everywhere("shared")] == [1, 3]


def test_a_slot_taken_with_care_keeps_what_is_sound(tmp_path: Path) -> None:
    """Other runs, numbers beyond the used places and impossible words are gone; there is room again, and names start at zero."""
    path = tmp_path / "slab"
    create_slab(path, 5, members=2, names=4, cells=80)
    left = SlotWriter(path, 2)
    left.take()
    for name in ("good", "bad", "worse"):
        left.values[left.place(name)] = 7
    left.place("wide", width=MAX_WIDTH)
    left.values[left.place("none")] = 7
    for cell in range(MAX_WIDTH, len(left.values)):
        left.values[cell] = left.values[cell] or (1 << 63) - 1
    left._words[4:8] = memoryview(((1 << 63) - 1).to_bytes(8, "little") * 4).cast("q")
    writer = SlotWriter(path, 2, lambda run: run.name == "good")
    writer.take()
    assert writer.names() == ["good"]
    for name in ("a", "b"):
        writer.values[writer.place(name)] += 1
    writer.values[writer.place("shared", width=MAX_WIDTH)] += 1
    assert [values for values, _ in writer.everywhere("shared")] == [[1] + [0] * (MAX_WIDTH - 1)]
    status, runs = SlabReader(path).read(2)
    assert (status.starts, status.overflows) == (1, 0)
    assert {run.name: run.values[0] for run in runs} == {"good": 7, "a": 1, "b": 1, "shared": 1}


def test_a_member_without_a_heartbeat_is_not_alive(tmp_path: Path) -> None:
    """Its process id may belong to another process by now, or be that of none."""
    path = tmp_path / "slab"
    create_slab(path, 5, members=2)
    reader = SlabReader(path)
    worker, member = SlotWriter(path, 0), SlotWriter(path, 2)
    for writer in (worker, member):
        writer.take()
        writer.state(READY)
    assert worker.serving_slots() == [0]
    assert (reader.status(0).alive, reader.status(2).alive) == (True, True)
    for writer in (worker, member):
        writer._words[3] -= SILENT_NS
    assert (reader.status(0).alive, reader.status(2).alive) == (True, False)
    for writer in (worker, member):
        writer.heartbeat()
        writer._words[0] = 1 << 40
    assert (reader.status(0).alive, reader.status(2).alive) == (False, False)


def test_a_member_in_the_midst_of_a_change_holds_up_no_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot is read twice at most, and what counts is the last whole reading, even after its process has gone."""
    path = tmp_path / "slab"
    create_slab(path, 5, members=2)
    reader, member = SlabReader(path), SlotWriter(path, 2)
    member.take()
    cell = member.place("n")
    member.values[cell] = 7
    assert [run.values for run in reader.read(2)[1]] == [(7,)]
    member._words[7] |= 1
    member.values[cell] = 0
    member._words[0] = 0
    readings = []
    cells = reader._cells
    monkeypatch.setattr(reader, "_cells", lambda slot: readings.append(slot) or cells(slot))
    assert [run.values for run in reader.read(2)[1]] == [(7,)]
    assert readings == [2, 2]
