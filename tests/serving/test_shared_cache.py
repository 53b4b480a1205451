"""The worker's side of a shared cache, with a planted server: round trips, bounds, refusals, and timeouts."""

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
from roadworthy.serving.cache import backoff as backoffs
from roadworthy.serving.cache import shared as shared_cache
from roadworthy.serving.cache.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, DeadlineTimer, ServerBackoff
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
    """Keeps entries forever, and behaves as the test sets it.

    Attributes:
        rounds: the numbers of lookups and entries of each round trip. held: while it is cleared, round trips wait. fails: the
            exception that every call raises.
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
        """Reply like a Redis server."""
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
        """Look up one key; the result goes into `found`."""
        return self.share.ask(key(number), rows, deadline, lambda found: self.found.__setitem__(number, found))

    async def hold(self, number: int) -> None:
        """Look up one key, and hold the server's reply until the test releases it."""
        self.server.held.clear()
        before = self.server.begun
        self.ask(number)
        await self.until(lambda: self.server.begun > before, "the round has begun")

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Run the loop until the condition holds."""
        await soon(condition, what)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round trip times out because this machine is busy; each test sets how long a request may wait."""
    monkeypatch.setattr(shared_cache, "CONNECT_S", 3_600.0)


def play(act: Callable[[Scene], Awaitable[None]], wait_s: float = 60.0) -> None:
    """Run a scene in a loop of its own, once it is connected."""

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
    """An entry is found with its age and its end; for another number of rows it is unfit, and a key never put is not found."""

    async def act(scene: Scene) -> None:
        scene.share.put(key(1), total(2.0), 700, 60.0)
        await scene.until(lambda: scene.counts["stored"], "kept")
        ((left_ms, entry),) = scene.server.entries.values()
        assert 0 < left_ms <= 60_000
        scene.server.entries = dict.fromkeys(scene.server.entries, (20_000, entry))
        before = time.monotonic()
        assert scene.ask(1)
        assert scene.ask(2)
        await scene.until(lambda: len(scene.found) == 2, "delivered")
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


def test_lookups_of_one_moment_go_out_together() -> None:
    """They share one round trip, up to its bound; lookups during it share the next."""

    async def act(scene: Scene) -> None:
        for number in range(50):
            scene.ask(number)
        scene.share.put(key(99), total(1.0), 700, 60.0)
        await scene.until(lambda: len(scene.found) == 50, "delivered")
        assert scene.server.rounds == [(50, 1)]
        await scene.hold(50)
        for number in range(51, 151):
            scene.ask(number)
        scene.server.held.set()
        await scene.until(lambda: len(scene.found) == 151, "delivered")
        assert [asked for asked, _ in scene.server.rounds][1:] == [1, 64, 36]

    play(act)


def test_after_a_timeout_no_request_asks_until_the_server_is_back() -> None:
    """All waiting lookups end at the timeout of the first; later ones are refused until the server answers again."""

    async def act(scene: Scene) -> None:
        await scene.hold(1)
        scene.ask(2)
        await scene.until(lambda: len(scene.found) == 2, "delivered")
        assert scene.found == {1: None, 2: None}
        assert not scene.ask(3)
        scene.share.put(key(3), total(1.0), 700, 60.0)
        assert scene.counts["dropped"] == 1
        await scene.until(lambda: scene.counts["lost"], "it is counted")
        assert scene.changes == [True, False]
        scene.server.held.set()
        await scene.until(lambda: scene.cache.connected, "it is back")
        assert scene.changes == [True, False, True]

    play(act, wait_s=0.5)


def test_no_request_waits_for_the_check_of_an_idle_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection is checked now and then; if it hangs at that moment, the timeout of a request applies, not that of the
    check."""
    monkeypatch.setattr(shared_cache, "LOOK_S", 0.01)

    async def act(scene: Scene) -> None:
        await scene.until(lambda: scene.server.pinged >= 2, "tried")
        scene.server.held.clear()
        before = scene.server.pinged
        await scene.until(lambda: scene.server.pinged > before, "it is being tried")
        scene.ask(1)
        await scene.until(lambda: scene.found, "delivered")
        assert not scene.cache.connected
        scene.server.held.set()

    play(act, wait_s=0.5)


def test_a_server_that_is_always_too_slow_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count as connected: it answers, but never in time."""

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
def test_a_server_without_the_commands_is_not_used(monkeypatch: pytest.MonkeyPatch, replies: list[object]) -> None:
    """Although it accepts connections and answers PONG."""

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


