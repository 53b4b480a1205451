"""Notes of `roadworthy status` after its tables: lost data, and gateways that follow another database."""

from __future__ import annotations

from typing import Any

import msgspec

from roadworthy.cli.commands.endpoints import status_notes
from roadworthy.contract.api.system import Status

WORKER = {"slot": 0, "pid": 1, "boot": "b", "epoch": "epoch-1", "revision": 1, "offered": 1}
LOCAL = {"id": "local", "boot": "b", "seen_at": "", "revision": 1, "lost_records": 0}
CONTROL = {"version": "1", "epoch": "epoch-1", "revision": 1}


def status(**changes: Any) -> Status:
    """A status of the control plane, with one gateway of two workers."""
    workers = [{**WORKER, "log_lines_dropped": 0}, {**WORKER, "epoch": None}]
    known = {
        "control": CONTROL,
        "gateways": [{**LOCAL, "workers": workers}],
        "webhooks": {"lost": 0, "behind": 3},
        "endpoints": [],
    }
    return msgspec.convert({**known, **changes}, Status)


def test_when_all_is_well_nothing_is_noted() -> None:
    """Neither does the status of a control plane of an earlier release, with fewer fields."""
    assert status_notes(status()) == []
    earlier = {"control": CONTROL, "gateways": [{**LOCAL, "workers": []}], "endpoints": []}
    assert status_notes(msgspec.convert(earlier, Status)) == []


def test_g10_what_is_gone_is_noted() -> None:
    """Missing packages, and the database that a gateway follows; a gateway that is away gives no current state."""
    (gone,) = status_notes(status(packages_gone=["line:1", "line:2"]))
    assert "line:1, line:2" in gone
    other = {**LOCAL, "id": "edge", "workers": [{**WORKER, "epoch": "epoch-0"}]}
    (follows,) = status_notes(status(gateways=[other]))
    assert "edge" in follows
    assert "epoch-0" in follows
    assert "--begin-anew" in follows
    assert status_notes(status(gateways=[{**other, "alive": False}])) == []


def test_g21_what_was_lost_is_noted() -> None:
    """Events that no webhook received; log lines, which each worker counts for its whole gateway."""
    (events,) = status_notes(status(webhooks={"lost": 7, "behind": 0}))
    assert events.startswith("7 events")
    workers = [{**WORKER, "log_lines_dropped": count} for count in (4, 5)]
    (dropped,) = status_notes(status(gateways=[{**LOCAL, "workers": workers}], control={**CONTROL, "log_lines_dropped": 2}))
    assert dropped.startswith("7 log lines")
