"""Notes of `roadworthy status` after its tables: lost data, and gateways that follow another database."""

from __future__ import annotations

from typing import Any

from roadworthy.cli.commands.endpoints import status_notes


def document(**changes: Any) -> dict[str, Any]:
    """A status document of the control plane, with one gateway of two workers."""
    workers = [{"epoch": "epoch-1", "log_lines_dropped": 0}, {"epoch": None, "log_lines_dropped": 0}]
    return {
        "control": {"epoch": "epoch-1", "log_lines_dropped": 0},
        "gateways": [{"id": "local", "alive": True, "workers": workers}],
        "packages_gone": [],
        "webhooks": {"lost": 0, "behind": 3},
        **changes,
    }


def test_when_all_is_well_nothing_is_noted() -> None:
    """Neither does the status of a control plane of an earlier release, with fewer fields."""
    assert status_notes(document()) == []
    assert status_notes({"control": {"epoch": "e"}, "gateways": [{"id": "g", "alive": True}]}) == []


def test_g10_what_is_gone_is_noted() -> None:
    """Missing packages, and the database that a gateway follows; a gateway that is away gives no current state."""
    (gone,) = status_notes(document(packages_gone=["line:1", "line:2"]))
    assert "line:1, line:2" in gone
    other = {"id": "edge", "alive": True, "workers": [{"epoch": "epoch-0"}]}
    (follows,) = status_notes(document(gateways=[other]))
    assert "edge" in follows
    assert "epoch-0" in follows
    assert "--begin-anew" in follows
    assert status_notes(document(gateways=[{**other, "alive": False}])) == []


def test_g21_what_was_lost_is_noted() -> None:
    """Events that no webhook received; log lines, which each worker counts for its whole gateway."""
    (events,) = status_notes(document(webhooks={"lost": 7, "behind": 0}))
    assert events.startswith("7 events")
    workers = [{"epoch": "epoch-1", "log_lines_dropped": count} for count in (4, 5)]
    lines = {"control": {"epoch": "epoch-1", "log_lines_dropped": 2}}
    (dropped,) = status_notes(document(gateways=[{"id": "g", "alive": True, "workers": workers}], **lines))
    assert dropped.startswith("7 log lines")
