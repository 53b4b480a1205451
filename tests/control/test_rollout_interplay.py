"""Rollouts together with every other change of an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.contract.telemetry import FAILED, VersionState
from tests.conftest import eventually
from tests.control.fleet import FAST, LINE, ROLLOUTS, Fleet, begin, current, follow_until, tell, three_versions


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """What the control plane starts with."""
    return three_lines


@pytest.fixture
def fleet(gateway: Any) -> Fleet:
    """The data plane."""
    return Fleet(gateway.client)


@pytest.fixture
def digests(admin: httpx.Client, fleet: Fleet, make_package: Callable[..., Path]) -> list[str]:
    """Three versions exist and the first one serves."""
    return three_versions(admin, fleet, make_package)


def test_e11_rollback_aborts_a_rollout(admin: httpx.Client, fleet: Fleet, digests: list[str], control: Any) -> None:
    """`roadworthy rollback` during a rollout: the traffic is the stable's with the reply, and the actor is recorded."""
    begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    reply = admin.post(f"{LINE}:rollback")
    assert (reply.status_code, reply.json()["version"]) == (200, "line:1")
    assert [(variant.digest, variant.weight) for variant in fleet.entry().split] == [(digests[0], 10_000)]
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["decided_by"]) == ("aborted", control.admin_id)


def test_policies_change_under_a_rollout(admin: httpx.Client, fleet: Fleet, digests: list[str]) -> None:
    """The same version with another policy is not a third version: the split stays, in a new generation."""
    begin(admin, plan={**FAST, "hold": "10m"})
    before = follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    reply = admin.put(LINE, json={"version": "line:1", "policy": {"timeout_ms": 500}})
    assert reply.status_code == 200, reply.text
    entry = fleet.entry()
    assert (entry.policy.timeout_ms, entry.split[1].weight) == (500, 500)
    assert entry.generation == before["generation"] + 1
    fleet.serve(200)
    after = follow_until(fleet, admin, lambda rollout: rollout["generation"] == entry.generation)
    assert after["verdict"]["findings"][0]["samples"] == 10


def test_an_endpoint_that_is_deleted_ends_its_rollout(admin: httpx.Client, fleet: Fleet, digests: list[str]) -> None:
    """Its history stays, and a new endpoint of the same name begins without history."""
    begun = begin(admin)
    assert admin.delete(LINE).status_code == 204
    assert admin.get(f"{ROLLOUTS}/{begun['id']}").json()["outcome"] == "aborted"
    assert admin.get("/api/v1/rollouts").json()["items"] == []
    three = admin.put(LINE, json={"version": "line:3"})
    assert (three.status_code, three.json()["rollout"]) == (202, None)


def test_c3_a_stable_in_quarantine_is_left_and_the_rollout_from_it_is_over(
    admin: httpx.Client, fleet: Fleet, digests: list[str]
) -> None:
    """Traffic goes to the previous version, which is ready."""
    admin.put(LINE, json={"version": "line:2"})
    follow_until_serving(admin, fleet, "line:2")
    begin(admin, "line:3")
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.states[digests[1]] = VersionState(digests[1], FAILED, code="version-quarantined", reason="it crashed 3 times")
    ended = follow_until(fleet, admin, lambda rollout: rollout["outcome"] is not None)
    assert (ended["outcome"], ended["decided_by"]) == ("aborted", "controller")
    assert "it crashed 3 times" in ended["text"]
    assert [(variant.digest, variant.weight) for variant in fleet.entry().split] == [(digests[0], 10_000)]


def test_a_shadow_copies_and_leaves_the_stable(admin: httpx.Client, fleet: Fleet, digests: list[str]) -> None:
    """The canary gets no share, and the snapshot has the copied part; the end changes no version."""
    begin(admin, plan={"strategy": "shadow", "share": 20, "hold": 0, "evidence": 0, "criteria": ["errors"]})
    seen = []
    ended = follow_until(
        fleet,
        admin,
        lambda rollout: (seen.append(fleet.entry().rollout and fleet.entry().rollout.shadow), rollout["outcome"])[1],
    )
    assert 2_000 in seen
    assert ended["outcome"] == "completed"
    assert admin.get(LINE).json()["version"] == "line:1"


def test_e6_stale_telemetry_holds_and_what_was_known_stands(
    admin: httpx.Client, fleet: Fleet, digests: list[str], ahead_s: Path
) -> None:
    """Gateways are silent for a while: the step stays, and the state says that telemetry is lost."""
    begin(admin, plan={**FAST, "hold": "10m"})
    before = follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    ahead_s.write_text(str(11 * 3_600))
    eventually(lambda: current(admin)["code"] in ("not-fresh", "telemetry-lost"), "the telemetry is stale")
    assert (current(admin)["share"], current(admin)["outcome"]) == (before["share"], None)
    assert tell(admin, "abort").json()["done"] is True


def test_counts_that_cannot_be_are_refused(admin: httpx.Client, fleet: Fleet, digests: list[str]) -> None:
    """More bad events than samples: the frame is refused with a code and changes nothing."""
    begun = begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.served[begun["id"]] = {(1, "canary"): [1, 2]}
    reply = fleet.gateway.report(rollouts=fleet.counts())
    assert (reply.status_code, reply.json()["code"]) == (400, "malformed-telemetry")
    assert current(admin)["verdict"]["findings"][0]["samples"] == 0


def follow_until_serving(admin: httpx.Client, fleet: Fleet, version: str) -> None:
    """Follow until the endpoint serves the version."""
    eventually(lambda: fleet.follow() and admin.get(LINE).json()["version"] == version, f"{version} serves")
