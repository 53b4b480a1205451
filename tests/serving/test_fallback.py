"""Breakers and fallbacks, seen from outside: real workers whose versions fail, are slow, or are left alone."""

from __future__ import annotations

import random
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Fallback, Policy
from roadworthy.foundation.slab import SlabReader
from roadworthy.serving.metrics import FALLBACK, Totals, read_totals
from tests.conftest import eventually
from tests.waiting import DEADLINE_S

BAD, GOOD = [[13, 2, 3]], [[1, 2, 3]]
STATIC = Fallback("static", value=-1.0)


def totals(folder: Path) -> Totals:
    """The counts."""
    return read_totals(SlabReader(folder / "run" / "slab"))


def fallbacks(folder: Path) -> dict[tuple[str, ...], int]:
    """By kind and reason."""
    return {labels[2:]: count for labels, count in totals(folder).counted.items() if labels[0] == FALLBACK}


def test_a_static_answer_replaces_a_failing_version(
    start_worker: Any, make_plan: Any, planted_agent: Any, tmp_path: Path
) -> None:
    """200 with one answer per row, which header, record and counts name as a fallback. Good answers have no such mark."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="poison")], Policy(fallback=(STATIC,)))
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    reply = worker.predict("e", BAD * 2)
    assert (reply.status_code, reply.json()["predictions"]) == (200, [-1.0, -1.0])
    assert reply.headers["roadworthy-fallback"] == 'static; reason="model-failed"'
    good = worker.predict("e", GOOD)
    assert good.json()["predictions"] == [6.0]
    assert "roadworthy-fallback" not in good.headers
    wrong = worker.predict("e", [[1, "x", 3]])
    assert (wrong.status_code, wrong.json()["code"]) == (422, "wrong-type")
    eventually(lambda: len(agent.records) >= 3, "three records")
    assert [(record.status, record.source) for record in agent.records[:3]] == [(200, "static"), (200, ""), (422, "")]
    assert fallbacks(tmp_path) == {("static", "model-failed"): 1}


def test_another_version_answers_instead(start_worker: Any, make_plan: Any, planted_agent: Any, tmp_path: Path) -> None:
    """The reply and the record name the version that answered; every lease and place is released."""
    plan = make_plan()
    well = plan.package(1, kind="sum")
    step = Fallback("version", version="m:1", digest=well)
    plan.endpoint("e", [plan.package(2, kind="poison")], Policy(fallback=(step,)))
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    eventually(lambda: "roadworthy-fallback" in worker.predict("e", BAD).headers, "the other version is loaded")
    reply = worker.predict("e", BAD)
    assert reply.json()["predictions"] == [18.0]
    assert reply.headers["roadworthy-fallback"] == 'version; version="m:1"; reason="model-failed"'
    assert (reply.headers["roadworthy-version"], reply.headers["roadworthy-digest"]) == ("m:1", well)
    eventually(lambda: any(record.id == reply.headers["roadworthy-prediction-id"] for record in agent.records), "its record")
    (record,) = [record for record in agent.records if record.id == reply.headers["roadworthy-prediction-id"]]
    assert (record.source, record.version, record.digest, record.status) == ("version", 1, well, 200)
    assert totals(tmp_path).in_flight["e"] == 0
    plan.endpoint("e", [well], Policy(), generation=2)
    plan.packages = [package for package in plan.packages if package.digest == well]
    agent.offer(plan.snapshot(revision=2))
    eventually(lambda: [state.digest for state in agent.last().versions] == [well], "the failing version is unloaded")


def test_b7_a_failing_version_is_not_run_twice(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """Two slow versions run each request once each, however many steps there are."""
    plan = make_plan()
    chosen, other = plan.package(1, kind="poison"), plan.package(2, kind="gated")
    steps = (Fallback("version", digest=other), Fallback("version", digest=other), Fallback("version", digest=chosen))
    plan.endpoint("e", [chosen], Policy(fallback=steps))
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    worker.open_gate()
    eventually(lambda: worker.predict("e", BAD).status_code == 200, "it is loaded")
    before = len((tmp_path / "ran").read_text().split())
    worker.close_gate()
    late = worker.predict("e", [[13, 1.0, 0]], headers={"Request-Timeout-Ms": "2000"})
    worker.open_gate()
    assert (late.status_code, late.json()["code"]) == (500, "model-failed")
    assert len((tmp_path / "ran").read_text().split()) == before + 1


def test_the_last_good_answer_replaces_a_late_one(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """At the deadline, with its age; a caller without an earlier answer gets 504."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1, kind="gated")], Policy(fallback=(Fallback("cached", max_age_s=3_600.0),)))
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    row, hurry = [[7, 0.3, 0]], {"Request-Timeout-Ms": "1000"}
    worker.open_gate()
    assert worker.predict("e", row).json()["predictions"] == [7.3]
    worker.close_gate()
    reply = worker.predict("e", row, headers=hurry)
    assert (reply.status_code, reply.json()["predictions"]) == (200, [7.3])
    assert reply.headers["roadworthy-fallback"] == 'cached; reason="deadline-exceeded"'
    assert int(reply.headers["age"]) >= 0
    worker.open_gate()
    assert worker.predict("e", [[9, 0, 0]]).status_code == 200  # the late run is over, since it was queued before this one
    worker.close_gate()
    stranger = worker.predict("e", [[8, 0.3, 0]], headers=hurry)
    worker.open_gate()
    assert (stranger.status_code, stranger.json()["code"]) == (504, "deadline-exceeded")
    assert fallbacks(tmp_path) == {("cached", "deadline-exceeded"): 1, ("none", "deadline-exceeded"): 1}