def test_after_any_error_all_requests_continue() -> None:
    """Those of the round trip and those after it; entries that waited to be stored are counted as dropped."""

    async def act(scene: Scene) -> None:
        await scene.hold(0)
        for number in range(1, 100):
            scene.ask(number)
        for number in range(3):
            scene.share.put(key(number), total(1.0), 700, 60.0)
        scene.server.fails = RuntimeError("OOM of another kind")
        scene.server.held.set()
        await scene.until(lambda: len(scene.found) == 100, "delivered")
        assert set(scene.found.values()) == {None}
        assert (scene.counts["dropped"], scene.counts["lost"]) == (3, 1)
        scene.server.fails = None
        await scene.until(lambda: scene.cache.connected, "it is back")

    play(act)


def test_an_error_of_one_key_affects_that_key_alone() -> None:
    """The key holds a value of another kind; any other error is the server's."""

    async def act(scene: Scene) -> None:
        (name,) = (shared_cache._name(key(1)),)
        scene.server.entries[name] = (5, ValueError("WRONGTYPE another kind"))  # type: ignore[assignment]
        scene.ask(1)
        scene.ask(2)
        await scene.until(lambda: len(scene.found) == 2, "delivered")
        assert (scene.counts["unfit"], scene.cache.connected) == (1, True)
        scene.server.entries[name] = (5, ValueError("LOADING"))  # type: ignore[assignment]
        scene.ask(1)
        await scene.until(lambda: scene.counts["lost"], "noted")
        assert scene.changes == [True, False]

    play(act)


def test_entries_that_never_end_or_last_too_long_are_refused() -> None:
    """An entry of ours never outlives the time to live in it."""

    async def act(scene: Scene) -> None:
        name = shared_cache._name(key(1))
        entry = AnswerBytes(TOTAL).encode(name, total(1.0), 1_000)
        for left_ms, unfit in ((-1, 1), (1_001, 2), (1_000, 2)):
            scene.found.clear()
            scene.server.entries[name] = (left_ms, entry)
            scene.ask(1)
            await scene.until(lambda: scene.found, "delivered")
            assert scene.counts["unfit"] == unfit
        assert scene.found[1] is not None

    play(act)


def test_what_waits_to_be_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and bytes; the rest is dropped and counted. Large and expired entries are never sent."""

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
    """Lookups must not wait behind many large entries."""

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
    """Lookups continue; answers are dropped until the pause is over, then storing is tried again."""
    clock = HandClock()
    monkeypatch.setattr(backoffs, "time", clock)

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


def test_a_stop_leaves_no_lookup_waiting() -> None:
    """When the task ends, all waiting lookups end."""

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


def test_no_text_of_a_server_is_logged() -> None:
    """The text may repeat what was sent: only the class of the error and a known code are logged."""
    reason = shared_cache._reason_of
    assert reason(ValueError("OOM command not allowed: AUTH hunter2")) == "ValueError OOM"
    assert reason(ValueError("ERR unknown command 'AUTH', with args 'hunter2'")) == "ValueError ERR"
    assert reason(ValueError("hunter2")) == "ValueError"
    assert reason(ValueError("HUNTER")) == "ValueError"
    assert reason(ConnectionRefusedError(111, "hunter2")) == "ConnectionRefusedError errno 111"


def test_the_deadline_timer_gives_grace_where_the_loop_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies that arrived meanwhile are read first; but not forever, and not where the loop was on time."""
    clock = HandClock()
    monkeypatch.setattr(backoffs, "time", clock)

    def run(late_s: float, *, answered: bool) -> int:
        """How often the timer fired before it expired or was no longer set; the loop is `late_s` late each time."""
        set_: list[tuple[float, Callable[[], None]]] = []

        class Loop:
            def call_later(self, after_s: float, call: Callable[[], None]) -> Any:
                set_.append((after_s, call))
                return SimpleNamespace(cancel=lambda: None)

        rang: list[bool] = []
        due = [clock.monotonic() + 0.01]
        alarm = DeadlineTimer(Loop(), lambda: due[0] if due else None, lambda: rang.append(True))  # type: ignore[arg-type]
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
    """Twice as long each time up to a bound; short again after a steady period, not after a brief success."""
    clock = HandClock()
    monkeypatch.setattr(backoffs, "time", clock)
    pauses = ServerBackoff()
    seen = [pauses.next_s() for _ in range(10)]
    assert seen[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert seen[-1] == LONGEST_PAUSE_S
    pauses.began()
    clock.step(1)
    assert pauses.next_s() == LONGEST_PAUSE_S
    pauses.began()
    clock.step(11)
    assert pauses.next_s() == FIRST_PAUSE_S
