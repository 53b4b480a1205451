"""Snapshots over the link: versions change without a failed request, and only what can be served is served."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from roadworthy.contract.policy import Fallback, Policy
from roadworthy.contract.snapshot import KeyEntry, RolloutEntry, VariantEntry
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from tests.conftest import SUM, eventually
from tests.waiting import DEADLINE_S, NO_TLS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A gateway folder."""
    return tmp_path


def state(agent: Any, digest: str) -> str | None:
    """The newest reported state of a digest."""
    return next((each.state for each in agent.last().versions if each.digest == digest), None)


def test_from_nothing_to_two_versions_and_back(start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path) -> None:
    """Before the first snapshot 503; then versions arrive, change and go back under load without a failed request."""
    plan = make_plan()
    one, two = plan.package(1), plan.package(2)
    plan.endpoint("sum", [one])
    agent = planted_agent(folder)
    worker = start_worker(plan, snapshot=None, folder=folder)
    eventually(lambda: agent.reports, "hello")
    assert worker.client.get("/livez").status_code == 200
    assert worker.client.get("/readyz").status_code == 503
    reply = worker.predict("sum", [[1, 2, 3]])
    assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (503, "not-ready", "1")

    agent.offer(plan.snapshot(1))
    worker.wait_ready()
    eventually(lambda: agent.last().revision == 1, "revision 1 served")
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{worker.port}", timeout=DEADLINE_S, verify=NO_TLS) as client:
            while not stop.is_set():
                answer = client.post("/v1/models/sum:predict", json={"instances": [[1, 2, 3]]})
                seen.append((answer.status_code, answer.headers.get("roadworthy-version", "")))

    callers = [threading.Thread(target=load) for _ in range(3)]
    for caller in callers:
        caller.start()
    for revision, digest, version in ((2, two, "m:2"), (3, one, "m:1"), (4, two, "m:2")):
        plan.endpoint("sum", [digest], generation=revision)
        agent.offer(plan.snapshot(revision))
        eventually(lambda expected=version: seen and seen[-1][1] == expected, f"{version} answers")
        eventually(lambda expected=revision: agent.last().revision == expected, "it is reported")
    stop.set()
    for caller in callers:
        caller.join()
    assert {status for status, _ in seen} == {200}


def test_the_old_split_serves_until_the_new_one_is_ready(
    start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path
) -> None:
    """A missing package is FAILED and changes nothing; the same snapshot again, once the package is there, puts it in service."""
    plan = make_plan()
    one = plan.package(1)
    plan.endpoint("sum", [one])
    agent = planted_agent(folder)
    first = plan.snapshot(1)
    late, never = plan.package(2), plan.package(3, kind="refused")
    worker = start_worker(plan, snapshot=first, folder=folder).wait_ready()
    (folder / "packages" / late[7:]).unlink()
    plan.endpoint("sum", [late, one], generation=2)
    agent.offer(plan.snapshot(2))
    eventually(lambda: state(agent, late) == "FAILED" and state(agent, never) == "FAILED", "both fail")
    failed = next(each for each in agent.last().versions if each.digest == late)
    assert (failed.code, failed.reason) == ("package-refused", "planted refusal")
    assert (agent.last().revision, agent.last().offered) == (1, 2)
    assert worker.predict("sum", [[1, 2, 3]]).headers["roadworthy-version"] == "m:1"
    assert worker.client.get("/readyz").status_code == 200

    worker.provide(late)
    agent.offer(plan.snapshot(2))
    eventually(lambda: agent.last().revision == 2, "revision 2 served")
    answered = {worker.predict("sum", [[1, 2, 3]]).headers["roadworthy-version"] for _ in range(60)}
    assert answered == {"m:1", "m:2"}