def test_a_failing_version_is_left_alone_and_tried_again(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """503 with Retry-After at once, then probe requests, then normal service."""
    plan = make_plan()
    breaker = BreakerPolicy(min_requests=5, window_s=600.0, open_s=3.0, probes=2)
    plan.endpoint("e", [plan.package(1, kind="poison")], Policy(breaker=breaker))
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    assert [worker.predict("e", BAD).status_code for _ in range(5)] == [500] * 5
    eventually(lambda: worker.predict("e", BAD).status_code == 503, "the circuit opens")
    refused = worker.predict("e", GOOD)
    assert (refused.status_code, refused.json()["code"]) == (503, "circuit-open")
    assert refused.headers["retry-after"] in {"1", "2", "3"}
    eventually(lambda: worker.predict("e", GOOD).status_code == 200, "a probe request is admitted")
    assert [worker.predict("e", GOOD).status_code for _ in range(20)] == [200] * 20
    (cells,) = totals(tmp_path).breakers["e", 0]
    assert cells[1]


def test_while_the_circuit_is_open_the_fallback_answers(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """Without running the version or losing a request: forty clients get nothing but 200."""
    plan = make_plan()
    policy = Policy(breaker=BreakerPolicy(min_requests=5, window_s=600.0, open_s=3_600.0), fallback=(STATIC,))
    plan.endpoint("e", [plan.package(1, kind="poison")], policy)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: worker.predict("e", BAD), range(200)))
    assert {reply.status_code for reply in replies} == {200}
    eventually(lambda: "circuit-open" in worker.predict("e", BAD).headers["roadworthy-fallback"], "the circuit opens")
    asked = totals(tmp_path)
    assert worker.predict("e", GOOD).json()["predictions"] == [-1.0]
    counts = fallbacks(tmp_path)
    assert counts["static", "model-failed"] + counts["static", "circuit-open"] >= 201
    assert asked.in_flight["e"] == 0


