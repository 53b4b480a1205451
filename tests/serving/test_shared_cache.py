"""The worker's part in a shared cache, over a planted server: rounds, bounds, what is refused, and when it gives up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roadworthy.runtime.layers.answer_bytes import MAX_ENTRY_BYTES, AnswerBytes
from roadworthy.runtime.layers.cache import Found
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field
from roadworthy.serving.cache import backoff as patience
from roadworthy.serving.cache import shared as shared_cache
from roadworthy.serving.cache.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, Alarm, Pauses
from roadworthy.serving.cache.shared import BoundShare, SharedCache
from tests.waiting import HandClock, soon

TOTAL = Layout((Field("total", DType.FLOAT64),))
LATER = 1e9
Asked = Sequence[bytes]
Kept = Sequence[tuple[bytes, bytes, int]]


def total(value: float, rows: int = 1) -> Batch:
    """An answer."""
    return Batch(TOTAL, rows, (Block(np.full((rows, 1), value)),))


def key(number: int) -> bytes:
    """A key as caches make them."""
    return number.to_bytes(32, "big")


class PlantedServer:
    """Keeps entries for ever, and does as it is told.

    Attributes:
        rounds: what came. held: while it is cleared, rounds wait. fails: what every call raises.
    """

    address = "planted"

    def __init__(self) -> None:
        self.rounds: list[tuple[int, int]] = []
        self.entries: dict[bytes, tuple[int, bytes]] = {}
        self.held = asyncio.Event()
        self.held.set()
        self.fails: Exception | None = None
        self.refuses: Exception | None = None
        self.opened = self.closed = self.pinged = self.begun = 0

    async def open(self) -> None:
        """Count."""
        self.opened += 1
        self._fail()

    async def ping(self) -> None:
        """Count."""
        self.pinged += 1
        self._fail()
        await self.held.wait()

    async def close(self) -> None:
        """Count."""
        self.closed += 1

    async def exchange(self, asked: Asked, kept: Kept) -> list[object]:
        """As a Redis server would."""
        self.begun += 1
        self._fail()
        await self.held.wait()
        self._fail()
        self.rounds.append((len(asked), len(kept)))
        replies: list[object] = []
        for name in asked:
            replies += self.entries.get(name, (-2, b""))
        for name, entry, left_ms in kept:
            if self.refuses is None:
                self.entries[name] = (left_ms, entry)
            replies.append(self.refuses or b"OK")
        return replies

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails


class Scene:
    """A connected shared cache over a planted server."""

    def __init__(self, wait_s: float) -> None:
        self.server = PlantedServer()
        self.counts: Counter[str] = Counter()
        self.changes: list[bool] = []
        self.cache = SharedCache(self.server, wait_s, self._count, lambda: self.changes.append(self.cache.connected))
        self.share: BoundShare = self.cache.bound(TOTAL)
        self.found: dict[int, Found | None] = {}

    def _count(self, event: str) -> None:
        self.counts[event] += 1

    def ask(self, number: int, rows: int = 1, deadline: float = LATER) -> bool:
        """Ask for one key; `found` has what was told."""
        return self.share.ask(key(number), rows, deadline, lambda found: self.found.__setitem__(number, found))

    async def hold(self, number: int) -> None:
        """Ask for one key, and have the server think about it until it is let go."""
        self.server.held.clear()
        before = self.server.begun
        self.ask(number)
        await self.until(lambda: self.server.begun > before, "the round has begun")

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Let the loop run until it is so."""
        await soon(condition, what)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round is given up because this machine is busy; what a request may wait is each test's own."""
    monkeypatch.setattr(shared_cache, "CONNECT_S", 3_600.0)


def play(act: Callable[[Scene], Awaitable[None]], wait_s: float = 60.0) -> None:
    """Play in a loop of its own, from the moment it is connected."""

    async def run() -> None:
        scene = Scene(wait_s)
        task = asyncio.create_task(scene.cache.run())
        await scene.until(lambda: scene.cache.connected, "connected")
        scene.server.rounds.clear()
        await act(scene)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert scene.server.closed >= 1
        assert not scene.cache.connected

    asyncio.run(run())


