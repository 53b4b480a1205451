"""Deploy, switch, rollback and undeploy, against gateways that report over the real API."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.contract.telemetry import FAILED, READY, VersionState
from tests.control_plane import endpoint_when, serving

Push = Callable[..., dict[str, Any]]


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """Versions 1 to 3 of `line` are registered and proved; pushing one of them again only returns it."""
    return three_lines


def test_traffic_moves_only_when_every_worker_is_ready(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """A split names a version only after all live workers have reported it READY."""
    digest = push()["digest"]
    reply = admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    assert reply.status_code == 202
    assert reply.json()["pending"]["reason"] == "no gateway is connected"
    held = gateway.snapshot().json()
    assert [p["digest"] for p in held["packages"]] == [digest]
    assert held["endpoints"] == []
    gateway.report(workers=(gateway.worker(VersionState(digest, READY)), gateway.worker(slot=1)))
    endpoint_when(admin, lambda found: found["pending"]["reason"] == "ready on 1 of 2 workers")
    gateway.ready(digest)
    assert serving(admin, "line:1")["state"] == "serving"
    assert gateway.published(admin)["endpoints"][0]["split"] == [{"digest": digest, "weight": 10_000}]


def test_a_version_that_fails_to_load_never_gets_traffic(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """FAILED on one worker ends the deployment with its reason; the current version goes on serving."""
    one, two = push(factor=2.0)["digest"], push(factor=3.0)["digest"]
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.ready(one)
    serving(admin, "line:1")
    admin.put("/api/v1/endpoints/line", json={"version": "line:2"})
    gateway.report(VersionState(one, READY), VersionState(two, FAILED, reason="answers differ", code="proof-failed"))
    document = endpoint_when(admin, lambda found: found["state"] == "failed")
    assert document["version"] == "line:1"
    assert document["pending"]["code"] == "proof-failed"
    assert gateway.published(admin)["endpoints"][0]["split"][0]["digest"] == one


def test_rollback_is_at_once_while_the_version_before_is_warm(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """Both versions stay in the snapshot after a switch, so going back needs no loading."""
    one, two = push(factor=2.0)["digest"], push(factor=3.0)["digest"]
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.ready(one)
    serving(admin, "line:1")
    assert admin.post("/api/v1/endpoints/line:rollback").json()["code"] == "no-previous-version"
    admin.put("/api/v1/endpoints/line", json={"version": "line:2"})
    gateway.ready(one, two)
    serving(admin, "line:2")
    back = admin.post("/api/v1/endpoints/line:rollback")
    assert back.status_code == 200
    assert (back.json()["version"], back.json()["previous"]) == ("line:1", "line:2")
    again = admin.post("/api/v1/endpoints/line:rollback")
    assert again.json()["version"] == "line:2"


def test_a_long_poll_is_woken_by_a_change(admin: httpx.Client, control: Any, gateway: Any, push: Push) -> None:
    """A waiting gateway gets the change at once."""
    push()
    etag = gateway.snapshot().headers["etag"]
    seen: list[int] = []

    def wait() -> None:
        with control.client(control.gateway_key) as client:
            reply = client.get("/internal/v1/snapshot", params={"wait_s": 20}, headers={"If-None-Match": etag})
        seen.append(reply.status_code)

    thread = threading.Thread(target=wait)
    thread.start()
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    thread.join()
    assert seen == [200]
    assert gateway.snapshot(gateway.snapshot().headers["etag"]).status_code == 304


def test_compare_and_set_lets_one_of_two_deploys_win(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """The basis of E9: the endpoint must still have the generation that the caller saw."""
    digest = push()["digest"]
    first = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "if_generation": 0})
    assert first.status_code == 202
    second = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "if_generation": 0})
    assert (second.status_code, second.json()["code"]) == (409, "generation-conflict")
    gateway.ready(digest)
    serving(admin, "line:1")
    same = admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    assert same.status_code == 200


def test_a_version_with_another_signature_is_refused(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """An endpoint's signature is a promise to its callers."""
    digest = push(width=3)["digest"]
    push(width=4)
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.ready(digest)
    serving(admin, "line:1")
    refused = admin.put("/api/v1/endpoints/line", json={"version": "line:4"})
    assert (refused.status_code, refused.json()["code"]) == (409, "signature-incompatible")
    assert admin.get("/api/v1/endpoints/line").json()["state"] == "serving"


