"""uvicorn's server as a worker runs it: the worker starts and stops accepting, and stopping drains."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn

from roadworthy.gateway.accepting import GuardedServer
from roadworthy.gateway.http.app import App
from roadworthy.gateway.http.connection import Connection, ConnectionContext
from roadworthy.gateway.http.predict import stopping

LINGER_S = 1.0
"""How long idle connections are kept while draining: a request that still arrives is answered with `Connection: close`."""
_LOOK_AGAIN_S = 0.02


class Server(uvicorn.Server):
    """Accepts connections as `accept` says, until `should_exit`; then it drains. For `drain_delay_s` nothing changes, so that
    load balancers notice the failing probe. Then it accepts no connection, each answer closes its connection, and idle
    connections are closed after a moment.

    Args:
        app: answers everything but predictions.
        context: shared by all connections.
        drain_delay_s: see above.
        grace_s: how long open requests may take after that.
        access_log: whether the application's requests are logged.
        closed: called when a stopping server has accepted its last connection.

    Attributes:
        given_up: requests that were answered "stopping" because they exceeded `grace_s`.
    """

    def __init__(
        self,
        app: App,
        context: ConnectionContext,
        *,
        drain_delay_s: float,
        grace_s: float,
        access_log: bool,
        closed: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http=cast(Any, partial(Connection, context)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=access_log,
            server_header=False,
            proxy_headers=False,
        )
        super().__init__(config)
        self._context = context
        self._drain_delay_s = drain_delay_s
        self._grace_s = grace_s
        self._closed = closed
        self._guarded = False
        self.given_up = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the worker has its own."""
        yield

    def connections(self) -> list[Connection]:
        """The open connections."""
        return [connection for connection in self.server_state.connections if isinstance(connection, Connection)]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """Prepare to accept connections; `accept` starts and stops accepting."""
        self.servers = []
        self.started = True

    @property
    def accepting(self) -> bool:
        """Whether this process accepts connections now."""
        return self.started and any(server.is_serving() for server in self.servers)

    async def accept(self, listener: socket.socket, *, wanted: bool, may: Callable[[], bool] | None = None) -> None:
        """Start or stop accepting connections from a socket that other processes share. Open connections stay open.

        Without a free descriptor it does not start; call again.

        Args:
            listener: the shared socket.
            wanted: whether to accept. may: called before each connection; None accepts all, which is faster.
        """
        if not self.started or self.should_exit or (wanted == self.accepting and (may is not None) == self._guarded):
            return
        for server in self.servers:
            server.close()
        self.servers, self._guarded = [], may is not None
        if wanted:
            with contextlib.suppress(OSError):
                if may is None:
                    await super().startup(sockets=[listener.dup()])
                else:
                    self.servers = [cast(Any, GuardedServer(listener.dup(), self._connection, may))]

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]  # as uvicorn calls it

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain. After the grace, or when forced, open requests are answered with the error "stopping"."""
        await self._until(lambda: False, self._drain_delay_s)
        self._context.closing = True
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        self._closed()
        await self._until(lambda: not self.server_state.connections, LINGER_S)
        for connection in self.connections():
            connection.shutdown()
        await self._until(lambda: not self.server_state.connections, self._grace_s)
        error = stopping()
        self.given_up = sum(connection.give_up(error) for connection in self.connections())
        await asyncio.sleep(0)  # the answers are written
        for connection in self.connections():
            connection.transport.close()
        for task in self.server_state.tasks:
            task.cancel()

    async def _until(self, done: Callable[[], bool], limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not done() and time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110 - as uvicorn waits
            await asyncio.sleep(_LOOK_AGAIN_S)