def test_what_is_put_is_found() -> None:
    """With its age and its end; for other rows it is unfit, and what was never put is nowhere."""

    async def act(scene: Scene) -> None:
        scene.share.put(key(1), total(2.0), 700, 60.0)
        await scene.until(lambda: scene.counts["stored"], "kept")
        ((left_ms, entry),) = scene.server.entries.values()
        assert 0 < left_ms <= 60_000
        scene.server.entries = dict.fromkeys(scene.server.entries, (20_000, entry))
        before = time.monotonic()
        assert scene.ask(1)
        assert scene.ask(2)
        await scene.until(lambda: len(scene.found) == 2, "told")
        found = scene.found[1]
        assert found is not None
        assert found.batch.blocks[0].values.tolist() == [[2.0]]
        assert before <= found.given + 40 <= time.monotonic()
        assert found.until == pytest.approx(found.given + 60)
        assert scene.found[2] is None
        scene.ask(1, rows=2)
        await scene.until(lambda: scene.counts["unfit"], "refused")
        assert scene.found[1] is None

    play(act)


def test_what_is_asked_in_one_moment_goes_out_at_once() -> None:
    """One round, and what comes while it is under way is the next; never more than its bound."""

    async def act(scene: Scene) -> None:
        for number in range(50):
            scene.ask(number)
        scene.share.put(key(99), total(1.0), 700, 60.0)
        await scene.until(lambda: len(scene.found) == 50, "told")
        assert scene.server.rounds == [(50, 1)]
        await scene.hold(50)
        for number in range(51, 151):
            scene.ask(number)
        scene.server.held.set()
        await scene.until(lambda: len(scene.found) == 151, "told")
        assert [asked for asked, _ in scene.server.rounds][1:] == [1, 64, 36]

    play(act)


def test_who_waits_too_long_goes_on_and_nobody_asks_any_more() -> None:
    """All who wait are told at the bound of the first; later ones are not let in until it answers again."""

    async def act(scene: Scene) -> None:
        await scene.hold(1)
        scene.ask(2)
        await scene.until(lambda: len(scene.found) == 2, "told")
        assert scene.found == {1: None, 2: None}
        assert not scene.ask(3)
        scene.share.put(key(3), total(1.0), 700, 60.0)
        assert scene.counts["dropped"] == 1
        await scene.until(lambda: scene.counts["lost"], "it is noted")
        assert scene.changes == [True, False]
        scene.server.held.set()
        await scene.until(lambda: scene.cache.connected, "it is back")
        assert scene.changes == [True, False, True]

    play(act, wait_s=0.5)


def test_nobody_waits_while_an_idle_server_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that nobody uses is tried now and then; if it hangs just then, the bound of a request counts, not that of the
    trial."""
    monkeypatch.setattr(shared_cache, "LOOK_S", 0.01)

    async def act(scene: Scene) -> None:
        await scene.until(lambda: scene.server.pinged >= 2, "tried")
        scene.server.held.clear()
        before = scene.server.pinged
        await scene.until(lambda: scene.server.pinged > before, "it is being tried")
        scene.ask(1)
        await scene.until(lambda: scene.found, "told")
        assert not scene.cache.connected
        scene.server.held.set()

    play(act, wait_s=0.5)


def test_a_server_that_is_always_too_slow_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor counted as connected: it answers, but never within the bound."""

    clock = HandClock()
    monkeypatch.setattr(shared_cache, "time", clock)

    async def run() -> None:
        scene = Scene(wait_s=0.001)

        async def slowly(asked: Asked, kept: Kept) -> list[object]:
            clock.step(0.02)
            return [-2, b""] * len(asked)

        monkeypatch.setattr(scene.server, "exchange", slowly)
        task = asyncio.create_task(scene.cache.run())
        await scene.until(lambda: scene.counts["lost"] >= 2, "it is tried")
        assert scene.changes == []
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


@pytest.mark.parametrize("replies", [[b"PONG", b"PONG"], [None, None], [-2, -2], [-2, ValueError("NOPERM no")], []])
def test_what_does_not_know_the_commands_is_not_used(monkeypatch: pytest.MonkeyPatch, replies: list[object]) -> None:
    """Though it takes connections and says PONG."""

    async def run() -> None:
        scene = Scene(wait_s=60.0)

        async def strangely(asked: Asked, kept: Kept) -> list[object]:
            return replies

        monkeypatch.setattr(scene.server, "exchange", strangely)
        task = asyncio.create_task(scene.cache.run())
        await scene.until(lambda: scene.counts["lost"] >= 2, "it is tried")
        assert scene.changes == []
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


