"""D13: the Redis server of the shared cache is absent, dies, hangs, is full, or is not Redis. The cache fails open: no request
fails, none waits longer than the bound, none waits at all while the server is known to be away; the log reports loss and return
once each."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roadworthy.contract.policy import CachePolicy, Policy
from roadworthy.serving.metrics import CACHE, SHARED_CACHE
from tests.conftest import RunningWorker
from tests.redis_servers import (
    PATIENT_MS,
    RealRedis,
    Rubbish,
    connected,
    counted,
    reaches,
    stored,
    tells,
    tells_reason,
    told,
)
from tests.waiting import DEADLINE_S, eventually

CACHED = Policy(cache=CachePolicy(ttl_s=3_600.0))
UNHURRIED: dict[str, Any] = {"cache_wait_ms": 20_000, "connect_s": 20.0}
"""Deadline in seconds for servers that answer, long enough for a busy machine."""
GREETING = b"SSH-2.0-OpenSSH_9.2\r\n"
RUBBISH = {
    "another-protocol": GREETING,
    "web-server": b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
    "yes-to-everything": b"+OK\r\n",
    "pong-to-everything": b"+PONG\r\n",
    "promises": b"$999999999\r\nx",
    "numbers": b":7\r\n" * 5,
    "not-ascii": bytes(range(128, 256)) + b"\r\n",
    "nested": b"*1\r\n" * 2_000,
    "errors": b"-ERR unknown command 'AUTH', with args beginning with: 'secret'\r\n",
    "nothing": b"",
}


@pytest.fixture
def start(start_worker: Callable[..., RunningWorker], make_plan: Any) -> Callable[..., RunningWorker]:
    """Starts workers with one endpoint that has a cache, and waits until they are ready, with or without Redis."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1)], CACHED)

    def begin(url: str, **options: Any) -> RunningWorker:
        return start_worker(plan, cache_url=url, **{"cache_wait_ms": PATIENT_MS, **options}).wait_ready()

    return begin


@pytest.fixture
def rubbish() -> Iterator[Callable[[Path, bytes], Rubbish]]:
    """Starts servers that are not Redis."""
    made: list[Rubbish] = []

    def make(path: Path, answer: bytes) -> Rubbish:
        made.append(Rubbish(path, answer))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(worker: RunningWorker, *values: float) -> list[str]:
    """The cache status of a request with each of these values; each gets the right answer."""
    found = []
    for value in values:
        reply = worker.predict("e", [[value, 1, 2]])
        assert (reply.status_code, reply.json()) == (200, {"predictions": [value + 3]})
        found.append(reply.headers["cache-status"])
    return found


MISS = "roadworthy; fwd=miss; stored"


def test_d13_it_starts_without_redis_and_finds_it_later(start: Any, start_redis: Any) -> None:
    """Ready at once; answers are counted as dropped and logged once; when the server appears, answers are shared."""
    redis = start_redis()
    redis.kill()
    worker = start(redis.url)
    assert asked(worker, *range(50)) == [MISS] * 50
    assert counted(worker, CACHE) == {"miss": 50}
    eventually(lambda: counted(worker, SHARED_CACHE).get("lost", 0) >= 2, "it tries again")
    # An answer is kept after its caller has it.
    eventually(lambda: counted(worker, SHARED_CACHE)["dropped"] == 50, "what could not be shared is counted")
    tells(worker, "shared-cache-lost")
    redis.start()
    connected(worker)
    asked(worker, 100)
    stored(worker, 1)
    tells(worker, "shared-cache-lost", "shared-cache-connected")
    assert asked(connected(start(redis.url)), 100)[0].endswith("detail=shared")


def test_d13_killed_and_started_again_under_load(start: Any, start_redis: Any) -> None:
    """Every request gets the right answer; then the server is used again. Loss and return are logged once each."""
    redis = start_redis()
    worker = connected(start(redis.url))
    over = threading.Event()
    faults: list[BaseException] = []

    def load(first: int) -> None:
        value = first
        try:
            while not over.is_set():
                asked(worker, value)
                value += 4
        except BaseException as error:  # noqa: BLE001 - raised below
            faults.append(error)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            eventually(lambda: reaches(worker), "it is used")
            before = counted(worker, SHARED_CACHE).get("stored", 0)
            stored(worker, before + 20)
            redis.kill()
            eventually(lambda: not reaches(worker), "the loss is noticed")
            redis.start()
        eventually(lambda: reaches(worker), "it is used again")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert worker.client.get("/readyz").status_code == 200
    tells(worker, "shared-cache-connected", *["shared-cache-lost", "shared-cache-connected"] * 3)


def test_d13_one_that_hangs_costs_one_wait_and_then_none(start: Any, start_redis: Any) -> None:
    """It keeps its connections and does not answer: the request that asks it continues without it, and no other request asks
    until it is back. The probe stays positive."""
    redis = start_redis()
    worker = connected(start(redis.url))
    asked(worker, 1)
    stored(worker, 1)
    redis.freeze()
    try:
        assert asked(worker, 2) == [MISS]
        eventually(lambda: not reaches(worker), "the loss is noticed")
        assert asked(worker, *range(3, 23)) == [MISS] * 20
        eventually(lambda: counted(worker, SHARED_CACHE)["dropped"] == 21, "none of them went to it")
        assert worker.client.get("/readyz").status_code == 200
        assert not reaches(worker)
    finally:
        redis.thaw()
    connected(worker)
    assert counted(worker, SHARED_CACHE)["lost"] >= 1
    tells(worker, "shared-cache-connected", "shared-cache-lost", "shared-cache-connected")


