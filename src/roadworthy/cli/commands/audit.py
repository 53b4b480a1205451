"""`roadworthy audit list`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import typer

from roadworthy.cli.options import RemoteOptions, command, group, option
from roadworthy.cli.output import show, table


@dataclass(frozen=True, kw_only=True)
class ListOptions(RemoteOptions):
    """`audit list`."""

    subject: str | None = option("--subject", "Show only entries about this endpoint, version, webhook or key.", metavar="NAME")
    last: int = option("--last", "Show this many entries.", 20, metavar="N", min=1, max=1000)


def list_(options: ListOptions) -> None:
    """List who did what on the control plane, newest first."""
    with options.client() as client:
        entries = client.audit(options.last, options.subject)
    rows = [(entry.at, entry.actor, entry.verb, entry.subject, json.dumps(entry.detail)) for entry in entries]
    show(entries, table(("AT", "ACTOR", "VERB", "SUBJECT", "DETAIL"), rows), as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(group(app, "audit", "Show who did what on the control plane."), "list")(list_)
