"""The control plane's process, `python -m roadworthy.control`. The supervisor starts it and sends one line of JSON to configure
it."""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

import structlog
import uvicorn

from roadworthy.control.controllers.loop import Controllers
from roadworthy.control.controllers.webhook_dispatcher import WebhookDispatcher
from roadworthy.control.http.app import create_app
from roadworthy.control.logs import configure_logs
from roadworthy.control.wiring import build_context
from roadworthy.foundation.child import (
    EXIT_REFUSED,
    LIFE_S,
    read_start_message,
    separate_log,
    show_life,
    watch_parent,
)
from roadworthy.foundation.errors import RoadworthyError, StoreError
from roadworthy.foundation.sockets import listen

_GRACE_S = 5


def main() -> int:
    """Serve until a signal arrives or the parent process ends; return the exit status."""
    document = read_start_message()
    configure_logs(str(document.get("log_level", "info")), separate_log())
    log = structlog.get_logger()
    try:
        listener = _listener(document)  # first, so that a taken port leaves nothing half started
        context = build_context(document)
    except RoadworthyError as error:
        log.error("control-plane-refuses-to-start", code=error.code, message=error.message, hint=error.hint)  # noqa: TRY400 - a refusal, not a bug: a traceback adds nothing
        return EXIT_REFUSED
    except OSError as error:
        log.error("control-plane-refuses-to-start", code=StoreError.code, message=f"a folder cannot be used: {error}")  # noqa: TRY400 - as above
        return EXIT_REFUSED
    server: list[uvicorn.Server] = []
    app = create_app(context, lambda: bool(server and server[0].should_exit))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        callback_notify=_show_life,
        timeout_notify=round(LIFE_S),
        lifespan="off",
    )
    server.append(uvicorn.Server(config))
    controllers, dispatcher = Controllers(context), WebhookDispatcher(context)
    controllers.start()
    dispatcher.start()
    for number in (signal.SIGTERM, signal.SIGINT):  # the server raises the signal again after it has stopped
        signal.signal(number, lambda _number, _frame: setattr(server[0], "should_exit", True))
    watch_parent(lambda: setattr(server[0], "should_exit", True))
    log.info("control-plane-starts", projects=[each.database.project for each in context.readable()])
    server[0].run(sockets=[listener])
    dispatcher.stop()
    controllers.stop()
    context.database.close()
    return 0


async def _show_life() -> None:
    show_life()


def _listener(document: dict[str, Any]) -> socket.socket:
    if document.get("fd") is not None:
        return socket.socket(fileno=int(document["fd"]))
    return listen(str(document["host"]), int(document["port"]), setting="control port")


if __name__ == "__main__":
    sys.exit(main())
