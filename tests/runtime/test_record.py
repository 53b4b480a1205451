"""Records travel together, wait within a bound, and are counted when they are dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from roadworthy.contract.record import RecordKind, RecordRow
from roadworthy.runtime import record as module
from roadworthy.runtime.record import Recorder
from tests.records import unpack
from tests.waiting import soon

KIND = RecordKind("e", 1, "m", 1, "d", "r", "k", 200, "ok", "json")


def record(number: int, size: int = 10) -> tuple[RecordKind, RecordRow]:
    """A record, identified by its id."""
    return KIND, (str(number), 0, "q", 5, 1, -1, -1, b"i" * size, b"o", 0)


class Carrier:
    """Takes payloads while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.frames: list[list[str]] = []
        self.bodies: list[bytes] = []

    def ready(self) -> bool:
        return self.up

    def carry(self, payload: Sequence[bytes | bytearray | memoryview]) -> None:
        records = unpack(b"".join(payload))
        self.frames.append([each.id for each in records])
        self.bodies += [each.inputs for each in records]


def play(scene: Callable[[Recorder, Carrier, list[int]], Awaitable[None]]) -> None:
    """Run a scene with a recorder."""

    async def run() -> None:
        carrier, lost = Carrier(), list[int]()
        await scene(Recorder(asyncio.get_running_loop(), carrier, lost.append), carrier, lost)

    asyncio.run(run())


def test_records_of_a_moment_travel_in_one_frame_in_order() -> None:
    """Many appends are one frame, a moment later."""

    async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
        for number in range(20):
            recorder.append(*record(number))
        assert carrier.frames == []
        await soon(lambda: carrier.frames, "they travel")
        assert carrier.frames == [[str(number) for number in range(20)]]

    play(scene)


def test_a_frame_that_cannot_be_encoded_is_counted() -> None:
    """Its records are lost, as an error code without UTF-8 would lose them; later records travel without a full frame."""

    async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
        kind, (_, *rest) = record(1)
        recorder.append(kind, ("\ud800", *rest))
        await soon(lambda: lost, "it is counted")
        assert (lost, recorder.dropped, len(recorder)) == ([1], 1, 0)
        recorder.append(*record(2))
        await soon(lambda: carrier.frames, "the next one travels")
        assert carrier.frames == [["2"]]

    play(scene)


def test_a_full_frame_does_not_wait() -> None:
    """At the limit the frame goes at once; more records are split into frames."""

    async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
        for number in range(module.FLUSH_RECORDS):
            recorder.append(*record(number))
        assert [len(frame) for frame in carrier.frames] == [module.FLUSH_RECORDS]
        assert len(recorder) == 0

    play(scene)


@pytest.mark.parametrize("runs", [[3, 1, 4], [1, 7, 1, 9], [20], [4, 4, 4, 4, 4, 4]])
@pytest.mark.parametrize("most", [10_000, 7_500, 1_000_000])
def test_the_records_of_a_run_travel_as_if_they_came_one_by_one(
    monkeypatch: pytest.MonkeyPatch, runs: list[int], most: int
) -> None:
    """In the same frames, within the same bounds, with the same loss; long ones alone."""
    monkeypatch.setattr(module, "FLUSH_RECORDS", 8)
    monkeypatch.setattr(module, "_LONG_BYTES", 2_000)
    monkeypatch.setattr(module, "_FRAME_BYTES", 5_000)
    monkeypatch.setattr(module, "MAX_HELD_BYTES", most)
    sizes = [10, 700, 10, 1_400, 10, 2_500, 10, 10, 10, 10]
    rows = [record(number, sizes[number % len(sizes)])[1] for number in range(sum(runs))]
    found: list[object] = []

    def scene_of(add: Callable[[Recorder, list[RecordRow]], None]) -> Callable[..., Awaitable[None]]:
        async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
            carrier.up = False
            start = 0
            for count in runs:
                add(recorder, rows[start : start + count])
                start += count
            carrier.up = True
            recorder.flush()
            found.append((carrier.frames, carrier.bodies, lost))

        return scene

    play(scene_of(lambda recorder, run: recorder.extend(KIND, run)))
    play(scene_of(lambda recorder, run: [recorder.append(KIND, row) for row in run] and None))
    assert found[0] == found[1]


def test_g6_long_records_travel_alone_and_one_frame_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding many bytes would hold the loop: each frame is bounded, and the loop serves others between two frames. Nothing is
    lost, and the order stays."""
    monkeypatch.setattr(module, "_LONG_BYTES", 5_000)
    monkeypatch.setattr(module, "_FRAME_BYTES", 10_000)
    sizes = [10, 20_000, 3_000, 3_000, 3_000, 3_000, 50_000, 60_000, 10]

    async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
        for number, size in enumerate(sizes):
            recorder.append(*record(number, size))
        turns = []
        while len(recorder):
            before = len(carrier.frames)
            await asyncio.sleep(0)
            turns.append(len(carrier.frames) - before)
        assert max(turns) == 1
        assert carrier.frames == [["0"], ["1"], ["2", "3"], ["4", "5"], ["6"], ["7"], ["8"]]
        assert [len(body) for body in carrier.bodies] == sizes
        assert not lost

    play(scene)


def test_g6_the_end_does_not_wait_for_further_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends hands over all records at once."""
    monkeypatch.setattr(module, "_FRAME_BYTES", 2_000)

    async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
        for number in range(200):
            recorder.append(*record(number, 700))
        recorder.flush()
        assert (sum(map(len, carrier.frames)), len(recorder)) == (200, 0)
        assert len(carrier.frames) > 50

    play(scene)


def test_without_a_link_records_wait_and_the_surplus_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records within the bound wait for the link, others are dropped and counted; nothing is sent twice."""
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 10_000)

    async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
        carrier.up = False
        for number in range(20):
            recorder.append(*record(number, size=1_000))
        recorder.flush()
        assert sum(lost) == 20 - len(recorder)
        kept = len(recorder)
        assert 0 < kept < 10
        carrier.up = True
        recorder.flush()
        recorder.flush()
        assert carrier.frames == [[str(number) for number in range(kept)]]

    play(scene)


def test_g21_a_full_buffer_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffer is full while the link takes nothing. Once it does, the records travel without a new one."""
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 10_000)

    async def scene(recorder: Recorder, carrier: Carrier, lost: list[int]) -> None:
        carrier.up = False
        for number in range(20):
            recorder.append(*record(number, size=1_000))
        kept = len(recorder)
        assert recorder.dropped == sum(lost) == 20 - kept > 0
        recorder.flush()  # as its timer does: in vain
        recorder.append(*record(20, size=1_000))
        assert recorder.dropped == 21 - kept
        carrier.up = True
        await soon(lambda: carrier.frames, "what was kept travels")
        assert carrier.frames == [[str(number) for number in range(kept)]]
        recorder.append(*record(21, size=1_000))
        await soon(lambda: len(carrier.frames) == 2, "the next one travels")
        assert recorder.dropped == 21 - kept

    play(scene)
