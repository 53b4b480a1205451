"""The main of a runner process: `python -P -m roadworthy.runtime.apart`, with a `RunnerStart` on standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import structlog

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.child import EXIT_REFUSED, keep_log_apart, read_start_message
from roadworthy.foundation.confine.plan import refusal
from roadworthy.foundation.errors import PackageRefused, RoadworthyError
from roadworthy.foundation.host import begin_hosting, leave
from roadworthy.runtime.apart.launch import RunnerStart
from roadworthy.runtime.apart.process import Load, serve
from roadworthy.runtime.loading import package_loader
from roadworthy.runtime.logs import configure_logs
from roadworthy.runtime.runners.runner import Executable


def main() -> int:
    """Read the start document, serve, and return the exit status."""
    try:
        start = msgspec.convert(read_start_message(), RunnerStart)
    except (RoadworthyError, msgspec.ValidationError) as error:
        sys.stderr.write(f"runner: {error}\n")
        return EXIT_REFUSED
    begin_hosting()
    configure_logs("runner", start.log_level, keep_log_apart())
    try:
        load = package_loader(Path(start.folder), start.threads)
        withheld = refusal(sys.argv)
        return serve(start, load if withheld is None else _without_code(load, withheld))
    except OSError as error:
        structlog.get_logger("runner").error("cannot-start", reason=str(error))
        return EXIT_REFUSED


def _without_code(load: Load, why: PackageRefused) -> Load:
    """The same for packages that carry none: this process is not confined, or has not been given, what it should."""

    def load_data(entry: PackageEntry) -> Executable:
        try:
            return load(msgspec.structs.replace(entry, allowed_by=None))
        except PackageRefused as error:
            raise (why if error.code == "code-not-allowed" else error) from error

    return load_data


if __name__ == "__main__":
    leave(main())