def test_any_error_lets_all_go_on() -> None:
    """Those of the round, those behind it, and what waits to be kept is counted."""

    async def act(scene: Scene) -> None:
        await scene.hold(0)
        for number in range(1, 100):
            scene.ask(number)
        for number in range(3):
            scene.share.put(key(number), total(1.0), 700, 60.0)
        scene.server.fails = RuntimeError("OOM of another kind")
        scene.server.held.set()
        await scene.until(lambda: len(scene.found) == 100, "told")
        assert set(scene.found.values()) == {None}
        assert (scene.counts["dropped"], scene.counts["lost"]) == (3, 1)
        scene.server.fails = None
        await scene.until(lambda: scene.cache.connected, "it is back")

    play(act)


def test_an_error_of_one_key_is_that_ones_alone() -> None:
    """A value of another kind under it; any other error is the server's."""

    async def act(scene: Scene) -> None:
        (name,) = (shared_cache._name(key(1)),)
        scene.server.entries[name] = (5, ValueError("WRONGTYPE another kind"))  # type: ignore[assignment]
        scene.ask(1)
        scene.ask(2)
        await scene.until(lambda: len(scene.found) == 2, "told")
        assert (scene.counts["unfit"], scene.cache.connected) == (1, True)
        scene.server.entries[name] = (5, ValueError("LOADING"))  # type: ignore[assignment]
        scene.ask(1)
        await scene.until(lambda: scene.counts["lost"], "noted")
        assert scene.changes == [True, False]

    play(act)


def test_entries_that_never_end_or_last_too_long_are_refused() -> None:
    """Nothing of ours is kept for longer than it says itself."""

    async def act(scene: Scene) -> None:
        name = shared_cache._name(key(1))
        entry = AnswerBytes(TOTAL).encode(name, total(1.0), 1_000)
        for left_ms, unfit in ((-1, 1), (1_001, 2), (1_000, 2)):
            scene.found.clear()
            scene.server.entries[name] = (left_ms, entry)
            scene.ask(1)
            await scene.until(lambda: scene.found, "told")
            assert scene.counts["unfit"] == unfit
        assert scene.found[1] is not None

    play(act)


def test_what_waits_to_be_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and bytes; the rest is dropped and counted. Large ones and those whose time is up are never sent."""

    async def act(scene: Scene) -> None:
        await scene.hold(0)
        for number in range(shared_cache.WAITING_ENTRIES + 10):
            scene.share.put(key(number), total(1.0), 700, 60.0)
        assert scene.counts == {"dropped": 10}
        scene.share.put(key(1), total(1.0), 3 * MAX_ENTRY_BYTES, 60.0)
        assert scene.counts == {"dropped": 10, "not-shared": 1}
        scene.server.held.set()
        await scene.until(lambda: scene.counts["stored"] == shared_cache.WAITING_ENTRIES, "all that waited is kept")
        await scene.hold(2)
        each = 2 * MAX_ENTRY_BYTES
        for number in range(shared_cache.WAITING_BYTES // each + 1):
            scene.share.put(key(number), total(1.0, rows=MAX_ENTRY_BYTES // 8), each, 60.0)
        assert scene.counts["dropped"] == 11
        scene.server.held.set()
        await scene.until(lambda: scene.counts["not-shared"] == 1 + shared_cache.WAITING_BYTES // each, "too large")
        assert scene.cache._waiting_bytes == 0
        scene.share.put(key(1), total(1.0), 700, 0.000_5)
        await scene.until(lambda: scene.counts["dropped"] == 12, "its time is up")

    play(act)


def test_rounds_carry_no_more_than_a_bound() -> None:
    """Questions must not wait behind many large answers."""

    async def act(scene: Scene) -> None:
        await scene.hold(0)
        rows = shared_cache.KEPT_AT_ONCE_BYTES // 16
        for number in range(6):
            scene.share.put(key(number), total(1.0, rows), 9 * rows, 60.0)
        scene.server.held.set()
        await scene.until(lambda: scene.counts["stored"] == 6, "kept")
        assert [kept for _, kept in scene.server.rounds] == [0, 2, 2, 2]

    play(act)


def test_a_server_that_keeps_nothing_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked all the while; answers are dropped until the pause is over, then it is tried again."""
    clock = HandClock()
    monkeypatch.setattr(patience, "time", clock)

    async def act(scene: Scene) -> None:
        scene.server.refuses = ValueError("OOM command not allowed")
        scene.share.put(key(1), total(1.0), 700, 60.0)
        await scene.until(lambda: scene.counts["refused"], "refused")
        scene.share.put(key(2), total(1.0), 700, 60.0)
        assert scene.counts["dropped"] == 1
        assert scene.ask(3)
        scene.server.refuses = None
        clock.step(FIRST_PAUSE_S + 0.001)
        scene.share.put(key(4), total(1.0), 700, 60.0)
        await scene.until(lambda: scene.counts["stored"], "kept again")
        assert scene.cache.connected

    play(act)


