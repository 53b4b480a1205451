"""`roadworthy backup | restore`: the control plane's database, on the control plane's machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from roadworthy.cli.home import CONTROL, Home
from roadworthy.cli.options import Options, argument, command
from roadworthy.cli.output import facts, show
from roadworthy.cli.plans import database_url
from roadworthy.foundation.clock import SystemClock
from roadworthy.foundation.files import keep_private


@dataclass(frozen=True, kw_only=True)
class BackupOptions(Options):
    """`backup`."""

    file: Path = argument("FILE", "Write the copy to this new file.")


@dataclass(frozen=True, kw_only=True)
class RestoreOptions(Options):
    """`restore`."""

    file: Path | None = argument("[FILE]", "Replace the database by this backup first; needs a stopped control plane.", None)


def backup(options: BackupOptions) -> None:
    """Copy the control plane's database to a new file.

    Only this user can read the file. The control plane may keep running.
    """
    from roadworthy.control.recovery import back_up

    keep_private()
    settings = options.settings
    back_up(database_url(settings, Home(settings.general.home_folder()).control), options.file)
    show({"file": str(options.file)}, f"{options.file} written; copy the blobs after it", as_json=options.json)


def restore(options: RestoreOptions) -> None:
    """Begin a new epoch of a restored database.

    Gateways then follow it although they have seen later revisions. With FILE, first replace the database by that backup; the
    replaced database is kept next to it.
    """
    from roadworthy.control.recovery import begin_again, put_in_place

    keep_private()
    settings = options.settings
    home = Home(settings.general.home_folder())
    url = database_url(settings, home.control)
    if options.file is None:
        done = begin_again(url, SystemClock())
    else:
        with home.held(CONTROL):
            done = put_in_place(url, options.file, SystemClock())
    home.note_epoch(done.epoch)
    told = {"epoch": done.epoch, "revision": done.revision, "aside": None if done.aside is None else str(done.aside)}
    text = facts({"epoch": done.epoch, "revision": done.revision, "replaced database": done.aside})
    show(told, f"restored; gateways follow this database from here\n{text}", as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "backup")(backup)
    command(app, "restore")(restore)
