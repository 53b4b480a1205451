"""Rollouts through the real API and store, against a simulated data plane that follows snapshots and counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.contract.telemetry import FAILED, VersionState
from tests.conftest import eventually
from tests.control.fleet import FAST, LINE, ROLLOUTS, Fleet, begin, current, follow_until, tell
from tests.control_plane import ControlProcess

Push = Callable[..., dict[str, Any]]
Digests = tuple[str, str, str]


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """What the control plane starts with."""
    return three_lines


@pytest.fixture
def fleet(gateway: Any) -> Fleet:
    """The data plane."""
    return Fleet(gateway.client)


@pytest.fixture
def digests(admin: httpx.Client, fleet: Fleet, push: Push) -> Digests:
    """Three versions exist and the first one serves."""
    found = (push(factor=2.0)["digest"], push(factor=3.0)["digest"], push(factor=4.0)["digest"])
    admin.put(LINE, json={"version": "line:1"})
    eventually(lambda: fleet.follow() and admin.get(LINE).json()["state"] == "serving", "the first version serves")
    return found


def test_a_good_version_goes_step_by_step_and_is_promoted(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Each share is in the snapshot for gateways; at the end it is the endpoint's version, and the stable the previous one."""
    begun = begin(admin)
    assert (begun["phase"], begun["stable"], begun["version"], begun["share"]) == ("preparing", "line:1", "line:2", 0)
    assert {package.digest for package in fleet.snapshot().packages} == set(digests[:2])
    shares = []

    def over(rollout: dict[str, Any]) -> bool:
        shares.append([(variant.digest, variant.weight) for variant in fleet.entry().split])
        return rollout["phase"] == "finished"

    ended = follow_until(fleet, admin, over, requests=400)
    one, two, _ = digests
    for split in ([(one, 9_500), (two, 500)], [(one, 5_000), (two, 5_000)], [(two, 10_000)]):
        assert split in shares
    assert (ended["outcome"], ended["decided_by"], ended["verdict"]["outcome"]) == ("promoted", "controller", "PASS")
    assert ended["verdict"]["findings"][0]["samples"] > 200
    endpoint = admin.get(LINE).json()
    assert (endpoint["version"], endpoint["previous"], endpoint["rollout"]) == ("line:2", "line:1", None)
    assert fleet.entry().rollout is None


def test_e1_a_canary_that_fails_every_request_goes_back(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """After its third failure the split is back at the stable; the audit trail has reason and numbers."""
    begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.serve(60, canary_bad=3)
    eventually(lambda: [(each.digest, each.weight) for each in fleet.entry().split] == [(digests[0], 10_000)], "it is back")
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["code"], ended["decided_by"]) == ("rolled-back", "worse", "controller")
    assert ended["text"].startswith("errors: canary 3 of 3 (1), stable 0 of 57 (0)")
    (entry,) = [e for e in admin.get("/api/v1/audit").json()["items"] if e["verb"] == "rollout-rolled-back"]
    assert (entry["actor"], entry["detail"]["text"]) == ("controller", ended["text"])
    assert (entry["detail"]["findings"][0]["samples"], entry["detail"]["findings"][0]["bad"]) == (3, 3)
    assert admin.get(LINE).json()["version"] == "line:1"


def test_e4_a_shared_outage_holds(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Both versions fail alike: neither is accused, nothing moves."""
    begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.serve(2_000, stable_bad=1_140, canary_bad=60)
    held = follow_until(fleet, admin, lambda rollout: rollout["verdict"]["code"] == "shared-outage")
    assert held["share"] == 5


def test_e5_without_traffic_nothing_is_promoted(admin: httpx.Client, fleet: Fleet, digests: Digests, ahead_s: Path) -> None:
    """The rollout holds and says so; at the deadline it goes back."""
    begin(admin, plan={**FAST, "deadline": 3_600})
    assert follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)["verdict"]["code"] == "no-evidence"
    ahead_s.write_text("3601")
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["code"]) == ("inconclusive", "inconclusive")
    assert "errors: no samples yet; the step needs 10" in ended["text"]
    (event,) = [e for e in admin.get("/api/v1/events").json()["items"] if e["kind"] == "rollout-finished"]
    assert (event["detail"]["outcome"], event["detail"]["text"]) == ("inconclusive", ended["text"])
    assert event["detail"]["findings"][0]["step"]["needed"] == 10
    assert [e["detail"]["text"] for e in admin.get("/api/v1/audit").json()["items"] if e["verb"] == "rollout-inconclusive"]


def test_e7_a_version_that_crashes_at_start_never_gets_traffic(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Between attempts, whose pauses grow, it is not in the snapshot; crashes of all attempts together end the rollout."""
    fleet.states[digests[1]] = VersionState(digests[1], FAILED, reason="it crashes", code="load-failed")
    begin(admin)
    fleet.crash(digests[1])
    fleet.crash(digests[1])
    waiting = follow_until(fleet, admin, lambda rollout: rollout["attempts"] == 1)
    assert "loading failed 1 times" in waiting["text"]
    assert [package.digest for package in fleet.snapshot().packages] == [digests[0]]
    eventually(lambda: fleet.snapshot().packages[1:], "it is tried again")
    fleet.crash(digests[1])
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["code"]) == ("not-started", "crash-limit")
    assert fleet.entry().split[0].digest == digests[0]


