"""Log lines reach their descriptor, or are dropped and counted; writing never waits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Iterator

import pytest

from roadworthy.foundation.log_stream import LogStream
from tests.waiting import DEADLINE_S

LINE = "x" * 99 + "\n"


def tell(lines: int) -> str:
    """The line about dropped lines."""
    return f"dropped {lines}\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(end)


def test_lines_arrive_in_order_and_whole(pipe: tuple[int, int]) -> None:
    """From several threads at once, the lines of each thread in order."""
    reading, writing = pipe
    stream = LogStream(writing, tell)
    found = bytearray()

    def write(name: str) -> None:
        for number in range(200):
            stream.write(f"{name} {number}\n")

    def read() -> None:
        while found.count(b"\n") < 800:
            found.extend(os.read(reading, 65_536))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"] + [threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    lines = found.decode().splitlines()
    for name in "abcd":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {number}" for number in range(200)]
    assert stream.dropped == 0


def test_d18_a_pipe_that_nobody_reads_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    """Without a reader nothing blocks and the bound holds; with one the count is logged once, and no line is lost."""
    reading, writing = pipe
    stream = LogStream(writing, tell, most_held_bytes=10_000)
    for _ in range(1_000):
        stream.write(LINE)
    assert not stream.drain(0.05)
    dropped = stream.dropped
    assert 800 <= dropped < 1_000
    found = b""
    # The count comes after the lines that were being written, and before those that waited meanwhile.
    while sum(map(int, re.findall(rb"dropped (\d+)\n", found))) < dropped or found.count(b"x\n") < 1_000 - dropped:
        found += os.read(reading, 65_536)
    assert found.count(LINE.encode()) == 1_000 - dropped
    assert stream.drain(DEADLINE_S)
    stream.write("after\n")
    while b"after" not in found:
        found += os.read(reading, 65_536)
    assert stream.dropped == dropped


def test_d18_a_closed_pipe_costs_lines_and_raises_nothing(pipe: tuple[int, int]) -> None:
    """Every line that cannot be written is counted."""
    reading, writing = pipe
    os.close(reading)
    stream = LogStream(writing, tell)
    for _ in range(10):
        stream.write(LINE)
    assert stream.drain(DEADLINE_S)
    assert stream.dropped == 10


def test_d8_a_full_disk_loses_lines_until_there_is_room(monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]) -> None:
    """Lines that fit are written; later ones are lost until there is room, and a separate line reports the loss."""
    full = True
    written = bytearray()

    def write(_descriptor: int, data: memoryview) -> int:
        if full and len(written) >= 50:
            raise OSError(28, "No space left on device")
        part = bytes(data[:50]) if full else bytes(data)
        written.extend(part)
        return len(part)

    stream = LogStream(pipe[1], tell)
    monkeypatch.setattr("roadworthy.foundation.log_stream.os.write", write)
    stream.write(LINE)
    assert stream.drain(DEADLINE_S)
    assert stream.dropped == 1
    full = False
    stream.write("again\n")
    assert stream.drain(DEADLINE_S)
    assert bytes(written).splitlines()[1:] == [b"again", b"dropped 1"]


def test_a_descriptor_that_somebody_made_nonblocking(pipe: tuple[int, int]) -> None:
    """The stream waits for room instead of taking a full pipe for an error."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    stream = LogStream(writing, tell)
    for _ in range(100):
        stream.write(LINE)
    found = b""
    while len(found) < 10_000:
        found += os.read(reading, 65_536)
    assert stream.drain(DEADLINE_S)
    assert stream.dropped == 0
