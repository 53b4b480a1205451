"""Workers that share their answers in a real Redis server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadworthy.contract.policy import CachePolicy, Policy
from roadworthy.serving.metrics import CACHE, SHARED_CACHE
from tests.conftest import RunningWorker, eventually
from tests.redis_servers import certificate, connected, counted, free_port, stored, tells, tells_reason, told

CACHED = Policy(cache=CachePolicy(ttl_s=3_600.0))
PATIENT: dict[str, Any] = {"cache_wait_ms": 20_000, "connect_s": 20.0}
"""How long a worker waits for the server, even on a busy machine; no less than a request may take."""


def status(reply: Any) -> str:
    """The cache's result for a request."""
    return str(reply.headers["cache-status"])


def test_what_one_worker_answered_another_one_gives(
    start_worker: Callable[..., RunningWorker], make_plan: Any, start_redis: Any
) -> None:
    """The second of two processes neither runs the model nor looks up twice; its reply has the entry's age and source."""
    redis = start_redis()
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="noting")], CACHED)
    options = {"cache_url": redis.url, **PATIENT}
    one, two = (connected(start_worker(plan, **options).wait_ready()) for _ in range(2))
    first = one.predict("e", [[1, 0, 3]])
    assert status(first) == "roadworthy; fwd=miss; stored"
    stored(one, 1)
    second, third = (two.predict("e", [{"c": 3.0, "b": 0.0, "a": 1.0}]) for _ in range(2))
    assert first.content == second.content == third.content
    name, hit, ttl, detail = status(second).split("; ")
    assert (name, hit, detail) == ("roadworthy", "hit", "detail=shared")
    assert 0 < int(ttl.removeprefix("ttl=")) <= 3_600
    assert status(third).split("; ")[:2] == ["roadworthy", "hit"]
    assert "detail" not in status(third)
    assert (one.folder / "ran").read_text().split() == ["1"]
    assert not (two.folder / "ran").exists()
    assert counted(one, CACHE) == {"miss": 1}
    assert counted(two, CACHE) == {"hit-shared": 1, "hit": 1}
    assert counted(two, SHARED_CACHE) == {}


ALLOWED = "+ping +pttl +getrange +set +select"


@pytest.fixture
def start(start_worker: Callable[..., RunningWorker], make_plan: Any) -> Callable[[str], RunningWorker]:
    """Starts workers with one endpoint that has a cache."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1)], CACHED)
    return lambda url: start_worker(plan, cache_url=url, **PATIENT).wait_ready()


def test_over_tls_as_a_user_with_the_documented_rights(start: Any, start_redis: Any, tmp_path: Path) -> None:
    """The certificate and its host name are verified: with another authority, or for another host, nothing is sent."""
    names = certificate(tmp_path, "localhost")
    port = free_port()
    tls = ("--tls-cert-file", names[0], "--tls-key-file", names[1], "--tls-auth-clients", "no")
    redis = start_redis("--tls-port", str(port), *tls)
    with redis.client() as admin:
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">hunter2", "~roadworthy:1:*", *ALLOWED.split())
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    assert all(f"`{command[1:]}`" in page for command in ALLOWED.split())
    one, two = (connected(start(f"rediss://gateway:hunter2@localhost:{port}/2?ssl_ca_certs={names[0]}")) for _ in range(2))
    one.predict("e", [[1, 2, 3]])
    stored(one, 1)
    assert status(two.predict("e", [[1, 2, 3]])).endswith("detail=shared")
    with redis.client(db=2) as database:
        (name,) = database.keys("*")
        assert name.startswith(b"roadworthy:1:")
        assert 0 < database.pttl(name) <= 3_600_000
    strangers = {
        f"rediss://gateway:hunter2@localhost:{port}": "SSLCertVerificationError",
        f"rediss://gateway:hunter2@127.0.0.1:{port}?ssl_ca_certs={names[0]}": "SSLCertVerificationError",
    }
    for url, reason in strangers.items():
        worker = start(url)
        tells_reason(worker, reason)
        assert {line["event"] for line in told(worker)} == {"shared-cache-lost"}


def test_a_user_without_the_rights_is_logged(start: Any, start_redis: Any) -> None:
    """A user that may not read is not connected; one that may not write only reads."""
    redis = start_redis()
    writer = connected(start(redis.url))
    writer.predict("e", [[1, 2, 3]])
    stored(writer, 1)
    with redis.client() as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">r", "~roadworthy:1:*", "+ping", "+pttl", "+getrange")
        admin.execute_command("ACL", "SETUSER", "stranger", "on", ">n", "~roadworthy:1:*", "+ping")
    reader = connected(start(redis.url.replace("unix://", "unix://reader:r@")))
    assert status(reader.predict("e", [[1, 2, 3]])).endswith("detail=shared")
    reader.predict("e", [[2, 2, 3]])
    eventually(lambda: counted(reader, SHARED_CACHE).get("refused"), "it may not write")
    tells(reader, "shared-cache-refuses")
    stranger = start(redis.url.replace("unix://", "unix://stranger:n@"))
    tells_reason(stranger, "NoPermissionError")
    assert {line["event"] for line in told(stranger)} == {"shared-cache-lost"}


def test_an_entry_lives_as_long_as_its_policy_says(
    start_worker: Callable[..., RunningWorker], make_plan: Any, start_redis: Any
) -> None:
    """Redis expires it; a worker with a shorter time to live does not use entries older than its own."""
    redis = start_redis()
    plans = {ttl_s: make_plan() for ttl_s in (0.3, 3_600.0)}
    for ttl_s, plan in plans.items():
        plan.endpoint("e", [plan.package(1)], Policy(cache=CachePolicy(ttl_s=ttl_s)))
    options = {"cache_url": redis.url, **PATIENT}
    short, long = (connected(start_worker(plan, **options).wait_ready()) for plan in plans.values())
    short.predict("e", [[1, 2, 3]])
    stored(short, 1)
    eventually(lambda: redis.keys() == [], "Redis forgets it")
    long.predict("e", [[1, 2, 3]])
    stored(long, 1)
    with redis.client() as client:
        (name,) = redis.keys()
        client.pexpire(name, 3_500_000)  # as if it had been kept 100 seconds ago
    assert status(short.predict("e", [[1, 2, 3]])) == "roadworthy; fwd=stale; stored"
    assert counted(short, SHARED_CACHE).get("unfit") is None


def test_versions_and_callers_have_separate_entries_there_too(
    start_worker: Callable[..., RunningWorker], make_plan: Any, start_redis: Any
) -> None:
    """Another version of the same name runs the same request; a policy that shares between callers has another entry."""
    redis = start_redis()
    options = {"cache_url": redis.url, **PATIENT}
    found = []
    for number, policy in ((1, CACHED), (2, CACHED), (1, Policy(cache=CachePolicy(shared_between_callers=True)))):
        plan = make_plan()
        plan.endpoint("e", [plan.package(number)], policy)
        worker = connected(start_worker(plan, **options).wait_ready())
        found.append(status(worker.predict("e", [[1, 2, 3]])))
        stored(worker, 1)
    assert found == ["roadworthy; fwd=miss; stored"] * 3
    assert len(redis.keys()) == 3
