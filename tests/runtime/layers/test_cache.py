"""Equal requests are answered from the cache and run once; no caller gets another's answer or deadline, or a kept fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.contract.policy import CachePolicy
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError
from roadworthy.runtime.layers.cache import MAX_KEYED_BYTES, AnswerStore, Cache, key_of
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Field
from tests.waiting import HandClock, soon

X = Layout((Field("x", DType.FLOAT64),))
MIXED = Layout(
    (
        Field("number", DType.FLOAT64, nullable=True),
        Field("whole", DType.INT64),
        Field("text", DType.STRING, nullable=True),
        Field("flag", DType.BOOL),
        Field("any", DType.JSON, nullable=True),
    )
)
DIGEST = "sha256:" + "a" * 64


def x(value: float) -> Batch:
    """One row."""
    return Batch(X, 1, (Block(np.array([[value]])),))


def answer(value: float) -> Answer:
    """An answer that is a part of a larger run."""
    joined = Batch(X, 3, (Block(np.array([[-1.0], [value], [-1.0]])),))
    return Answer(joined, 1, 2)


class Told(PendingRequest):
    """A pending request that remembers every outcome."""

    def __init__(self, seconds: float = 3_600.0, caller: str = "") -> None:
        super().__init__(time.monotonic() + seconds, caller)
        self.outcomes: list[Outcome] = []

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        self.outcomes.append(outcome)

    @property
    def value(self) -> float:
        """What was answered."""
        (outcome,) = self.outcomes
        assert isinstance(outcome, Answer)
        return float(outcome.batch().blocks[0].values[0, 0])

    @property
    def status(self) -> str:
        """Its Cache-Status."""
        (outcome,) = self.outcomes
        assert isinstance(outcome, Answer)
        return dict(outcome.notes)[b"cache-status"].decode()

    @property
    def code(self) -> str:
        """The code of the error."""
        (outcome,) = self.outcomes
        assert isinstance(outcome, RoadworthyError)
        return outcome.code


class Below:
    """A version that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Batch, PendingRequest]] = []

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Wait."""
        self.asked.append((batch, request))

    def settle(self, outcome: Outcome | None = None) -> None:
        """Settle the oldest that is not done; twice its value unless told otherwise."""
        while self.asked:
            batch, request = self.asked.pop(0)
            if not request.done:
                request.running = True
                request.settle(outcome or answer(2 * float(batch.blocks[0].values[0, 0])))
                return


def scene(play: Callable[[Cache, Below, list[str]], Any], **policy: Any) -> None:
    """Play with a cache over a planted version."""

    async def run() -> None:
        below, counts = Below(), []
        cache = Cache(below, DIGEST, CachePolicy(**policy), asyncio.get_running_loop(), counts.append)
        result = play(cache, below, counts)
        if asyncio.iscoroutine(result):
            await result

    asyncio.run(run())


def ask(cache: Cache, value: float, seconds: float = 3_600.0, caller: str = "") -> Told:
    """Submit one row."""
    request = Told(seconds, caller)
    cache.submit(x(value), request)
    return request


def test_an_equal_request_is_answered_again() -> None:
    """The second request does not reach the version; both replies say how they were answered."""

    def play(cache: Cache, below: Below, counts: list[str]) -> None:
        first = ask(cache, 1)
        below.settle()
        second = ask(cache, 1)
        other = ask(cache, 3)
        below.settle()
        assert (first.value, second.value, other.value) == (2, 2, 6)
        assert first.status == "roadworthy; fwd=miss; stored"
        assert second.status.startswith("roadworthy; hit; ttl=")
        assert second.outcomes[0].source == "cache"  # type: ignore[union-attr]
        assert counts == ["miss", "hit", "miss"]
        assert below.asked == []

    scene(play)


def test_what_is_kept_holds_no_other_rows() -> None:
    """The rows of other requests in the same run are released."""

    def play(cache: Cache, below: Below, _counts: list[str]) -> None:
        ask(cache, 1)
        below.settle()
        hit = ask(cache, 1).outcomes[0]
        assert isinstance(hit, Answer)
        assert hit.joined.rows == 1
        assert hit.joined.blocks[0].values.base is None

    scene(play)


def test_callers_are_kept_apart_unless_shared() -> None:
    """One key does not learn what another was answered, nor that it asked."""

    def apart(cache: Cache, below: Below, counts: list[str]) -> None:
        ask(cache, 1, caller="a")
        below.settle()
        ask(cache, 1, caller="b")
        assert counts == ["miss", "miss"]

    def shared(cache: Cache, below: Below, counts: list[str]) -> None:
        ask(cache, 1, caller="a")
        below.settle()
        ask(cache, 1, caller="b")
        assert counts == ["miss", "hit"]

    scene(apart)
    scene(shared, shared_between_callers=True)


def test_an_old_answer_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time to live the version is asked again, and the reply says that the kept answer was stale."""
    clock = HandClock()
    monkeypatch.setattr("roadworthy.runtime.layers.cache.time", clock)

    def play(cache: Cache, below: Below, _counts: list[str]) -> None:
        ask(cache, 1)
        below.settle()
        clock.step(5.1)
        late = ask(cache, 1)
        below.settle(answer(7))
        assert (late.value, late.status) == (7, "roadworthy; fwd=stale; stored")

    scene(play, ttl_s=5.0)


