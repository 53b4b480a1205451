"""`roadworthy plugin list`."""

from __future__ import annotations

import dataclasses

import typer

from roadworthy.cli.options import Options, command, group
from roadworthy.cli.output import show, table
from roadworthy.foundation.plugins import survey


def plugin_list(options: Options) -> None:
    """List the plug-ins that are installed here.

    Shows what each adds, the distribution that provides it, and whether it is loaded or why not. general.plugins names the
    distributions whose plug-ins are loaded.
    """
    options.allow_plugins()
    found = survey()
    rows = [(each.kind, each.name, f"{each.distribution} {each.version}".strip(), each.state, each.reason) for each in found]
    document = [dataclasses.asdict(each) for each in found]
    show(document, table(("KIND", "NAME", "DISTRIBUTION", "STATE", "REASON"), rows), as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(group(app, "plugin", "Plug-ins of other distributions."), "list")(plugin_list)
