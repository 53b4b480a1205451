"""A sharing cache looks answers up before it runs requests, and offers new ones; callers only see how they were answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from roadworthy.contract.policy import CachePolicy, Fallback, Policy
from roadworthy.foundation.errors import ModelFault, Unavailable
from roadworthy.runtime.layers.cache import Cache, Found
from roadworthy.runtime.layers.layer import LayerContext
from roadworthy.runtime.layers.stack import layered
from roadworthy.runtime.pending import Answer, PendingRequest, Submitter
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature
from tests.runtime.layers.test_cache import DIGEST, Below, Told, X, answer, ask, x
from tests.waiting import HandClock, soon


class There:
    """What others have answered, as far as the test says so; ages are by its clock, which stands still."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.away = False
        self.asked: list[tuple[bytes, int, float, Callable[[Found | None], None]]] = []
        self.put_there: list[tuple[bytes, float, float]] = []

    def ask(self, key: bytes, rows: int, deadline: float, tell: Callable[[Found | None], None]) -> bool:
        """Keep the question."""
        if not self.away:
            self.asked.append((key, rows, deadline, tell))
        return not self.away

    def put(self, key: bytes, batch: Batch, size: int, ttl_s: float) -> None:
        """Note it."""
        assert size > 0
        self.put_there.append((key, float(batch.blocks[0].values[0, 0]), ttl_s))

    def tell(self, value: float | None, age_s: float = 0.0, left_s: float = 60.0) -> None:
        """Answer the oldest question."""
        now = self.clock.monotonic()
        self.asked.pop(0)[3](None if value is None else Found(x(value), now - age_s, now + left_s))


def scene(play: Callable[[Cache, Below, There, list[str]], Any], **policy: Any) -> None:
    """Play with a sharing cache over a planted version."""
    clock = HandClock()

    async def run() -> None:
        below, there, counts = Below(), There(clock), []
        cache = Cache(below, DIGEST, CachePolicy(**policy), asyncio.get_running_loop(), counts.append)
        cache.share(there)
        result = play(cache, below, there, counts)
        if asyncio.iscoroutine(result):
            await result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roadworthy.runtime.layers.cache.time", clock)
        asyncio.run(run())


def test_what_is_there_is_given_and_kept() -> None:
    """The version is not asked; the next request is answered from here, for the answer's remaining time."""

    def play(cache: Cache, below: Below, there: There, counts: list[str]) -> None:
        first = ask(cache, 1)
        there.tell(7.0, age_s=20.0, left_s=39.5)
        second = ask(cache, 1)
        assert (first.value, second.value, below.asked, there.asked) == (7.0, 7.0, [], [])
        assert first.status == "roadworthy; hit; ttl=39; detail=shared"
        assert second.status == "roadworthy; hit; ttl=39"
        assert first.outcomes[0].source == "cache"  # type: ignore[union-attr]
        assert counts == ["hit-shared", "hit"]
        assert there.put_there == []

    scene(play)


def test_what_is_not_there_is_run_and_put_there_once_the_caller_has_it() -> None:
    """With the whole time to live; failures are not offered."""

    def play(cache: Cache, below: Below, there: There, counts: list[str]) -> None:
        first = ask(cache, 1)
        assert below.asked == []
        there.tell(None)
        before: list[int] = []
        first.settled = lambda outcome: (before.append(len(there.put_there)), Told.settled(first, outcome))  # type: ignore[method-assign]
        below.settle()
        assert before == [0]
        assert first.status == "roadworthy; fwd=miss; stored"
        assert [(value, ttl_s) for _, value, ttl_s in there.put_there] == [(2.0, 30.0)]
        failed = ask(cache, 2)
        there.tell(None)
        below.settle(ModelFault("no", code="model-failed"))
        assert failed.code == "model-failed"
        assert len(there.put_there) == 1
        assert counts == ["miss", "miss"]

    scene(play, ttl_s=30.0)


def test_without_it_nothing_is_different() -> None:
    """While the store is away the version is asked at once, and an error that it raises reaches the caller of `submit`."""

    class Raising(Below):
        def submit(self, batch: Batch, request: PendingRequest) -> None:
            raise Unavailable("unloading", code="version-unloading")

    def play(cache: Cache, below: Below, there: There, counts: list[str]) -> None:
        there.away = True
        first = ask(cache, 1)
        below.settle()
        assert (first.value, first.status, counts) == (2.0, "roadworthy; fwd=miss; stored", ["miss"])
        cache._below = Raising()
        with pytest.raises(Unavailable):
            ask(cache, 2)
        assert cache._flights == {}

    scene(play)


def test_the_question_tells_whose_answer_is_wanted() -> None:
    """Other callers, rows and versions have other keys; the question has the number of rows and the deadline."""

    def play(cache: Cache, _below: Below, there: There, _counts: list[str]) -> None:
        first = ask(cache, 1, seconds=500, caller="a")
        ask(cache, 1, caller="b")
        ask(cache, 2, caller="a")
        keys = [key for key, *_ in there.asked]
        assert len(set(keys)) == 3
        assert there.asked[0][1] == 1
        assert there.asked[0][2] == first.deadline
        cache._source = "sha256:" + "b" * 64
        ask(cache, 1, caller="a")
        assert there.asked[3][0] not in keys

    scene(play)


def test_equal_requests_ask_once() -> None:
    """Requests that come during the look-up share the found answer, or the run."""

    def play(cache: Cache, below: Below, there: There, counts: list[str]) -> None:
        requests = [ask(cache, 1) for _ in range(5)]
        assert len(there.asked) == 1
        there.tell(7.0)
        assert {request.value for request in requests} == {7.0}
        runs = [ask(cache, 2) for _ in range(3)]
        there.tell(None)
        late = ask(cache, 2)
        assert (len(below.asked), len(there.asked)) == (1, 0)
        below.settle()
        assert {request.value for request in [*runs, late]} == {4.0}
        assert counts == [*["collapsed"] * 4, "hit-shared", "collapsed", "collapsed", "miss", "collapsed"]
        assert len(there.put_there) == 1

    scene(play)