def test_faults_are_never_kept() -> None:
    """All requests that waited for the run get the fault; the next one runs again."""

    def play(cache: Cache, below: Below, counts: list[str]) -> None:
        first, second = ask(cache, 1), ask(cache, 1)
        below.settle(ModelFault("no", code="model-failed"))
        assert (first.code, second.code) == ("model-failed", "model-failed")
        again = ask(cache, 1)
        below.settle()
        assert again.value == 2
        assert counts == ["miss", "collapsed", "miss"]

    scene(play)


def test_equal_requests_run_once() -> None:
    """Those that wait at the same moment share one run, from any caller, and their replies say so."""

    def play(cache: Cache, below: Below, counts: list[str]) -> None:
        requests = [ask(cache, 1) for _ in range(50)]
        assert len(below.asked) == 1
        below.settle()
        assert {request.value for request in requests} == {2}
        assert [request.status for request in requests[:2]] == [
            "roadworthy; fwd=miss; stored",
            "roadworthy; fwd=miss; collapsed",
        ]
        assert all(request.running for request in requests)
        assert counts == ["miss", *["collapsed"] * 49]

    scene(play)


def test_a_leader_that_goes_takes_nobody_along() -> None:
    """Its run continues for the followers; once all have left, the run may be skipped, and the next request starts anew."""

    def play(cache: Cache, below: Below, _counts: list[str]) -> None:
        leader, follower = ask(cache, 1), ask(cache, 1)
        leader.drop()
        assert not below.asked[0][1].done
        below.settle()
        assert (leader.outcomes, follower.value) == ([], 2)
        gone = ask(cache, 5)
        gone.drop()
        assert below.asked[0][1].done
        later = ask(cache, 5)
        assert len(below.asked) == 2
        below.settle()
        assert later.value == 10

    scene(play)


def test_each_keeps_its_own_deadline() -> None:
    """The impatient leader is settled at its deadline; the follower has more time and gets the answer."""

    async def play(cache: Cache, below: Below, _counts: list[str]) -> None:
        leader, follower = ask(cache, 1, seconds=0.02), ask(cache, 1, seconds=3_600)
        impatient = ask(cache, 1, seconds=0.01)
        await soon(lambda: leader.done and impatient.done, "both are settled")
        assert (leader.code, impatient.code) == ("deadline-exceeded", "deadline-exceeded")
        assert not follower.done
        below.settle()
        assert follower.value == 2

    scene(play)


def test_a_follower_with_more_time_takes_over() -> None:
    """A version that gave up at the leader's deadline is asked again for the requests that still wait."""

    async def play(cache: Cache, below: Below, _counts: list[str]) -> None:
        leader, follower = ask(cache, 1, seconds=600), ask(cache, 1, seconds=3_600)
        below.settle(DeadlineExceeded("too late"))
        assert (leader.code, follower.done) == ("deadline-exceeded", False)
        await asyncio.sleep(0)
        below.settle(DeadlineExceeded("too late"))
        assert follower.code == "deadline-exceeded"
        assert below.asked == []

    scene(play)


