"""The control plane's log: one JSON object per line on standard error. Writing never blocks: see `foundation/log_stream.py`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import structlog

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.log_stream import LogStream

_STANDARD_ERROR = 2
_streams: list[LogStream] = []


def configure_logs(level: str, descriptor: int = _STANDARD_ERROR) -> None:
    """Configure structlog for this process and write to `descriptor`. `level` is debug, info, warning or error."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    stream = cast(Any, LogStream(descriptor, _tell_dropped))
    _streams[:] = [stream]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("event"),
            lambda _logger, _method, event: {**event, "process": "control"},
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.WARNING), stream=stream, format='{"event": "%(message)s"}')


@contextmanager
def failures_logged(event: str, **facts: Any) -> Iterator[None]:
    """Log an error of the block as `event` instead of raising it: a known one by its code, any other with its traceback. For
    threads that must outlive a failed attempt, and try again."""
    log = structlog.get_logger()
    try:
        yield
    except RoadworthyError as error:
        log.warning(event, **facts, code=error.code, message=error.message)
    except Exception:  # the thread must go on, whatever failed; the log has it
        log.exception(event, **facts)


def lines_dropped() -> int:
    """Log lines of this process that were dropped."""
    return sum(stream.dropped for stream in _streams)


def _tell_dropped(lines: int) -> str:
    line = {"event": "log-lines-dropped", "lines": lines, "level": "warning", "process": "control"}
    return json.dumps(line) + "\n"
