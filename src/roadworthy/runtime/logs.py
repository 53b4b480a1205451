"""The log of the data plane's processes: one JSON object a line on standard error.

Logging never waits (`foundation/log_stream.py`): a standard error without a reader costs log lines, which are counted, but no
requests.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any, cast

import structlog

from roadworthy.foundation.log_stream import LAST_WORDS_S, LogStream

_STANDARD_ERROR = 2
_streams: list[LogStream] = []


def configure_logs(process: str, level: str = "info", descriptor: int = _STANDARD_ERROR) -> None:
    """Send structlog's events and the standard library's log records of this process to `descriptor` as JSON.

    Args:
        process: the value of "process" in each line: "agent", "worker-0" or "runner".
        level: the lowest level to write: "debug", "info", "warning" or "error".
    """
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)

    def name_process(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, "process": process, "pid": os.getpid()}

    def dropped_line(lines: int) -> str:
        event = {
            "event": "log-lines-dropped",
            "lines": lines,
            "level": "warning",
            "process": process,
            "pid": os.getpid(),
        }
        return json.dumps(event) + "\n"

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
        structlog.processors.format_exc_info,
    ]
    render = structlog.processors.JSONRenderer(ensure_ascii=True)
    stream = LogStream(descriptor, dropped_line)
    _streams[:] = [stream]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(Any, stream)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(cast(Any, stream))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))


def lines_dropped() -> int:
    """Number of log lines of this process that were not written."""
    return sum(stream.dropped for stream in _streams)


def write_out(within_s: float = LAST_WORDS_S) -> None:
    """Wait at most `within_s` seconds until all log lines are written; call it before a forced exit."""
    for stream in _streams:
        stream.drain(within_s)
