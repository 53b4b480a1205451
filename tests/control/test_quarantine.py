"""The control plane's reaction when gateways have a version in quarantine because it crashes there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.contract.telemetry import FAILED, READY, VersionState
from tests.control_plane import endpoint_when, serving
from tests.waiting import eventually

Push = Callable[..., dict[str, Any]]
LINE = "/api/v1/endpoints/line"


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """Versions 1 to 3 of `line` are registered and proved; pushing one of them again only returns it."""
    return three_lines


def bad(digest: str) -> VersionState:
    """A version in quarantine."""
    return VersionState(digest, FAILED, code="version-quarantined", reason="it crashed 3 times")


@pytest.fixture
def two(admin: httpx.Client, gateway: Any, push: Push) -> tuple[str, str]:
    """Version 2 serves, version 1 is the previous one."""
    digests = push(factor=2.0)["digest"], push(factor=3.0)["digest"]
    for number in (1, 2):
        admin.put(LINE, json={"version": f"line:{number}"})
        gateway.ready(*digests)
        serving(admin, f"line:{number}")
    return digests


def test_c3_traffic_returns_to_the_version_before(admin: httpx.Client, gateway: Any, two: tuple[str, str]) -> None:
    """By itself, audited with the reason; the crashing version is no rollback target and is no longer held."""
    gateway.report(VersionState(two[0], READY), bad(two[1]))
    document = serving(admin, "line:1")
    assert (document["previous"], document["changed_by"]) == (None, "controller")
    snapshot = gateway.published(admin)
    assert [package["digest"] for package in snapshot["packages"]] == [two[0]]
    (entry,) = [e for e in admin.get("/api/v1/audit?last=5").json()["items"] if e["verb"] == "rollback"]
    assert (entry["actor"], entry["subject"]) == ("controller", "line")
    assert entry["detail"] == {"version": "line:1", "left": "line:2", "reason": "it crashed 3 times"}


def test_c3_it_waits_for_a_version_that_can_answer(admin: httpx.Client, gateway: Any, two: tuple[str, str]) -> None:
    """The previous version must be ready; before that nothing changes."""
    gateway.report(bad(two[1]))
    assert admin.get(LINE).json()["version"] == "line:2"
    gateway.report(VersionState(two[0], READY), bad(two[1]))
    serving(admin, "line:1")


def test_c3_what_is_on_its_way_stays_so(admin: httpx.Client, gateway: Any, push: Push, two: tuple[str, str]) -> None:
    """A third version that is loading meanwhile is not forgotten."""
    third = push(factor=4.0)["digest"]
    admin.put(LINE, json={"version": "line:3"})
    gateway.report(VersionState(two[0], READY), bad(two[1]))
    assert serving(admin, "line:1")["pending"]["version"] == "line:3"
    gateway.ready(two[0], third)
    serving(admin, "line:3")


def test_e7_a_version_that_crashes_while_it_loads_never_gets_traffic(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """The deployment has failed, with code and reason; deploying it again is another attempt."""
    one, other = push(factor=2.0)["digest"], push(factor=3.0)["digest"]
    admin.put(LINE, json={"version": "line:1"})
    gateway.ready(one)
    serving(admin, "line:1")
    admin.put(LINE, json={"version": "line:2"})
    gateway.report(VersionState(one, READY), bad(other))
    document = endpoint_when(admin, lambda found: found["state"] == "failed")
    assert (document["version"], document["pending"]["code"]) == ("line:1", "version-quarantined")
    admin.put(LINE, json={"version": "line:2"})
    gateway.ready(one, other)
    serving(admin, "line:2")


def test_deploying_what_serves_again_is_another_try(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """Without a previous version, the generation grows, which gateways take as another chance; a healthy one stays unchanged."""
    digest = push()["digest"]
    admin.put(LINE, json={"version": "line:1"})
    gateway.ready(digest)
    before = serving(admin, "line:1")["generation"]
    now_us = time.time_ns() // 1_000
    eventually(lambda: time.time_ns() // 1_000 > now_us, "a report of a later microsecond")
    assert admin.put(LINE, json={"version": "line:1"}).json()["generation"] == before
    gateway.report(bad(digest))
    assert admin.get(LINE).json()["version"] == "line:1"
    assert admin.put(LINE, json={"version": "line:1"}).json()["generation"] == before + 1
    assert gateway.published(admin)["endpoints"][0]["generation"] == before + 1
    # What the gateway reported before does not count against the new attempt.
    assert admin.put(LINE, json={"version": "line:1"}).json()["generation"] == before + 1
