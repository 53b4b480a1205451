"""`roadworthy config show`."""

from __future__ import annotations

from pathlib import Path

import typer

from roadworthy.cli.options import RemoteOptions, command, group
from roadworthy.cli.output import say, show, table
from roadworthy.settings import SECRET


def config_show(options: RemoteOptions) -> None:
    """Print every setting, its value and where the value comes from."""
    settings = options.settings
    rows = [
        (name, "(set)" if name in SECRET and value is not None else _text(value), settings.origin(name))
        for name, value in settings.entries()
    ]
    document = [{"setting": name, "value": value, "origin": origin} for name, value, origin in rows]
    show(document, table(("SETTING", "VALUE", "ORIGIN"), rows), as_json=options.json)
    for name in settings.unknown:
        say(f"note: {name} is set, but Roadworthy has no such setting")


def _text(value: object) -> str | int | float | bool | None:
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value) if isinstance(value, Path) else value if isinstance(value, (str, int, float, bool)) else None


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(group(app, "config", "Show the settings."), "show")(config_show)
