"""How far a stream may be ahead of its caller, and how long its time slice is, by a clock that the model moves."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.runtime.runners.isolated import streams
from roadworthy.runtime.runners.isolated.ahead import AHEAD_BYTES, AHEAD_PARTS, AHEAD_QUICK_PARTS, AHEAD_S
from roadworthy.runtime.runners.isolated.frames import Outcomes
from roadworthy.runtime.runners.isolated.joining import Asked
from roadworthy.runtime.runners.isolated.streams import _SLICE_S, Streams
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

ROW = Batch.from_columns(Layout((Field("x", DType.FLOAT64),)), [(np.ones(1), None)], 1)
FAR = 1e18


class Scene:
    """Streams of a model that takes `step_s` for each part and never ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_s: float, size: int = 100) -> None:
        self.now, self.step_s, self.size = 0.0, step_s, size
        self.sent: list[int] = []
        monkeypatch.setattr(streams, "time", SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now))
        state: Any = SimpleNamespace(begin=lambda: None, end=lambda: None)
        loaded: Any = SimpleNamespace(run=None, concurrent=False, parts=lambda _: self)
        self.streams = Streams(InlineRunner(loaded), state, lambda: None)
        self.ask: Callable[[Callable[[], None], int], bool] | None = None

    def add(self, number: int) -> None:
        """Begin a stream."""
        self.streams.add(Asked(self, number, ROW, (1,), (FAR,)))

    def begin(self, number: int) -> None:
        """See `Asker`."""

    def answer(self, number: int, outcomes: Outcomes) -> None:
        """See `Asker`."""

    def part(self, number: int, part: Batch, seconds: float) -> int:
        """See `Asker`."""
        self.sent.append(number)
        return self.size

    def __next__(self) -> Batch:
        self.now += self.step_s
        return ROW

    def until_blocked(self) -> int:
        """Run all slices; the number of parts sent so far."""
        while self.streams:
            self.streams.run_next()
        return len(self.sent)


def test_nobody_reads_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a stream is AHEAD_PARTS ahead, however quick it is."""
    scene = Scene(monkeypatch, 0.0)
    scene.add(1)
    assert scene.until_blocked() == AHEAD_PARTS


@pytest.mark.parametrize(
    ("step_s", "size", "ahead"),
    [
        (0.0, 100, AHEAD_QUICK_PARTS),
        (AHEAD_S / 50, 100, 50),
        (AHEAD_S, 100, AHEAD_PARTS),
        (0.0, AHEAD_BYTES // 4, 4),
        (0.0, 2 * AHEAD_BYTES, 1),
    ],
    ids=["by number", "by time", "slow", "by bytes", "one is always allowed"],
)
def test_quick_parts_may_be_further_ahead(monkeypatch: pytest.MonkeyPatch, step_s: float, size: int, ahead: int) -> None:
    """Once the caller has taken some."""
    scene = Scene(monkeypatch, step_s, size)
    scene.add(1)
    taken = scene.until_blocked()
    scene.streams.credit((scene, 1), taken)
    assert scene.until_blocked() - taken == pytest.approx(ahead, abs=1)


def test_the_first_part_ends_a_slice_and_streams_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a stream that begins does not wait for the whole of the others'."""
    scene = Scene(monkeypatch, _SLICE_S / 4)
    scene.add(1)
    scene.add(2)
    scene.streams.run_next()
    scene.streams.run_next()
    assert scene.sent == [1, 2]
    scene.streams.run_next()
    assert scene.sent == [1, 2, 1, 1]


@pytest.mark.parametrize("later", [False, True], ids=["generator", "async generator"])
def test_the_worker_gets_the_core_after_the_first_part(monkeypatch: pytest.MonkeyPatch, later: bool) -> None:
    """On a busy core the first part would otherwise wait for the rest of the slice, and for the next ones. Also when the model
    has the first part only after it was asked for it."""
    scene = Scene(monkeypatch, 0.0)
    if later:
        scene.ask = lambda has_part, _: bool(scene.sent) or bool(has_part())  # type: ignore[func-returns-value]  # None: not yet
    yielded: list[int] = []
    monkeypatch.setattr(streams.os, "sched_yield", lambda: yielded.append(len(scene.sent)))
    scene.add(1)
    scene.until_blocked()
    assert yielded == [1]


def test_one_step_is_asked_for_while_the_length_of_parts_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a model of long parts would hold several of them for each stream that nobody reads."""
    scene = Scene(monkeypatch, 0.0, AHEAD_BYTES // 2)
    steps: list[int] = []
    scene.ask = lambda _, wanted: not steps.append(wanted)  # type: ignore[func-returns-value]  # it has the part at once
    scene.add(1)
    assert scene.until_blocked() == 2
    assert steps == [1, 1]