def test_who_leaves_meanwhile_is_not_run() -> None:
    """When the last one leaves, nothing runs; a found answer is kept anyway; another request starts anew."""

    def play(cache: Cache, below: Below, there: There, _counts: list[str]) -> None:
        ask(cache, 1).drop()
        there.tell(None)
        assert (below.asked, cache._flights) == ([], {})
        gone = ask(cache, 2)
        gone.drop()
        there.tell(9.0)
        assert (gone.outcomes, ask(cache, 2).value) == ([], 9.0)
        ask(cache, 3).drop()
        again = ask(cache, 3)
        assert len(there.asked) == 2
        there.tell(None)
        there.tell(5.0)
        assert (again.value, below.asked, cache._flights) == (5.0, [], {})

    scene(play)


def test_the_most_patient_one_counts_for_the_run() -> None:
    """The version gets the latest deadline of all that came during the look-up; the impatient one is settled in time."""

    async def play(cache: Cache, below: Below, there: There, _counts: list[str]) -> None:
        leader, follower = ask(cache, 1, seconds=0.02), ask(cache, 1, seconds=3_600)
        there.clock.step(3_000.0)
        await soon(lambda: leader.done, "it is settled")
        assert leader.code == "deadline-exceeded"
        there.tell(None)
        assert below.asked[0][1].run_deadline == follower.deadline  # type: ignore[attr-defined]
        below.settle()
        assert follower.value == 2.0

    scene(play)


def test_an_answer_older_than_the_policy_allows_is_run_anew() -> None:
    """Other gateways may keep answers longer, or did before the policy changed; an answer may also expire on the way."""

    def play(cache: Cache, below: Below, there: There, counts: list[str]) -> None:
        for age_s, left_s in ((11.0, 3_000.0), (2.0, 0.0), (0.0, -1.0)):
            request = ask(cache, age_s)
            there.tell(666.0, age_s, left_s)
            below.settle()
            assert request.value == 2 * age_s
        young = ask(cache, 100)
        there.tell(7.0, age_s=4.5, left_s=3_000.0)
        assert young.status == "roadworthy; hit; ttl=5; detail=shared"
        longer = ask(cache, 101)
        there.tell(7.0, age_s=0.0, left_s=2.5)
        assert longer.status == "roadworthy; hit; ttl=2; detail=shared"
        assert ask(cache, 101).status == "roadworthy; hit; ttl=2"
        assert counts[:3] == ["miss"] * 3

    scene(play, ttl_s=10.0)


def test_a_version_that_cannot_be_asked_afterwards_is_told() -> None:
    """No caller is left to take what it raises: waiting requests get it, and unexpected errors are logged."""

    class Raising(Below):
        error: Exception = Unavailable("unloading", code="version-unloading")

        def submit(self, batch: Batch, request: PendingRequest) -> None:
            raise self.error

    async def play(cache: Cache, _below: Below, there: There, _counts: list[str]) -> None:
        logged: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context))
        cache._below = below = Raising()
        expected, follower = ask(cache, 1), ask(cache, 1)
        there.tell(None)
        assert (expected.code, follower.code, logged) == ("version-unloading", "version-unloading", [])
        below.error = ZeroDivisionError()
        unforeseen = ask(cache, 1)
        there.tell(None)
        assert unforeseen.code == "internal"
        assert [context["exception"] for context in logged] == [below.error]
        assert cache._flights == {}

    scene(play)


def test_an_answer_that_has_no_room_here_is_given_all_the_same() -> None:
    """It is not offered to others, nor marked as stored."""

    def play(cache: Cache, below: Below, there: There, _counts: list[str]) -> None:
        found = ask(cache, 1)
        there.tell(7.0)
        assert found.value == 7.0
        run = ask(cache, 1)
        there.tell(None)
        below.settle()
        assert (run.value, run.status, there.put_there) == (2.0, "roadworthy; fwd=miss", [])

    scene(play, max_bytes=1)


def test_only_a_cache_policy_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback "cached" uses what this worker has seen, including answers found in the store."""
    clock = HandClock()
    monkeypatch.setattr("roadworthy.runtime.layers.cache.time", clock)

    async def play() -> None:
        there, below = There(clock), Below()

        class Counts:
            def cached(self, result: str) -> None:
                """Not of interest."""

            def fell_back(self, kind: str, reason: str) -> None:
                """Not of interest."""

        def layers(policy: Policy) -> Submitter:
            no_cells: Any = pytest.fail
            signature = Signature(X.fields, X.fields)
            return layered(below, policy, LayerContext(DIGEST, signature, Counts(), no_cells, shared=there))

        last_good = layers(Policy(fallback=(Fallback("cached"),)))
        last_good.submit(x(1), Told())
        assert (there.asked, len(below.asked)) == ([], 1)
        below.settle()
        assert there.put_there == []
        both = layers(Policy(cache=CachePolicy(ttl_s=0.001), fallback=(Fallback("cached"),)))
        assert "shared" in repr(both)
        both.submit(x(1), Told())
        there.tell(None)
        below.settle(answer(5))
        clock.step(0.002)  # the time to live
        later = Told()
        both.submit(x(1), later)
        there.tell(None)
        below.settle(ModelFault("no", code="model-failed"))
        assert isinstance(later.outcomes[0], Answer)
        assert (later.value, later.outcomes[0].source) == (5.0, "cached")

    asyncio.run(play())
