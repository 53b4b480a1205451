"""The cache of an endpoint, seen from outside: real workers, real sockets."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from roadworthy.contract.policy import CachePolicy, Policy
from roadworthy.contract.snapshot import KeyEntry
from roadworthy.foundation.slab import SlabReader
from roadworthy.serving.metrics import CACHE, read_totals
from tests.conftest import eventually

CACHED = Policy(cache=CachePolicy(ttl_s=3_600.0))


def results(folder: Path) -> dict[str, int]:
    """The counts by result."""
    counted = read_totals(SlabReader(folder / "run" / "slab")).counted
    return {labels[2]: count for labels, count in counted.items() if labels[0] == CACHE}


def runs(folder: Path) -> list[str]:
    """The first inputs of all rows that the model ran."""
    ran = folder / "ran"
    return ran.read_text().split() if ran.exists() else []


def test_equal_rows_are_answered_from_the_cache(start_worker: Any, make_plan: Any, planted_agent: Any, tmp_path: Path) -> None:
    """As lists or as objects, in either protocol; the reply, the record and the counts say so."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="noting")], CACHED)
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    first = worker.predict("e", [[1, 0, 3]])
    second = worker.predict("e", [{"c": 3.0, "b": 0.0, "a": 1.0}])
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [v]} for name, v in zip("abc", (1, 0, 3), strict=True)]
    third = worker.client.post("/v2/models/e/infer", json={"inputs": inputs})
    other = worker.predict("e", [[2, 0, 3]])
    assert (first.content, third.json()["outputs"][0]["data"]) == (second.content, [4.0])
    assert first.headers["cache-status"] == "roadworthy; fwd=miss; stored"
    assert second.headers["cache-status"].startswith("roadworthy; hit; ttl=")
    assert third.headers["cache-status"].startswith("roadworthy; hit; ttl=")
    assert other.headers["cache-status"] == "roadworthy; fwd=miss; stored"
    assert runs(tmp_path) == ["1", "2"]
    assert results(tmp_path) == {"miss": 2, "hit": 2}
    eventually(lambda: len(agent.records) >= 4, "four records")
    assert [record.source for record in agent.records[:4]] == ["", "cache", "cache", ""]
    assert [record.version for record in agent.records[:4]] == [1, 1, 1, 1]


def test_fifty_equal_requests_are_one_run(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """While the model runs the first. One client leaves, which does not affect the others."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="gated")], CACHED)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    body = json.dumps({"instances": [[7, 0.8, 0]]}).encode()
    head = "POST /v1/models/e:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    leader = socket.create_connection(("127.0.0.1", worker.port))
    leader.sendall(head.encode() + body)
    eventually(lambda: results(tmp_path).get("miss") == 1, "the leader has arrived")
    with ThreadPoolExecutor(49) as pool:
        replies = [pool.submit(worker.predict, "e", [[7, 0.8, 0]]) for _ in range(49)]
        eventually(lambda: results(tmp_path).get("collapsed") == 49, "all the others have")
        leader.close()
        worker.open_gate()
    assert {reply.result().status_code for reply in replies} == {200}
    assert {reply.result().headers["cache-status"] for reply in replies} == {"roadworthy; fwd=miss; collapsed"}
    assert runs(tmp_path) == ["7"]


def test_a_short_deadline_is_its_owners_alone(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """The leader gets 504 at its deadline, the follower gets the answer of the same run."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="gated")], CACHED)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(worker.predict, "e", [[7, 0.5, 0]], headers={"Request-Timeout-Ms": "2000"})
        eventually(lambda: results(tmp_path).get("miss") == 1, "the leader has arrived")
        follower = pool.submit(worker.predict, "e", [[7, 0.5, 0]])
        eventually(lambda: results(tmp_path).get("collapsed") == 1, "the follower has joined it")
        assert leader.result().status_code == 504
        worker.open_gate()
    assert (leader.result().status_code, leader.result().json()["code"]) == (504, "deadline-exceeded")
    assert (follower.result().status_code, follower.result().json()["predictions"]) == (200, [7.5])
    assert worker.predict("e", [[7, 0.5, 0]]).headers["cache-status"].startswith("roadworthy; hit")


def test_errors_are_not_cached(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """A model that fails on a row runs it each time."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="poison")], CACHED)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    for _ in range(3):
        reply = worker.predict("e", [[13, 0, 0]])
        assert (reply.status_code, reply.json()["code"]) == (500, "model-failed")
        assert "cache-status" not in reply.headers
    assert results(tmp_path) == {"miss": 3}


def test_callers_have_entries_of_their_own(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """Unless the policy shares entries, for endpoints whose answers are not secret."""
    keys = {name: f"rw_{name:x<8}_{'k' * 40}" for name in ("one", "two")}
    entries = tuple(
        KeyEntry(f"key-{name}", hashlib.sha256(text.encode()).hexdigest(), "predictor") for name, text in keys.items()
    )
    plan = make_plan()
    digest = plan.package(1)
    plan.endpoint("private", [digest], CACHED)
    plan.endpoint("shared", [digest], Policy(cache=CachePolicy(shared_between_callers=True)))
    worker = start_worker(plan, folder=tmp_path, snapshot=plan.snapshot(keys=entries)).wait_ready()

    def status(endpoint: str, name: str) -> str:
        reply = worker.predict(endpoint, [[1, 2, 3]], headers={"X-API-Key": keys[name]})
        return str(reply.headers["cache-status"].split("; ")[1])

    assert [status("private", name) for name in ("one", "two", "one")] == ["fwd=miss", "fwd=miss", "hit"]
    assert [status("shared", name) for name in ("one", "two", "one")] == ["fwd=miss", "hit", "hit"]


def test_never_across_versions(start_worker: Any, make_plan: Any, planted_agent: Any, tmp_path: Path) -> None:
    """Under load: from the moment another version serves, no caller gets an answer of the previous version."""
    plan = make_plan()
    first, second = plan.package(1, kind="sum"), plan.package(2, kind="sum")
    plan.endpoint("e", [first], CACHED)
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    stop = threading.Event()
    seen: list[tuple[str, str]] = []

    def load() -> None:
        while not stop.is_set():
            reply = worker.predict("e", [[1, 2, 3]])
            seen.append((reply.headers["roadworthy-version"], reply.headers["cache-status"].split("; ")[1]))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        eventually(lambda: len(seen) > 20, "some answers")
        plan.endpoint("e", [second], CACHED, generation=2)
        agent.offer(plan.snapshot(revision=2))
        eventually(lambda: seen[-1] == ("m:2", "hit"), "the second version answers")
    finally:
        stop.set()
        thread.join()
    moment = next(number for number, (version, _) in enumerate(seen) if version == "m:2")
    assert {version for version, _ in seen[:moment]} == {"m:1"}
    assert {version for version, _ in seen[moment:]} == {"m:2"}
    assert seen[moment][1] == "fwd=miss"
    assert [status for _, status in seen].count("fwd=miss") == 2
