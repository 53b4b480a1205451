"""Pages of lists: the last one says so, and a client of an earlier release that reads one reply gets what it always got."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from roadworthy.control.context import ControlContext
from roadworthy.control.resources.pages import PAGE
from roadworthy.control.wiring import build_context
from roadworthy.rollout import rollouts
from roadworthy.rollout.decide import machine
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.rollouts import Rollout
from tests.control.in_process import Caller
from tests.defaults import control_document


@pytest.fixture
def context(tmp_path: Path) -> Iterator[ControlContext]:
    """A control plane without its process."""
    found = build_context(control_document(tmp_path))
    yield found
    found.database.close()


def add(context: ControlContext, endpoint: str, number: int, ended_at_us: int | None = None) -> None:
    """Add a rollout, whose endpoint does not exist."""
    rollout_id = f"rollout-{number:08}"
    state, plan = machine.begin(rollout_id, 1), check_plan({"strategy": "canary"})
    made = Rollout(rollout_id, endpoint, "m:1", "d1", "m:2", "d2", plan, state, 1, "me", ended_at_us=ended_at_us)
    with context.database.begin() as connection:
        rollouts.create(connection, made)


def test_running_rollouts_are_whole_without_a_cursor(context: ControlContext) -> None:
    """Clients of earlier releases send none, and read one reply. An empty cursor asks for the first page."""
    for number in range(PAGE + 5):
        add(context, f"e{number:03}", number)
    caller = Caller(context)
    whole = caller.send("GET", "/api/v1/rollouts").json()
    assert (len(whole["items"]), whole["next"]) == (PAGE + 5, None)
    first = caller.send("GET", "/api/v1/rollouts?cursor=").json()
    rest = caller.send("GET", f"/api/v1/rollouts?cursor={first['next']}").json()
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (PAGE, 5, None)
    assert [*first["items"], *rest["items"]] == whole["items"]


def test_the_last_page_says_so(context: ControlContext) -> None:
    """Also when it is full; and the page after it is empty, although the endpoint is gone."""
    for number in range(4):
        add(context, "gone", number, ended_at_us=5)
    caller = Caller(context)
    url = "/api/v1/endpoints/gone/rollouts?last=2"
    first = caller.send("GET", url).json()
    last = caller.send("GET", f"{url}&before={first['next']}").json()
    assert [len(first["items"]), len(last["items"]), last["next"]] == [2, 2, None]
    after = caller.send("GET", f"{url}&before={last['items'][-1]['id']}")
    assert (after.status_code, after.json()) == (200, {"items": [], "next": None})
    assert caller.send("GET", "/api/v1/endpoints/never/rollouts").status_code == 404
    entries = len(caller.send("GET", "/api/v1/audit").json()["items"])
    assert entries
    assert caller.send("GET", f"/api/v1/audit?last={entries}").json()["next"] is None
