"""Waiting for an endpoint: done, failed, superseded or too slow."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from roadworthy.client.calls import Pause
from roadworthy.client.connection import Request
from roadworthy.client.deployments import Progress, wait_until_serving
from roadworthy.contract.api.endpoints import Endpoint
from roadworthy.foundation.errors import Conflict, DeadlineExceeded, PackageRefused, ProofFailed
from tests.contract.filled import filled


def document(version: str | None, pending: dict[str, Any] | None = None) -> dict[str, Any]:
    """An endpoint's document; the digest of version v is "d-v"."""
    state = "serving" if pending is None else "failed" if pending["state"] == "FAILED" else "loading"
    known = msgspec.to_builtins(filled(Endpoint)) | {"name": "e", "state": state, "pending": pending, "rollout": None}
    return known | {"version": version, "digest": version and f"d-{version}", "revision": 1, "reached_revision": 1}


def pending(version: str, state: str = "LOADING", code: str | None = None) -> dict[str, Any]:
    """A change under way."""
    return {"version": version, "digest": f"d-{version}", "state": state, "reason": "because", "code": code, "since": ""}


def waited(asked: dict[str, Any], *answers: dict[str, Any], timeout_s: float = 5, progress: Progress | None = None) -> Endpoint:
    """What the call returns if the control plane answers so; the last answer is repeated. Pauses take no time."""
    replies = list(answers)
    steps = wait_until_serving(msgspec.convert(asked, Endpoint), timeout_s, progress)
    reply: Any = None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration as end:
            found: Endpoint = end.value
            return found
        if isinstance(step, Request):
            assert replies, "it reads again"
            document = replies.pop(0) if len(replies) > 1 else replies[0]
            reply = httpx.Response(200, json=document)
        else:
            assert isinstance(step, Pause)


def test_it_waits_for_the_switch_and_shows_each_step() -> None:
    """It returns the first document with the new version, and passes each earlier one to `progress`."""
    seen: list[Endpoint] = []
    asked = document("m:1", pending("m:2"))
    assert waited(asked, asked, document("m:2"), progress=seen.append).version == "m:2"
    assert [each.version for each in seen] == ["m:1", "m:1", "m:2"]


def test_what_serves_already_needs_no_reading() -> None:
    """A reply with the state serving is enough."""
    assert waited(document("m:1"), timeout_s=0).version == "m:1"


def test_it_waits_until_every_worker_answers_by_it() -> None:
    """The store has the switch a moment before the last worker; later changes of other callers are not awaited."""
    answers = [
        document("m:2") | {"revision": 7, "reached_revision": 5},
        document("m:2") | {"revision": 9, "reached_revision": 6},
        document("m:2") | {"revision": 9, "reached_revision": 7},
    ]
    asked = document("m:1", pending("m:2")) | {"revision": 6, "reached_revision": 5}
    assert waited(asked, *answers).reached_revision == 7
    assert waited(document("m:2") | {"revision": 7, "reached_revision": None}).revision == 7


@pytest.mark.parametrize(
    ("code", "kind"), [("proof-failed", ProofFailed), ("code-not-allowed", PackageRefused), (None, Conflict)]
)
def test_a_failed_load_is_its_own_error(code: str | None, kind: type[Exception]) -> None:
    """The error has the class that fits the reason, its code, and the server's sentence."""
    with pytest.raises(kind, match="because") as caught:
        waited(document("m:1", pending("m:2", "FAILED", code)))
    assert caught.value.code == (code or "deploy-failed")  # type: ignore[attr-defined]


@pytest.mark.parametrize("other", [document("m:3"), document("m:1", pending("m:3"))])
def test_somebody_else_was_faster(other: dict[str, Any]) -> None:
    """Another version at the endpoint, serving or pending, is a conflict."""
    with pytest.raises(Conflict) as caught:
        waited(document("m:1", pending("m:2")), other)
    assert caught.value.code == "deploy-superseded"


def test_time_is_up() -> None:
    """After the timeout the error says that the endpoint keeps its version."""
    waiting = document("m:1", pending("m:2"))
    with pytest.raises(DeadlineExceeded) as caught:
        waited(waiting, waiting, timeout_s=0)
    assert caught.value.code == "deploy-timeout"