def test_the_bounds_hold() -> None:
    """Number and bytes: the least recently used entry goes first; an answer larger than the whole store is not kept."""
    store = AnswerStore(max_entries=2, max_bytes=10_000)
    for name in (b"a", b"b"):
        store.put(name, x(1), 0.0)
    store.get(b"a")
    store.put(b"c", x(1), 0.0)
    assert [store.get(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]
    large = Batch(X, 1_100, (Block(np.zeros((1_100, 1))),))
    assert store.put(b"d", large, 0.0)
    assert (len(store), store.get(b"d") is not None) == (1, True)
    huge = Batch(X, 2_000, (Block(np.zeros((2_000, 1))),))
    assert not store.put(b"d", huge, 0.0)
    assert (len(store), store.size) == (0, 0)


def test_rows_of_many_bytes_are_not_looked_up() -> None:
    """They go straight to the version, and count as bypass."""
    rows = MAX_KEYED_BYTES // 8 + 1
    batch = Batch(X, rows, (Block(np.zeros((rows, 1))),))

    def play(cache: Cache, below: Below, counts: list[str]) -> None:
        request = Told()
        cache.submit(batch, request)
        assert below.asked[0][1] is request
        assert counts == ["bypass"]

    scene(play)


def test_flights_that_were_dropped_below_are_forgotten() -> None:
    """A version silently skips requests without a waiting caller; their flights must not accumulate."""

    def play(cache: Cache, below: Below, _counts: list[str]) -> None:
        for number in range(5_000):
            ask(cache, number).drop()
            below.asked.clear()
        assert len(cache._flights) <= 1_024

    scene(play)


def test_the_last_good_answer_is_there_without_a_cache_policy() -> None:
    """With a time to live of 0 no answer is repeated or joined, but the last one is available for some time."""

    def play(cache: Cache, below: Below, counts: list[str]) -> None:
        first, second = ask(cache, 1), ask(cache, 1)
        below.settle()
        below.settle(answer(9))
        assert (first.value, second.value, counts) == (2, 9, [])
        assert first.outcomes[0].notes == ()  # type: ignore[union-attr]
        kept = cache.last_good(x(1), "", 60.0)
        assert kept is not None
        assert kept.batch.blocks[0].values[0, 0] == 9
        assert cache.last_good(x(1), "", -1.0) is None
        assert cache.last_good(x(1), "another caller", 60.0) is None

    scene(play, ttl_s=0.0)


VALUES = st.tuples(
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.booleans(),
    st.none() | st.recursive(st.integers() | st.text(max_size=2), lambda inner: st.lists(inner, max_size=2), max_leaves=3),
)
ROWS = st.lists(VALUES, min_size=1, max_size=4)
NAMES = [field.name for field in MIXED.fields]


def mixed(rows: list[tuple[Any, ...]], *, by_name: bool = False) -> Batch:
    """Rows as a protocol decodes them."""
    written = [dict(reversed(list(zip(NAMES, row, strict=True)))) for row in rows] if by_name else [list(r) for r in rows]
    return decode_rows(MIXED, written)[0]


def same(rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> bool:
    """Equal in type, sign and value."""
    return repr(rows) == repr(others)


@settings(deadline=None, max_examples=100)
@given(ROWS, ROWS)
def test_equal_rows_have_equal_keys_and_no_others(rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> None:
    """In any format, with any filler for null values, in any memory layout."""
    batch = mixed(rows)
    key = key_of(DIGEST, "me", batch)
    assert key == key_of(DIGEST, "me", mixed(rows, by_name=True))
    strange = [
        Block(np.asfortranarray(block.values), np.zeros(block.values.shape, bool) if block.mask is None else block.mask)
        for block in batch.blocks
    ]
    filled = []
    for block in strange:
        values = block.values.copy()
        assert block.mask is not None
        values[block.mask] = "?" if values.dtype.hasobject else 1
        filled.append(Block(values, block.mask))
    assert key == key_of(DIGEST, "me", Batch(MIXED, batch.rows, tuple(filled)))
    middle = mixed([rows[0], *rows, rows[0]]).slice(1, 1 + len(rows))
    assert key == key_of(DIGEST, "me", middle)
    if key is not None:
        assert key != key_of(DIGEST, "other", batch)
        assert key != key_of(DIGEST, None, batch)
        assert key != key_of("sha256:" + "b" * 64, "me", batch)
        assert (key == key_of(DIGEST, "me", mixed(others))) == same(rows, others)


def test_texts_cannot_be_moved_between_cells() -> None:
    """The key depends on the lengths and the order of texts."""
    layout = Layout((Field("a", DType.STRING), Field("b", DType.STRING)))
    keys = {
        key_of(DIGEST, "", decode_rows(layout, rows)[0])
        for rows in ([["ab", "c"]], [["a", "bc"]], [["", "abc"]], [["c", "ab"]], [["a", "b"], ["c", ""]])
    }
    assert len(keys) == 5


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 2), st.sampled_from([0.0, 5.0, 30.0])),
        st.tuples(st.just("settle"), st.sampled_from(["answer", "fault", "late"])),
        st.tuples(st.just("drop"), st.integers(0, 20)),
        st.tuples(st.just("round")),
        st.tuples(st.just("overloaded"), st.integers(0, 20)),
    ),
    max_size=40,
)
OUTCOMES: dict[str, Outcome | None] = {
    "answer": None,
    "fault": ModelFault("no", code="model-failed"),
    "late": DeadlineExceeded("too late"),
}


@settings(deadline=None, max_examples=100)
@given(STEPS, st.sampled_from([0.0, 60.0]))
def test_every_ticket_is_settled_once_whatever_happens(steps: list[tuple[Any, ...]], ttl_s: float) -> None:
    """Ask, answer, fail, expire and leave in any order: waiting requests are settled exactly once, left ones never."""

    async def play(cache: Cache, below: Below, _counts: list[str]) -> None:
        requests: list[tuple[float, Told]] = []
        gone: list[Told] = []
        for step in steps:
            if step[0] == "ask":
                requests.append((step[1], ask(cache, step[1], seconds=step[2])))
            elif step[0] == "settle":
                below.settle(OUTCOMES[step[1]])
            elif step[0] == "round":
                await asyncio.sleep(0)
            elif requests:
                leave(requests[step[1] % len(requests)][1], step[0], gone)
        for _ in range(3):
            while below.asked:
                below.settle()
            await asyncio.sleep(0)
        for value, request in requests:
            assert request.done
            assert len(request.outcomes) == (0 if request in gone else 1)
            if request.outcomes and isinstance(request.outcomes[0], Answer):
                assert request.value == 2 * value
        assert all(flight.done for flight in cache._flights.values())

    scene(play, ttl_s=ttl_s)


def leave(request: Told, how: str, gone: list[Told]) -> None:
    """Go, or be refused at admission."""
    if how == "overloaded":
        request.settle(ModelFault("refused at admission", code="overloaded"))
    elif not request.done:
        request.drop()
        gone.append(request)
