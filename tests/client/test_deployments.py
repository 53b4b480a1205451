"""Waiting for an endpoint: done, failed, superseded or too slow."""

from __future__ import annotations

from typing import Any

import pytest

from roadworthy.client.deployments import wait_until_serving
from roadworthy.foundation.errors import Conflict, DeadlineExceeded, PackageRefused, ProofFailed


def document(version: str | None, pending: dict[str, Any] | None = None) -> dict[str, Any]:
    """An endpoint's document; the digest of version v is "d-v"."""
    state = "serving" if pending is None else "failed" if pending["state"] == "FAILED" else "loading"
    return {"name": "e", "state": state, "version": version, "digest": version and f"d-{version}", "pending": pending}


def pending(version: str, state: str = "LOADING", code: str | None = None) -> dict[str, Any]:
    """A change under way."""
    return {"version": version, "digest": f"d-{version}", "state": state, "reason": "because", "code": code}


def test_it_waits_for_the_switch_and_shows_each_step() -> None:
    """It returns the first document with the new version, and passes each earlier one to `progress`."""
    answers = iter([document("m:1", pending("m:2")), document("m:2")])
    seen: list[Any] = []
    found = wait_until_serving(lambda: next(answers), document("m:1", pending("m:2")), 5, seen.append)
    assert found["version"] == "m:2"
    assert [each["version"] for each in seen] == ["m:1", "m:1", "m:2"]


def test_what_serves_already_needs_no_reading() -> None:
    """A reply with the state serving is enough."""
    assert wait_until_serving(lambda: pytest.fail("read"), document("m:1"), 0)["version"] == "m:1"


def test_it_waits_until_every_worker_answers_by_it() -> None:
    """The store has the switch a moment before the last worker; later changes of other callers are not awaited."""
    answers = iter(
        [
            document("m:2") | {"revision": 7, "reached_revision": 5},
            document("m:2") | {"revision": 9, "reached_revision": 6},
            document("m:2") | {"revision": 9, "reached_revision": 7},
        ]
    )
    asked = document("m:1", pending("m:2")) | {"revision": 6, "reached_revision": 5}
    assert wait_until_serving(lambda: next(answers), asked, 5)["reached_revision"] == 7
    nobody = document("m:2") | {"revision": 7, "reached_revision": None}
    assert wait_until_serving(lambda: pytest.fail("read"), nobody, 5) is nobody


@pytest.mark.parametrize(
    ("code", "kind"), [("proof-failed", ProofFailed), ("code-not-allowed", PackageRefused), (None, Conflict)]
)
def test_a_failed_load_is_its_own_error(code: str | None, kind: type[Exception]) -> None:
    """The error has the class that fits the reason, its code, and the server's sentence."""
    with pytest.raises(kind, match="because") as caught:
        wait_until_serving(lambda: pytest.fail("read"), document("m:1", pending("m:2", "FAILED", code)), 5)
    assert caught.value.code == (code or "deploy-failed")  # type: ignore[attr-defined]


@pytest.mark.parametrize("other", [document("m:3"), document("m:1", pending("m:3"))])
def test_somebody_else_was_faster(other: dict[str, Any]) -> None:
    """Another version at the endpoint, serving or pending, is a conflict."""
    with pytest.raises(Conflict) as caught:
        wait_until_serving(lambda: other, document("m:1", pending("m:2")), 5)
    assert caught.value.code == "deploy-superseded"


def test_time_is_up() -> None:
    """After the timeout the error says that the endpoint keeps its version."""
    waiting = document("m:1", pending("m:2"))
    with pytest.raises(DeadlineExceeded) as caught:
        wait_until_serving(lambda: waiting, waiting, 0.05)
    assert caught.value.code == "deploy-timeout"
