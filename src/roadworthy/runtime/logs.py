"""The log of the data plane's processes: one JSON object a line on standard error. Called once by each process's main."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure_logs(process: str, level: str = "info") -> None:
    """Send structlog's events and the standard library's log records of this process to standard error as JSON.

    Args:
        process: the line's "process": "agent", "worker-0" or "runner".
        level: the lowest level written: "debug", "info", "warning" or "error".
    """
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)

    def name_process(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, "process": process, "pid": os.getpid()}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
        structlog.processors.format_exc_info,
    ]
    render = structlog.processors.JSONRenderer(ensure_ascii=True)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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