def test_d13_no_request_waits_beyond_its_deadline(start: Any, start_redis: Any) -> None:
    """A request whose deadline is near does not ask a hanging server, and is answered."""
    redis = start_redis()
    worker = connected(start(redis.url, cache_wait_ms=DEADLINE_S * 1_000))
    redis.freeze()
    try:
        reply = worker.predict("e", [[1, 1, 2]], headers={"Request-Timeout-Ms": f"{DEADLINE_S * 900:.0f}"})
        assert (reply.status_code, reply.json()) == (200, {"predictions": [4.0]})
        assert reaches(worker)  # the server was not asked
    finally:
        redis.thaw()


def test_d13_a_full_one_still_gives_what_it_has(start: Any, start_redis: Any) -> None:
    """It refuses to store more: that is counted and logged once, stored answers are used, and nothing else changes."""
    redis: RealRedis = start_redis("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    worker = connected(start(redis.url, **UNHURRIED))
    asked(worker, 1)
    stored(worker, 1)
    with redis.client() as client:
        client.config_set("maxmemory", "1")
    assert asked(worker, *range(2, 30)) == [MISS] * 28
    eventually(lambda: counted(worker, SHARED_CACHE).get("refused"), "it refuses")
    assert asked(worker, *range(30, 60)) == [MISS] * 30
    assert reaches(worker)
    tells(worker, "shared-cache-refuses")
    assert asked(connected(start(redis.url, **UNHURRIED)), 1)[0].endswith("detail=shared")
    with redis.client() as client:
        client.config_set("maxmemory", "0")
    values = iter(range(1_000, 10_000))
    eventually(lambda: asked(worker, next(values)) and counted(worker, SHARED_CACHE)["stored"] >= 2, "it keeps answers again")
    tells(worker, "shared-cache-refuses", "shared-cache-keeps-again")


@pytest.mark.parametrize("kind", list(RUBBISH))
def test_d13_one_that_is_no_redis(start: Any, start_redis: Any, rubbish: Any, kind: str) -> None:
    """Another server at Redis's address causes only misses, no request waits twice, and Redis is found again."""
    redis = start_redis()
    worker = connected(start(redis.url, cache_wait_ms=UNHURRIED["cache_wait_ms"]))
    redis.kill()
    other = rubbish(redis.path, RUBBISH[kind])
    assert asked(worker, *range(50)) == [MISS] * 50
    eventually(lambda: other.taken >= 2, "it tries again")
    assert not reaches(worker)
    assert worker.client.get("/readyz").status_code == 200
    other.close()
    redis.start()
    connected(worker)
    text = (worker.folder / "log").read_text()
    assert "secret" not in text
    assert "Traceback" not in text


def test_d13_what_others_wrote_there_is_refused(start: Any, start_redis: Any) -> None:
    """Garbage, pickles, other types, entries of another request or without expiry are counted, and the model runs again."""
    redis: RealRedis = start_redis()
    worker = connected(start(redis.url, **UNHURRIED))
    asked(worker, 1, 2)
    stored(worker, 2)
    with redis.client() as client:
        first, second = redis.keys()
        good = client.get(first)
        assert isinstance(good, bytes)
        strange: list[tuple[str, Any]] = [
            ("damaged", good[:-1] + bytes([good[-1] ^ 1])),
            ("cut off", good[:-1]),
            ("longer", good + b"x"),
            ("of another request", client.get(second)),
            ("pickled", pickle.dumps({"predictions": [666.0]})),
            ("text", b"666"),
            ("large", b"RWA1" + bytes(1 << 20)),
        ]
        for kind, value in strange:
            client.set(first, value, px=60_000)
            fresh = connected(start(redis.url, **UNHURRIED))
            assert asked(fresh, 1, 2).count(MISS) == 1, kind
            assert counted(fresh, SHARED_CACHE)["unfit"] == 1, kind
        client.set(first, good)  # valid, but without expiry
        fresh = connected(start(redis.url, **UNHURRIED))
        asked(fresh, 1, 2)
        assert counted(fresh, SHARED_CACHE)["unfit"] == 1
        client.delete(first)
        client.rpush(first, "a list")
        fresh = connected(start(redis.url, **UNHURRIED))
        asked(fresh, 1, 2)
        assert counted(fresh, SHARED_CACHE)["unfit"] == 1
        assert reaches(fresh)
        client.delete(first)
        client.set(first, good, px=60_000)  # control: the valid entry is used
        fresh = connected(start(redis.url, **UNHURRIED))
        asked(fresh, 1, 2)
        assert counted(fresh, SHARED_CACHE) == {}


def test_d13_a_wrong_password_is_told_and_not_shown(start: Any, start_redis: Any) -> None:
    """No log and no command line contains a password, right or wrong; with the right one answers are shared."""
    redis = start_redis("--requirepass", "open-sesame")
    wrong = start(redis.url.replace("unix://", "unix://default:hunter2@"))
    assert asked(wrong, 1, 2) == [MISS] * 2
    tells_reason(wrong, "ConnectionError AuthenticationError")
    right = connected(start(redis.url.replace("unix://", "unix://default:open-sesame@")))
    for worker, secret in ((wrong, "hunter2"), (right, "open-sesame")):
        assert secret not in (worker.folder / "log").read_text()
        assert secret.encode() not in Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()
        assert secret.encode() not in Path(f"/proc/{worker.process.pid}/environ").read_bytes()
        assert eventually(lambda worker=worker: told(worker), "the log reports it")[0]["address"] == redis.url
