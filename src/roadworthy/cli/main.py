"""The entry point of the command line: builds the commands, and reports every error as one clear block and an exit status.

`roadworthy --help` must answer at once, so each verb imports the heavy modules that it needs itself.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from roadworthy.cli import exits
from roadworthy.cli.commands import (
    audit,
    configuration,
    endpoints,
    feedback,
    keys,
    machine,
    packages,
    plugins,
    policies,
    predict,
    recovery,
    registry,
    rollouts,
    serving,
    webhooks,
)
from roadworthy.cli.moved import Commands
from roadworthy.cli.output import say, show_error
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.settings import load_settings
from roadworthy.version import __version__

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_UNFORESEEN = RoadworthyError(
    "unexpected internal error",
    code="internal",
    hint="run the command again with ROADWORTHY_DEBUG=1 and report the traceback",
)


def build() -> typer.Typer:
    """All commands."""
    app = typer.Typer(
        name="roadworthy",
        cls=Commands,
        help="From a trained model to a service that can be trusted.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for group in (
        packages,
        serving,
        machine,
        recovery,
        registry,
        endpoints,
        rollouts,
        webhooks,
        policies,
        predict,
        feedback,
        keys,
        audit,
        plugins,
        configuration,
    ):
        group.register(app)
    return app


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda value: _version(wanted=value),
            help="Print the versions of Roadworthy and Python.",
        ),
    ] = False,
) -> None:
    """From a trained model to a service that can be trusted."""


def _version(*, wanted: bool) -> None:
    if wanted:
        print(f"roadworthy {__version__} (Python {platform.python_version()})")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        status = build()(args=list(arguments), prog_name="roadworthy", standalone_mode=False)
    except _UsageError as error:
        show = getattr(error, "show", None)  # Typer's own, which adds the usage line
        show() if show is not None else say(str(error))
        return exits.USAGE
    except (KeyboardInterrupt, typer.Abort):
        return exits.INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except Exception as error:  # noqa: BLE001 - the outermost level: a command ends with one clear block, never with a traceback
        return _report(error, as_json="--json" in arguments)
    return status if isinstance(status, int) else 0


def _report(error: Exception, *, as_json: bool) -> int:
    if _debugging():
        traceback.print_exception(error)
    known = error if isinstance(error, RoadworthyError) else _as_known(error)
    show_error(known, as_json=as_json)
    return exits.exit_status(known)


def _as_known(error: Exception) -> RoadworthyError:
    """The user's own files and folders may be missing or unreadable: report that in the words of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return RoadworthyError(f"{error.strerror}{where}", code="file-problem", hint="check the path and its permissions")
    return _UNFORESEEN


def _debugging() -> bool:
    try:
        return load_settings().general.debug
    except RoadworthyError:
        return False


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