def test_a_lower_revision_is_refused_and_another_epoch_taken(
    start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path
) -> None:
    """Within an epoch, revisions never go back; a new epoch starts at any revision."""
    plan = make_plan()
    one, two = plan.package(1), plan.package(2)
    plan.endpoint("sum", [one])
    agent = planted_agent(folder)
    worker = start_worker(plan, snapshot=plan.snapshot(5), folder=folder).wait_ready()
    plan.endpoint("sum", [two], generation=2)
    agent.offer(plan.snapshot(4))
    agent.offer(plan.snapshot(6, keys=()))
    eventually(lambda: agent.last().revision == 6, "revision 6 served")
    assert worker.predict("sum", [[1, 2, 3]]).status_code == 401
    agent.offer(plan.snapshot(1, epoch="another"))
    eventually(lambda: agent.last().epoch == "another", "the other epoch is served")
    assert worker.predict("sum", [[1, 2, 3]]).headers["roadworthy-version"] == "m:2"


def test_what_the_snapshot_no_longer_holds_is_unloaded(
    start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path
) -> None:
    """An old version stays loaded while the snapshot has its package, then is unloaded; a removed endpoint is unknown."""
    plan = make_plan()
    one, two = plan.package(1), plan.package(2)
    plan.endpoint("sum", [one])
    plan.endpoint("other", [two])
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()
    plan.endpoint("sum", [two], generation=2)
    plan.endpoints = [endpoint for endpoint in plan.endpoints if endpoint.name == "sum"]
    agent.offer(plan.snapshot(2))
    eventually(lambda: agent.last().revision == 2, "switched")
    assert state(agent, one) == "READY"
    assert worker.predict("other", [[1, 2, 3]]).json()["code"] == "unknown-endpoint"
    plan.packages = [package for package in plan.packages if package.digest == two]
    agent.offer(plan.snapshot(3))
    eventually(lambda: state(agent, one) is None, "unloaded")
    assert worker.predict("sum", [[1, 2, 3]]).status_code == 200


def test_a_revoked_key_is_dead_at_once(start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path) -> None:
    """Keys apply with the offered snapshot, even if its versions never become ready."""
    import hashlib

    key = KeyEntry("key-1", hashlib.sha256(b"rw_1").hexdigest(), "predictor")
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    agent = planted_agent(folder)
    worker = start_worker(plan, snapshot=plan.snapshot(1, keys=(key,)), folder=folder).wait_ready()
    headers = {"Authorization": "Bearer rw_1"}
    assert worker.predict("sum", [[1, 2, 3]], headers=headers).status_code == 200
    plan.endpoint("sum", [plan.package(2, kind="refused")], generation=2)
    agent.offer(plan.snapshot(2, keys=()))
    eventually(lambda: worker.predict("sum", [[1, 2, 3]], headers=headers).status_code == 401, "revoked")


