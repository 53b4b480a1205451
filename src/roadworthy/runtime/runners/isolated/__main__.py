"""The main of a runner process: `python -P -m roadworthy.runtime.runners.isolated`, with a `RunnerStart` on standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import structlog

from roadworthy.foundation.child import EXIT_REFUSED, read_start_message, separate_log
from roadworthy.foundation.confine.plan import refusal
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.host import begin_hosting, leave
from roadworthy.runtime.loading import package_loader, rule_loader, run_by, without_code
from roadworthy.runtime.logs import configure_logs
from roadworthy.runtime.runners.isolated.launch import RunnerStart
from roadworthy.runtime.runners.isolated.process import serve


def main() -> int:
    """Read the start document, serve, and return the exit status."""
    try:
        start = msgspec.convert(read_start_message(), RunnerStart)
    except (RoadworthyError, msgspec.ValidationError) as error:
        sys.stderr.write(f"runner: {error}\n")
        return EXIT_REFUSED
    begin_hosting()
    configure_logs("runner", start.log_level, separate_log())
    try:
        folder = Path(start.folder)
        load = rule_loader(folder, start.rule) if start.rule else package_loader(folder, start.threads)
        load = run_by(load, start.runner, start.threads)
        withheld = refusal(sys.argv)
        return serve(start, load if withheld is None else without_code(load, withheld))
    except OSError as error:
        structlog.get_logger("runner").error("cannot-start", reason=str(error))
        return EXIT_REFUSED


if __name__ == "__main__":
    leave(main())