def test_e7_crashes_of_an_earlier_rollout_are_no_crashes_of_this_one(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Each rollout counts its own crashes, from before its first step on; later reports on the first one change nothing."""
    begin(admin)
    fleet.crash(digests[1])
    fleet.crash(digests[1])
    follow_until(fleet, admin, lambda rollout: rollout["crashes"] == 2)
    tell(admin, "abort")
    follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    begin(admin)
    again = follow_until(fleet, admin, lambda rollout: rollout["share"] == 5, requests=10)
    assert again["crashes"] == 0
    fleet.crash(digests[1])
    again = follow_until(fleet, admin, lambda rollout: rollout["crashes"] == 1, requests=10)
    assert again["phase"] == "stepping"
    for _ in range(2):
        fleet.crash(digests[1])
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["code"]) == ("rolled-back", "crash-limit")


def test_e8_another_signature_needs_somebody_who_answers_for_it(
    admin: httpx.Client, fleet: Fleet, digests: Digests, push: Push, control: ControlProcess
) -> None:
    """Refused; with a reason it is accepted, actor and reason are audited, and the signature changes with the traffic."""
    push(factor=5.0, width=4)
    plan = {"strategy": "all-at-once", "criteria": ["errors"]}
    refused = admin.post(ROLLOUTS, json={"version": "line:4", "plan": plan})
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout-refused")
    assert [each["code"] for each in refused.json()["problems"]] == ["signature-incompatible"]
    why = {"accept_signature_change": "callers were moved"}
    mixed = admin.post(ROLLOUTS, json={"version": "line:4", "plan": FAST, **why})
    assert [each["code"] for each in mixed.json()["problems"]] == ["two-signatures"]
    before = fleet.entry().signature
    begin(admin, "line:4", plan=plan, **why)
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert ended["outcome"] == "promoted"
    assert ended["signature_accepted"] == {"by": control.admin_id, "reason": "callers were moved"}
    assert fleet.entry().signature == admin.get(LINE).json()["signature"] != before
    (entry,) = [e for e in admin.get("/api/v1/audit").json()["items"] if e["verb"] == "rollout-start"]
    assert (entry["actor"], entry["detail"]["signature_accepted"]) == (control.admin_id, "callers were moved")


def test_a_gateway_that_refuses_an_endpoint_holds_only_that_endpoint(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Its rollout waits and names the gateway, and a caller who waits for it goes on waiting; those of other endpoints go on."""
    admin.put("/api/v1/endpoints/other", json={"version": "line:1"})
    fleet.refused = ("line",)

    def reached() -> tuple[int, int]:
        fleet.follow()
        found = {each["name"]: each["reached_revision"] for each in admin.get("/api/v1/endpoints").json()["items"]}
        return found["line"], found["other"]

    eventually(lambda: reached() == (0, admin.get(LINE).json()["revision"]), "the other endpoint is served")
    begin(admin)
    held = follow_until(fleet, admin, lambda rollout: rollout["code"] == "split-not-applied", requests=400)
    assert held["text"].endswith("/gw-1, see `roadworthy status`")
    fleet.refused = ("other",)
    assert follow_until(fleet, admin, lambda each: each["phase"] == "finished", requests=400)["outcome"] == "promoted"


def test_a_version_without_room_is_refused_before_anything_moves(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """The reason has the machine, its free memory and the need; with enough memory the same rollout begins."""
    fleet.memory_free_bytes = 1_000
    fleet.follow()
    refused = admin.post(ROLLOUTS, json={"version": "line:2", "plan": FAST})
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout-refused")
    (problem,) = refused.json()["problems"]
    assert problem["code"] == "no-room"
    assert "gw-1 has 0 MiB of memory left, but line:2 needs" in problem["text"]
    assert {package.digest for package in fleet.snapshot().packages} == {digests[0]}
    fleet.memory_free_bytes = 1 << 30
    fleet.follow()
    assert begin(admin)["phase"] == "preparing"


def test_e10_a_third_version_waits_until_the_second_ones_traffic_is_moved(
    admin: httpx.Client, fleet: Fleet, digests: Digests, control: ControlProcess
) -> None:
    """Without supersede it is refused, with the running rollout's step; with it, it begins after the other one is back."""
    first = begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    refused = admin.post(ROLLOUTS, json={"version": "line:3", "plan": FAST})
    body = refused.json()
    assert (refused.status_code, body["code"], body["rollout"]) == (409, "rollout-running", first["id"])
    assert (body["started_by"], body["step"], body["share"]) == (control.admin_id, 1, 5)
    deployed = admin.put(LINE, json={"version": "line:3"})
    assert (deployed.status_code, deployed.json()["code"]) == (409, "rollout-running")
    second = begin(admin, "line:3", supersede=True)
    assert second["phase"] == "waiting"
    follow_until(fleet, admin, lambda rollout: rollout["id"] == second["id"] and rollout["share"] == 5)
    assert admin.get(f"{ROLLOUTS}/{first['id']}").json()["outcome"] == "superseded"
    assert {variant.digest for variant in fleet.entry().split} == {digests[0], digests[2]}


def test_e10_the_old_canary_keeps_its_share_while_the_stable_is_not_ready(
    admin: httpx.Client, fleet: Fleet, digests: Digests
) -> None:
    """Superseded by a deployment: its traffic stays until the stable can take it, and only then the third version comes."""
    begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.states[digests[0]] = VersionState(digests[0], "LOADING")
    fleet.follow()
    assert admin.put(LINE, json={"version": "line:3", "supersede": True}).status_code == 202
    for _ in range(3):
        fleet.follow()
    assert (current(admin)["phase"], current(admin)["share"]) == ("returning", 5)
    assert admin.get(LINE).json()["pending"]["version"] == "line:3"
    fleet.states.clear()
    follow_until(fleet, admin, lambda rollout: rollout["outcome"] == "superseded")
    follow_until(fleet, admin, lambda _: admin.get(LINE).json()["version"] == "line:3")


def test_e11_abort_while_promoting_goes_to_a_ready_version(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """The canary already has all traffic and the stable is not ready: the traffic stays there until the stable is ready."""
    begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.frozen = fleet.snapshot()  # the promotion is not applied yet
    assert tell(admin, "promote").json()["done"] is True
    fleet.follow()
    assert (current(admin)["phase"], current(admin)["share"]) == ("promoting", 100)
    fleet.states[digests[0]] = VersionState(digests[0], "LOADING")
    fleet.follow()
    aborted = tell(admin, "abort").json()
    assert (aborted["done"], aborted["phase"], aborted["share"]) == (True, "returning", 100)
    assert fleet.entry().split[0].digest == digests[1]
    fleet.states.clear()
    fleet.frozen = None
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert ended["outcome"] == "aborted"
    assert fleet.entry().split[0].digest == digests[0]


def test_e12_weight_moves_back_only_when_the_stable_is_loaded_again(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Found worse while no worker has the stable loaded: the stable is loaded again, and traffic moves when it is ready."""
    begin(admin, plan={**FAST, "steps": [50, 100]})
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 50)
    fleet.states[digests[0]] = VersionState(digests[0], "LOADING")
    fleet.bad.add(digests[1])
    fleet.serve(40)
    held = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "returning")
    assert (held["share"], held["code"]) == (50, "worse")
    assert digests[0] in {package.digest for package in fleet.snapshot().packages}
    told = [event["detail"] for event in admin.get("/api/v1/events").json()["items"] if event["kind"] == "rollout-alert"]
    assert "cannot-return" in {detail["code"] for detail in told}
    fleet.states.clear()
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["share"]) == ("rolled-back", 0)


def test_e13_abort_with_nothing_in_progress_does_nothing_and_says_so(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Neither without any rollout nor after the last one; other commands are refused."""
    before = fleet.snapshot()
    for _ in range(2):
        reply = tell(admin, "abort")
        assert (reply.status_code, reply.json()["done"]) == (200, False)
        assert reply.json()["refused"] == "nothing is in progress"
    assert fleet.snapshot() == before
    refused = tell(admin, "pause")
    assert (refused.status_code, refused.json()["code"]) == (409, "no-rollout-running")


def test_e15_the_stable_serves_while_the_canary_cannot_be_loaded(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Even if it fails on only some workers, and even at a step that increases the share."""
    begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.states[digests[1]] = VersionState(digests[1], FAILED, reason="out of memory", code="load-failed")
    fleet.follow()
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["code"], ended["text"]) == ("rolled-back", "not-loadable", "out of memory")
    assert [(variant.digest, variant.weight) for variant in fleet.entry().split] == [(digests[0], 10_000)]


def test_e16_what_a_rollout_may_go_back_to_cannot_be_deleted(admin: httpx.Client, fleet: Fleet, digests: Digests) -> None:
    """Stable and canary during the rollout, and afterwards the previous version."""
    begin(admin)
    for number in (1, 2):
        refused = admin.delete(f"/api/v1/models/line/versions/{number}")
        assert (refused.status_code, refused.json()["code"]) == (409, "version-serving")
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    tell(admin, "promote")
    follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert admin.delete("/api/v1/models/line/versions/1").status_code == 409
    assert admin.delete("/api/v1/models/line/versions/3").status_code == 204
