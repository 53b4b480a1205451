"""The runner's side of a connection: streams end in order when it is asked to stop, and a part that is too large fails alone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roadworthy.foundation.sockets import unix_address
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.runtime.runners.isolated import frames
from roadworthy.runtime.runners.isolated.launch import RunnerStart
from roadworthy.runtime.runners.isolated.process import RunnerProcess
from roadworthy.runtime.runners.isolated.server import STOP_S
from roadworthy.runtime.runners.isolated.streams import Streams
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field
from tests.runtime.runners.isolated.runners import DIGEST
from tests.waiting import DEADLINE_S, HandClock, eventually

LAYOUT = Layout((Field("text", DType.STRING),))
FAR = 1e18
HANG_S = 120.0


def text(value: str) -> Batch:
    """One row."""
    return Batch.from_columns(LAYOUT, [(np.array([value], dtype=object), None)], 1)


class Repeating:
    """Says its row again and again, as an async generator does whose next word comes when the test says so."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.ready: list[Callable[[], None]] = []

    def ask(self, ready: Callable[[], None], _steps: int) -> bool:
        """See `PartSteps`."""
        self.ready.append(ready)
        return False

    def __next__(self) -> Batch:
        return self._batch

    def close(self) -> None:
        """Nothing to close."""


class Worker:
    """A worker's end of the connection."""

    def __init__(self, address: Path) -> None:
        self._end = socket.socket(socket.AF_UNIX)
        self._end.settimeout(DEADLINE_S)
        with unix_address(address) as path:
            self._end.connect(path)
        self._reader = frames.MessageReader()
        self._messages: list[tuple[int, int, bytes]] = []

    def send(self, message: bytes) -> None:
        """Send one message."""
        self._end.sendall(message)

    def next(self) -> tuple[int, int, bytes] | None:
        """The next message; None at the end of the connection."""
        while not self._messages:
            data = self._end.recv(1 << 20)
            if not data:
                return None
            self._messages = [(kind, number, bytes(payload)) for kind, number, payload in self._reader.feed(data)]
        return self._messages.pop(0)


@contextmanager
def serving(folder: Path, made: list[Repeating]) -> Iterator[tuple[RunnerProcess, Worker]]:
    """A runner's process, without its load, whose model repeats; and a worker that it has greeted."""

    def begin(batch: Batch) -> Repeating:
        made.append(Repeating(batch))
        return made[-1]

    address = folder / "runner.sock"
    process = RunnerProcess(RunnerStart(str(folder), DIGEST, str(address), hang_s=HANG_S), lambda _entry: None)  # type: ignore[arg-type,return-value]  # it loads nothing
    runner = InlineRunner(SimpleNamespace(run=None, concurrent=False, parts=begin, close=lambda: None))  # type: ignore[arg-type]  # no `run`
    streams = Streams(runner, process._state, lambda: None)
    thread = threading.Thread(target=process._serve, args=(frames.Greeting(DIGEST, 1), LAYOUT, streams))
    thread.start()
    eventually(address.exists, "it takes the address")
    worker = Worker(address)
    try:
        assert worker.next() is not None
        yield process, worker
    finally:
        process._stop()
        worker._end.close()
        thread.join(DEADLINE_S)
        process.close()


def test_a_runner_that_stops_lets_its_streams_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may take as long as the agent waits for it: longer than messages that are answered at once."""
    clock, made = HandClock(), list[Repeating]()
    monkeypatch.setattr("roadworthy.runtime.runners.isolated.server.time", clock)
    with serving(tmp_path, made) as (process, worker):
        worker.send(frames.encode_run(1, text("a"), [1], [FAR], None))
        eventually(lambda: made and made[0].ready, "the stream waits for its model")
        process._stop()
        assert worker.next() == (frames.GOODBYE, 0, b"")
        for _ in range(2):
            clock.step(STOP_S)
            made[0].ready.pop()()
            message = worker.next()
            assert message is not None
            assert message[:2] == (frames.PART, 1)
            eventually(lambda: made[0].ready, "the stream waits for its model")
        clock.step(HANG_S)
        made[0].ready.pop()()
        while message := worker.next():
            assert message[0] == frames.PART


def test_a_part_longer_than_a_message_fails_its_stream_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner goes on with the streams of others."""
    made = list[Repeating]()
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 64 << 10)
    with serving(tmp_path, made) as (_, worker):
        for number in (1, 2):
            worker.send(frames.encode_run(number, text("a"), [1], [FAR], None))
        eventually(lambda: len(made) == 2 and all(steps.ready for steps in made), "both wait for their model")
        made[0]._batch = text("x" * (128 << 10))
        found: list[Any] = []
        for steps in made:
            steps.ready.pop()()
            found.append(worker.next())
    assert [message[:2] for message in found] == [(frames.ANSWER, 1), (frames.PART, 2)]
    outcomes = frames.decode_answer(memoryview(found[0][2]), LAYOUT, None)
    assert [fault.code for fault in outcomes.faults] == ["part-too-large"]
