"""Workers that share their answers in a real Redis server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roadworthy.contract.policy import CachePolicy, Policy
from roadworthy.gateway.metrics import CACHE, SHARED_CACHE
from tests.conftest import RunningWorker
from tests.redis_servers import PATIENT_MS, connected, counted, stored

CACHED = Policy(cache=CachePolicy(ttl_s=60.0))


def status(reply: Any) -> str:
    """What became of it."""
    return str(reply.headers["cache-status"])


def test_what_one_worker_answered_another_one_gives(
    start_worker: Callable[..., RunningWorker], make_plan: Any, start_redis: Any
) -> None:
    """Two processes: the second one neither runs the model, nor asks twice; its reply says how long, and from where."""
    redis = start_redis()
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="noting")], CACHED)
    options = {"cache_url": redis.url, "cache_wait_ms": PATIENT_MS}
    one, two = (connected(start_worker(plan, **options).wait_ready()) for _ in range(2))
    first = one.predict("e", [[1, 0, 3]])
    assert status(first) == "roadworthy; fwd=miss; stored"
    stored(one, 1)
    second, third = (two.predict("e", [{"c": 3.0, "b": 0.0, "a": 1.0}]) for _ in range(2))
    assert first.content == second.content == third.content
    name, hit, ttl, detail = status(second).split("; ")
    assert (name, hit, detail) == ("roadworthy", "hit", "detail=shared")
    assert 0 < int(ttl.removeprefix("ttl=")) < 60
    assert status(third).split("; ")[:2] == ["roadworthy", "hit"]
    assert "detail" not in status(third)
    assert (one.folder / "ran").read_text().split() == ["1"]
    assert not (two.folder / "ran").exists()
    assert counted(one, CACHE) == {"miss": 1}
    assert counted(two, CACHE) == {"hit-shared": 1, "hit": 1}
    assert counted(two, SHARED_CACHE) == {}