def test_b4_a_caller_that_leaves_during_a_fallback_leaves_nothing_behind(
    start_worker: Any, make_plan: Any, tmp_path: Path
) -> None:
    """The fallback version finishes its run; nothing stays in flight, and other requests continue."""
    plan = make_plan()
    other = plan.package(1, kind="gated")
    step = Fallback("version", digest=other)
    plan.endpoint("e", [plan.package(2, kind="poison")], Policy(fallback=(step,)))
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    eventually(lambda: worker.predict("e", [[13, 0, 0]]).status_code == 200, "the other version is loaded")
    body = msgspec.json.encode({"instances": [[13, 0.5, 0]]})
    head = b"POST /v1/models/e:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", worker.port)) as gone:
        gone.sendall(head + body)
        eventually(lambda: totals(tmp_path).in_flight["e"] == 2, "both versions hold it")
    worker.open_gate()
    eventually(lambda: totals(tmp_path).in_flight["e"] == 0, "all is released")
    assert worker.predict("e", [[13, 0, 0]]).status_code == 200


def test_a_crowd_leaves_nothing_behind(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """All layers at once. Clients send few different rows, with short and long deadlines, and a third of them leave early. All
    others get the answer to their own row or a clear refusal, and every lease, place and flight is released."""
    plan = make_plan()
    other = plan.package(1, kind="noting")
    policy = Policy(
        cache=CachePolicy(ttl_s=0.02),
        breaker=BreakerPolicy(min_requests=20, open_s=0.1, failure_rate=0.6),
        fallback=(Fallback("cached", max_age_s=0.05), Fallback("version", digest=other)),
    )
    plan.endpoint("e", [plan.package(2, kind="poison")], policy)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    eventually(lambda: worker.predict("e", [[13, 0, 0]]).status_code == 200, "the other version is loaded")

    def client(number: int) -> set[int]:
        draw = random.Random(number)
        statuses = set()
        for _ in range(25):
            row = [draw.choice([13, 1, 2]), draw.choice([0.0, 0.001, 0.01]), draw.randrange(3)]
            body = msgspec.json.encode({"instances": [row]})
            lines = ["POST /v1/models/e:predict HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
            lines += [f"Content-Length: {len(body)}", f"Request-Timeout-Ms: {draw.choice([1, 5, 50, 60_000])}", "", ""]
            with socket.create_connection(("127.0.0.1", worker.port), timeout=DEADLINE_S) as connection:
                connection.sendall("\r\n".join(lines).encode() + body)
                if draw.random() < 1 / 3:
                    select.select([connection], [], [], draw.random() * 0.003)  # answered or not, it leaves
                    continue
                reply = b""
                while b"}" not in reply:
                    reply += connection.recv(65536)
            statuses.add(int(reply[9:12]))
            if reply[9:12] == b"200":
                assert msgspec.json.decode(reply.partition(b"\r\n\r\n")[2])["predictions"] == [pytest.approx(sum(row))]
        return statuses

    with ThreadPoolExecutor(16) as pool:
        statuses = set().union(*pool.map(client, range(16)))
    assert 200 in statuses
    assert statuses <= {200, 500, 503, 504}
    eventually(lambda: totals(tmp_path).in_flight["e"] == 0, "all is released")
    eventually(lambda: worker.predict("e", [[1, 2, 3]]).status_code == 200, "the circuit closes")


def test_a_fallback_that_does_not_fit_keeps_the_old_policy(
    start_worker: Any, make_plan: Any, planted_agent: Any, tmp_path: Path
) -> None:
    """The control plane refuses such a value; a worker that gets it nevertheless keeps its old policy."""
    plan = make_plan()
    digest = plan.package(1)
    plan.endpoint("e", [digest])
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    plan.endpoint("e", [digest], Policy(fallback=(Fallback("static", value="text"),)), generation=2)
    agent.offer(plan.snapshot(revision=2))
    eventually(lambda: agent.last().offered == 2, "it was offered")
    assert agent.last().revision == 1
    assert worker.predict("e", GOOD).status_code == 200


def test_without_a_policy_there_is_no_layer(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """The reply is the version's own, and nothing is counted."""
    plan = make_plan()
    plan.endpoint("e", [plan.package(1)])
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    reply = worker.predict("e", GOOD)
    assert {"cache-status", "roadworthy-fallback", "age"} & set(reply.headers) == set()
    assert totals(tmp_path).counted == {}