def test_an_endpoint_that_never_answered_has_promised_nothing(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """If the first version fails to load, the next one may have another signature, which becomes the endpoint's."""
    first, second = push(width=3)["digest"], push(width=4)
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.report(VersionState(first, FAILED, reason="no", code="load-failed"))
    endpoint_when(admin, lambda found: found["state"] == "failed")
    assert admin.put("/api/v1/endpoints/line", json={"version": "line:4"}).status_code == 202
    gateway.ready(second["digest"])
    assert serving(admin, "line:4")["signature"] == second["signature"]


def test_what_was_reported_before_a_deploy_decides_nothing(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """A failure of the last attempt does not end the next one, and a package that is being unloaded does not count as ready."""
    digest = push()["digest"]
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.report(VersionState(digest, FAILED, reason="disk full", code="load-failed"))
    endpoint_when(admin, lambda found: found["state"] == "failed")
    again = admin.put("/api/v1/endpoints/line", json={"version": "line:1"}).json()
    assert (again["state"], again["pending"]["reason"]) == ("loading", "ready on 0 of 1 workers")
    gateway.ready(digest)
    serving(admin, "line:1")
    assert admin.delete("/api/v1/endpoints/line").status_code == 204
    assert admin.put("/api/v1/endpoints/line", json={"version": "line:1"}).json()["state"] == "loading"
    gateway.ready(digest)
    serving(admin, "line:1")


def test_the_version_before_is_deployed_at_once_while_it_is_warm(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """A version that workers already hold needs no new report."""
    one, two = push(factor=2.0)["digest"], push(factor=3.0)["digest"]
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.ready(one)
    serving(admin, "line:1")
    admin.put("/api/v1/endpoints/line", json={"version": "line:2"})
    gateway.ready(one, two)
    serving(admin, "line:2")
    back = admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    assert (back.status_code, back.json()["version"], back.json()["previous"]) == (200, "line:1", "line:2")


def test_undeploy_takes_the_endpoint_and_its_packages_away(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """Nothing of it stays in the snapshot; a second undeploy and a rollback get 404."""
    digest = push()["digest"]
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.ready(digest)
    serving(admin, "line:1")
    assert admin.delete("/api/v1/endpoints/line").status_code == 204
    held = gateway.snapshot().json()
    assert (held["endpoints"], held["packages"]) == ([], [])
    assert admin.delete("/api/v1/endpoints/line").json()["code"] == "unknown-endpoint"
    assert admin.post("/api/v1/endpoints/line:rollback").json()["code"] == "unknown-endpoint"
    assert admin.put("/api/v1/endpoints/line", json={"version": "line:9"}).json()["code"] == "unknown-version"


def test_policies_are_checked_and_named(admin: httpx.Client, push: Push) -> None:
    """An unknown policy is an error that lists the known ones; a bad value is one too."""
    push()
    unknown = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "policy": {"max_row": 5}})
    assert (unknown.status_code, unknown.json()["code"]) == (400, "unknown-policy")
    assert "max_rows" in unknown.json()["known"]
    bad = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "policy": {"max_rows": 0}})
    assert bad.json()["code"] == "invalid-policy"
    endless = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "policy": {"timeout_ms": 10**30}})
    assert endless.json()["code"] == "invalid-policy"
    text = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "policy": {"max_rows": "5"}})
    assert text.json()["code"] == "invalid-policy"
    assert admin.get("/api/v1/endpoints/line").status_code == 404
    good = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "policy": {"max_rows": 5}})
    assert good.json()["policy"]["max_rows"] == 5


def test_telemetry_counts_once_however_often_it_arrives(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """An old frame that arrives again changes nothing."""
    digest = push()["digest"]
    gateway.report(sequence=5, lost_records=3)
    gateway.report(VersionState(digest, READY), sequence=4, lost_records=1)
    status = admin.get("/api/v1/status").json()
    assert status["gateways"][0]["lost_records"] == 3
    assert status["gateways"][0]["workers"][0]["versions"] == []


def test_state_survives_kill_9(control: Any, gateway: Any, push: Push) -> None:
    """Everything that was answered is there after a crash, the epoch and a deployment on its way too, which goes on."""
    digest, other = push()["digest"], push(factor=3.0)["digest"]
    with control.client(control.admin_key) as admin:
        admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
        gateway.ready(digest)
        serving(admin, "line:1")
        ordered = admin.put("/api/v1/endpoints/line", json={"version": "line:2"}).json()
    before = gateway.snapshot().json()
    control.kill()
    control.start()
    with control.client(control.gateway_key) as client:
        after = client.get("/internal/v1/snapshot").json()
    assert (after["epoch"], after["revision"]) == (before["epoch"], before["revision"])
    assert after["endpoints"] == before["endpoints"]
    with control.client(control.admin_key) as admin, control.client(control.gateway_key) as gateway.client:
        assert admin.get("/api/v1/endpoints/line").json()["pending"] == ordered["pending"]
        gateway.ready(digest, other)
        serving(admin, "line:2")
        trail = [entry["verb"] for entry in admin.get("/api/v1/audit").json()["items"]]
    assert [verb for verb in trail if verb in ("deploy", "switch")] == ["switch", "deploy"] * 2