def test_a_request_whose_time_is_nearly_up_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait beyond its deadline."""
    clock = HandClock()
    monkeypatch.setattr(shared_cache, "time", clock)

    async def act(scene: Scene) -> None:
        assert not scene.ask(1, deadline=clock.monotonic() + 59.9)
        assert scene.ask(2, deadline=clock.monotonic() + 60.1)

    play(act)


def test_who_stops_leaves_nobody_waiting() -> None:
    """At the end of the task all are told."""

    async def run() -> None:
        scene = Scene(wait_s=60.0)
        task = asyncio.create_task(scene.cache.run())
        await scene.until(lambda: scene.cache.connected, "connected")
        await scene.hold(1)
        scene.ask(2)
        task.cancel()
        await asyncio.wait([task])
        assert scene.found == {1: None, 2: None}

    asyncio.run(run())


def test_no_text_of_a_server_is_told() -> None:
    """It may hold what it was sent: only the kind of the error, and the first word where that is one."""
    reason = shared_cache._reason_of
    assert reason(ValueError("OOM command not allowed: AUTH hunter2")) == "ValueError OOM"
    assert reason(ValueError("ERR unknown command 'AUTH', with args 'hunter2'")) == "ValueError ERR"
    assert reason(ValueError("hunter2")) == "ValueError"
    assert reason(ValueError("HUNTER")) == "ValueError"
    assert reason(ConnectionRefusedError(111, "hunter2")) == "ConnectionRefusedError errno 111"


def test_an_alarm_gives_grace_where_the_loop_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is read first; but not for ever, and not where the loop was in time."""
    clock = HandClock()
    monkeypatch.setattr(patience, "time", clock)

    def run(late_s: float, *, answered: bool) -> int:
        """How often it rang until nothing was set any more, or it had rung; the loop is as late as that, each time."""
        set_: list[tuple[float, Callable[[], None]]] = []

        class Loop:
            def call_later(self, after_s: float, call: Callable[[], None]) -> Any:
                set_.append((after_s, call))
                return SimpleNamespace(cancel=lambda: None)

        rang: list[bool] = []
        due = [clock.monotonic() + 0.01]
        alarm = Alarm(Loop(), lambda: due[0] if due else None, lambda: rang.append(True))  # type: ignore[arg-type]
        alarm.watch(due[0])
        while set_ and not rang:
            after_s, call = set_.pop()
            clock.step(after_s + late_s + 1e-6)  # a timer never goes off early
            call()
            if answered:
                due.clear()
        return len(rang)

    assert run(0.2, answered=True) == 0
    assert run(0.2, answered=False) == 1
    assert run(0.0, answered=False) == 1
    assert run(0.0, answered=True) == 1


def test_pauses_grow_and_shrink_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long each time up to a bound; short again after a steady while, not after a brief success."""
    clock = HandClock()
    monkeypatch.setattr(patience, "time", clock)
    pauses = Pauses()
    seen = [pauses.next_s() for _ in range(10)]
    assert seen[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert seen[-1] == LONGEST_PAUSE_S
    pauses.began()
    clock.step(1)
    assert pauses.next_s() == LONGEST_PAUSE_S
    pauses.began()
    clock.step(11)
    assert pauses.next_s() == FIRST_PAUSE_S
