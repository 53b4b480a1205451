"""`roadworthy config show` and `roadworthy version`."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import typer

from roadworthy.cli.options import Options, RemoteOptions, command
from roadworthy.cli.output import say, show, table
from roadworthy.settings import SECRET
from roadworthy.version import __version__


@dataclass(frozen=True, kw_only=True)
class ConfigOptions(RemoteOptions):
    """`config show`."""


def config_show(options: ConfigOptions) -> None:
    """Print every setting with where its value comes from."""
    settings = options.settings
    rows = [
        (name, "(set)" if name in SECRET and value is not None else _text(value), settings.origin(name))
        for name, value in settings.entries()
    ]
    document = [{"setting": name, "value": value, "origin": origin} for name, value, origin in rows]
    show(document, table(("SETTING", "VALUE", "ORIGIN"), rows), as_json=options.json)
    for name in settings.unknown:
        say(f"note: {name} is set but means nothing to Roadworthy")


def _text(value: object) -> str | int | float | bool | None:
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value) if isinstance(value, Path) else value if isinstance(value, (str, int, float, bool)) else None


def version(options: Options) -> None:
    """Print the versions of Roadworthy and Python."""
    document = {"roadworthy": __version__, "python": platform.python_version()}
    show(document, f"roadworthy {document['roadworthy']} (Python {document['python']})", as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Settings.", no_args_is_help=True, rich_markup_mode=None)
    command(group, "show")(config_show)
    app.add_typer(group, name="config")
    command(app, "version")(version)