def test_a_cold_start_with_a_broken_package(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """Endpoints with loaded versions are served. The probe says no and names the missing one, whose callers get Retry-After."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("broken", [plan.package(2, kind="refused")])
    worker = start_worker(plan, folder=folder)
    eventually(lambda: worker.client.get("/readyz").json().get("missing") == ["broken"], "the other is served")
    assert worker.client.get("/readyz").status_code == 503
    assert worker.predict("sum", [[1, 2, 3]]).status_code == 200
    reply = worker.predict("broken", [[1, 2, 3]])
    assert (reply.status_code, reply.json()["code"]) == (503, "endpoint-not-ready")


def test_an_endpoint_that_cannot_be_bound_leaves_the_rest(
    start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path
) -> None:
    """An unreadable signature, or weights that do not add up, affect only their endpoint; the link stays up."""
    plan = make_plan()
    one = plan.package(1)
    plan.endpoint("sum", [one])
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()
    whole = plan.endpoints[0]
    odd = msgspec.structs.replace(whole, name="odd", signature={"inputs": 7})
    light = msgspec.structs.replace(whole, name="light", split=(VariantEntry(one, 5),))
    plan.endpoints = [whole, odd, light]
    agent.offer(plan.snapshot(2))
    eventually(lambda: agent.last().offered == 2, "offered")
    assert worker.predict("sum", [[1, 2, 3]]).status_code == 200
    for name in ("odd", "light"):
        assert worker.predict(name, [[1, 2, 3]]).json()["code"] == "endpoint-not-ready"
    plan.endpoints = [whole]
    agent.offer(plan.snapshot(3))
    eventually(lambda: agent.last().revision == 3, "the link stays up")


def test_a_snapshot_that_cannot_be_read_is_passed_over(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """A damaged file on disk is ignored."""
    (folder / "snapshot.json").write_bytes(b'{"epoch": "e"')
    worker = start_worker(make_plan(), snapshot=None, folder=folder)
    eventually(lambda: worker.client.get("/livez").status_code == 200, "alive")
    assert worker.client.get("/readyz").status_code == 503


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_d3_a_stop_finishes_what_is_in_flight(start_worker: Any, make_plan: Any, folder: Path, number: int) -> None:
    """On SIGTERM the request in flight gets its answer, then the process exits with status 0."""
    plan = make_plan()
    plan.endpoint("slow", [plan.package(1, kind="gated")])
    worker = start_worker(plan, folder=folder).wait_ready()
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(worker.predict("slow", [[99, 1, 0]]).status_code))
    caller.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{worker.port}", timeout=DEADLINE_S, verify=NO_TLS) as other:
        eventually((folder / "ran").exists, "it is being answered")
        worker.process.send_signal(number)
        eventually(lambda: _closed_or_unready(other), "it is no longer ready")
        worker.open_gate()
    caller.join(DEADLINE_S)
    assert answers == [200]
    assert worker.process.wait(DEADLINE_S) == 0


def _closed_or_unready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 503
    except httpx.TransportError:
        return True


def test_a_worker_without_parent_leaves(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """When the pipe from the supervisor closes, the worker stops in order."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    worker = start_worker(plan, folder=folder).wait_ready()
    worker.process.stdin.close()
    assert worker.process.wait(DEADLINE_S) == 0


TEXT = Signature((Field("a", DType.STRING), *SUM.inputs[1:]), SUM.outputs, SUM.container)
RENAMED = Signature(SUM.inputs, (Field("sum", DType.FLOAT64),), SUM.container)


@pytest.mark.parametrize(
    ("signature", "shadow", "policy"),
    [(TEXT, 0, Policy()), (RENAMED, 10_000, Policy()), (SUM, 0, Policy(fallback=(Fallback("static", value="many"),)))],
    ids=["input", "shadowed", "fallback"],
)
def test_an_endpoint_that_does_not_fit_its_versions_stays_as_it_was(
    start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path, *, signature: Signature, shadow: int, policy: Policy
) -> None:
    """Its new version takes another input, or is shadowed and has another output; or the fallback's value is not an output. The
    previous split answers, and the worker reports the revision that it serves. The next snapshot that fits is served."""
    plan = make_plan()
    one, two = plan.package(1), plan.package(2, "sum", signature)
    plan.endpoint("sum", [one])
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()
    eventually(lambda: state(agent, two) == "READY", "the new version is loaded")
    rollout = RolloutEntry("r", one, two, shadow=shadow) if shadow else None
    split = (VariantEntry(one if shadow else two, 10_000),)
    (before,) = plan.endpoints
    plan.endpoints = [msgspec.structs.replace(before, generation=2, split=split, rollout=rollout, policy=policy)]
    agent.offer(plan.snapshot(2))
    eventually(lambda: agent.last().offered == 2, "it was offered")
    reply = worker.predict("sum", [[1, 2, 3]])
    assert (reply.json(), reply.headers["roadworthy-version"]) == ({"predictions": [6.0]}, "m:1")
    assert agent.last().revision == 1
    plan.endpoints = [msgspec.structs.replace(before, generation=3)]
    agent.offer(plan.snapshot(3))
    eventually(lambda: agent.last().revision == 3, "the next one is served")
