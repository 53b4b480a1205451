"""API keys: a caller is accepted or refused before the body is read."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import KeyEntry

TEXTS = {name: f"rw_{name:x<8}_{'k' * 40}" for name in ("admin", "caller", "scoped", "gateway")}
GARBAGE = b"not even json"


def entry(name: str, role: str, endpoints: tuple[str, ...] | None = None) -> KeyEntry:
    """The snapshot's entry for a key."""
    return KeyEntry(f"key-{name:x<8}", hashlib.sha256(TEXTS[name].encode()).hexdigest(), role, endpoints)


KEYS = (
    entry("admin", "admin"),
    entry("caller", "predictor"),
    entry("scoped", "predictor", ("sum",)),
    entry("gateway", "gateway"),
)


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any) -> Any:
    """A worker that requires keys."""
    plan = make_plan()
    digest = plan.package(1)
    plan.endpoint("sum", [digest])
    plan.endpoint("other", [digest], Policy(max_in_flight=0))
    return start_worker(plan, snapshot=plan.snapshot(keys=KEYS)).wait_ready()


@pytest.mark.parametrize("name", ["admin", "caller", "scoped"])
def test_known_keys_may_call(worker: Any, name: str) -> None:
    """In either header, repeatedly."""
    for _ in range(3):
        for headers in ({"Authorization": f"Bearer {TEXTS[name]}"}, {"authorization": f"bearer  {TEXTS[name]}"}):
            assert worker.predict("sum", [[1, 2, 3]], headers=headers).status_code == 200
        assert worker.predict("sum", [[1, 2, 3]], headers={"X-API-Key": TEXTS[name]}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "no-key"),
        ({"Authorization": ""}, "no-key"),
        ({"Authorization": "Bearer"}, "no-key"),
        ({"Authorization": "Bearer rw_caller"}, "unknown-key"),
        ({"Authorization": f"Bearer {TEXTS['caller']}x"}, "unknown-key"),
        ({"Authorization": f"Basic {TEXTS['caller']}"}, "no-key"),
        ({"Authorization": TEXTS["caller"]}, "no-key"),
        ({"X-API-Key": ""}, "no-key"),
        ({"X-API-Key": "x" * 10_000}, "unknown-key"),
        ({"Cookie": f"key={TEXTS['caller']}"}, "no-key"),
    ],
)
def test_no_key_or_an_unknown_one(worker: Any, headers: dict[str, str], code: str) -> None:
    """401 with the challenge and different codes for the two, on every route but the probes, before the body is read."""
    reply = worker.post("sum", GARBAGE, **headers)
    assert (reply.status_code, reply.json()["code"]) == (401, code)
    assert reply.headers["www-authenticate"].startswith("Bearer")
    paths = ["/v1/models", "/v1/models/sum", "/v2", "/v2/models", "/v2/models/sum", "/v2/models/sum/ready", "/nothing"]
    for path in [*paths, "/v1/models/absent"]:
        assert worker.client.get(path, headers=headers).status_code == 401, path
    assert worker.client.get("/readyz", headers=headers).status_code == 200


def test_roles_and_scopes(worker: Any) -> None:
    """A gateway's key calls no endpoint; a scoped one only its own, and sees no other."""
    reply = worker.post("sum", GARBAGE, authorization=f"Bearer {TEXTS['gateway']}")
    assert (reply.status_code, reply.json()["code"]) == (403, "role-not-allowed")
    reply = worker.post("other", GARBAGE, authorization=f"Bearer {TEXTS['scoped']}")
    assert (reply.status_code, reply.json()["code"]) == (403, "endpoint-not-allowed")
    headers = {"Authorization": f"Bearer {TEXTS['scoped']}"}
    assert worker.client.get("/v1/models", headers=headers).json() == {"models": ["sum"]}
    assert worker.client.get("/v1/models/other", headers=headers).status_code == 403


def test_no_room(worker: Any) -> None:
    """Requests beyond the policy's bound are refused with 503 and Retry-After."""
    reply = worker.post("other", GARBAGE, authorization=f"Bearer {TEXTS['caller']}")
    assert (reply.status_code, reply.json()["code"]) == (503, "overloaded")
    assert reply.headers["retry-after"] == "1"
