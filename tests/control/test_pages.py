"""Pages of lists: the last one says so, and a client of an earlier release that reads one reply gets what it always got."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from roadworthy.client import Client
from roadworthy.client.calls import CONTROL
from roadworthy.client.connection import Connection
from roadworthy.control.context import ControlContext
from roadworthy.control.http.app import create_app
from roadworthy.control.resources import pages
from roadworthy.control.resources.pages import PAGE
from roadworthy.control.wiring import build_context
from roadworthy.rollout import rollouts
from roadworthy.rollout.decide import machine
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.rollouts import Rollout
from roadworthy.settings import ClientSettings
from tests.control.in_process import Caller, client_of
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


def test_a_client_reads_every_page(context: ControlContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every list: it asks for a page at a time, and returns all items in order."""
    monkeypatch.setattr(pages, "PAGE", 2)
    http = client_of(context, create_app(context))
    asked: list[httpx.URL] = []
    http.event_hooks = {"request": [lambda request: asked.append(request.url)]}
    for number in range(5):
        add(context, f"e{number}", number)
        assert http.post("/api/v1/keys", json={"role": "predictor", "name": f"k{number}"}).status_code == 201
    settings = ClientSettings(control_url="http://127.0.0.1")
    client = Client.from_settings(settings)
    control = Connection("http://127.0.0.1", settings, CONTROL)
    control._http = http
    client.transport.connections[CONTROL] = control
    asked.clear()
    keys = client.keys()
    assert [each.name for each in keys] == ["me", *(f"k{number}" for number in range(5))]
    assert [each.endpoint for each in client.rollouts.in_progress()] == [f"e{number}" for number in range(5)]
    assert [url.path for url in asked] == ["/api/v1/keys"] * 3 + ["/api/v1/rollouts"] * 3


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
