"""Each request that reached an endpoint is recorded as it was, counted, and sent to the agent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from roadworthy.contract.policy import Policy
from roadworthy.foundation.slab import SlabReader
from roadworthy.serving.metrics import read_totals
from tests.conftest import eventually


def test_records_tell_all(start_worker: Any, make_plan: Any, planted_agent: Any, tmp_path: Path) -> None:
    """Answers and failures, with bodies as they were sent; an endpoint whose policy records nothing has no records."""
    plan = make_plan()
    digest = plan.package(1)
    plan.endpoint("sum", [digest], generation=7)
    plan.endpoint("silent", [digest], Policy(record=False))
    plan.endpoint("poison", [plan.package(2, kind="poison")])
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    before_us = time.time_ns() // 1_000
    good = worker.predict("sum", [[1, 2, 3], [4, 5, 6]], headers={"X-Request-Id": "mine"})
    bad = worker.predict("sum", [[1, "x", 3]])
    worker.predict("silent", [[1, 2, 3]])
    fault = worker.predict("poison", [[13, 2, 3]])
    assert (fault.status_code, fault.json()["code"]) == (500, "model-failed")
    assert "secret" not in fault.text
    eventually(lambda: len(agent.records) >= 3, "three records")
    first, second, third = agent.records
    assert (first.id, first.request_id) == (good.headers["roadworthy-prediction-id"], "mine")
    assert (first.endpoint, first.generation, first.model, first.version) == ("sum", 7, "m", 1)
    assert (first.digest, first.runtime, first.caller) == (digest, "planted", "")
    assert (first.status, first.code, first.rows) == (200, "ok", 2)
    assert (first.input_format, first.json_bytes, first.output_json_bytes) == ("json", -1, -1)
    assert json.loads(first.inputs) == {"instances": [[1, 2, 3], [4, 5, 6]]}
    assert first.outputs == good.content
    assert before_us <= first.at_us <= time.time_ns() // 1_000
    assert first.latency_us > 0
    assert (second.id, second.status, second.code) == (bad.headers["roadworthy-prediction-id"], 422, "wrong-type")
    assert (second.digest, second.version, second.rows) == ("", 0, 0)
    assert second.outputs == bad.content
    assert (third.status, third.code, third.digest) == (500, "model-failed", fault.headers["roadworthy-digest"])


def test_requests_are_counted(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """In the slab, by version and outcome; nothing stays in flight."""
    plan = make_plan()
    digest = plan.package(1)
    plan.endpoint("sum", [digest], generation=3)
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    for _ in range(4):
        worker.predict("sum", [[1, 2, 3]] * 5)
    worker.predict("sum", [[1]])
    worker.predict("absent", [[1]])
    totals = read_totals(SlabReader(tmp_path / "run" / "slab"))
    (bound,) = totals.rows
    assert (bound.endpoint, bound.generation, bound.version, bound.digest) == ("sum", 3, "m:1", digest)
    assert dict(totals.requests) == {(bound, "ok"): 4}
    assert totals.rows[bound] == 20
    assert sum(totals.in_flight.values()) == 0
    assert totals.refused["sum", "wrong-shape"] == 1
    assert totals.refused["", "unknown-endpoint"] == 1
    assert totals.slots[0].state == "READY"


def test_records_wait_for_an_agent_that_comes_late(start_worker: Any, make_plan: Any, planted_agent: Any, tmp_path: Path) -> None:
    """Serving needs no agent; a late agent, and its successor, get the records kept so far."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    worker = start_worker(plan, folder=tmp_path).wait_ready()
    ids = [worker.predict("sum", [[1, 2, 3]]).headers["roadworthy-prediction-id"] for _ in range(10)]
    first = planted_agent(tmp_path)
    eventually(lambda: len(first.records) == 10, "kept records arrive")
    assert [record.id for record in first.records] == ids
    assert first.last().slot == 0
    first.close()
    (tmp_path / "run" / "agent.sock").unlink()
    eventually(lambda: worker.client.get("/livez").status_code == 200, "alive without agent")
    second = planted_agent(tmp_path)
    eventually(lambda: second.reports, "it connects again")
    last = worker.predict("sum", [[1, 2, 3]]).headers["roadworthy-prediction-id"]
    eventually(lambda: second.records, "and records go on")
    assert second.records[-1].id == last
