"""uvicorn's server as a worker runs it: told when to stop by the worker, and gentle then. `connection.py` has its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn

from roadworthy.gateway.accepting import Guarded
from roadworthy.gateway.http.app import App
from roadworthy.gateway.http.connection import Connection, Front
from roadworthy.gateway.http.predict import stopping

LINGER_S = 1.0
"""How long connections on which nothing is asked are kept at the end, for one more request that is then told to be the last."""
_LOOK_AGAIN_S = 0.02


class Server(uvicorn.Server):
    """Accepts connections while it is told to (`accept`), until `should_exit`, then drains: for `drain_delay_s` everything goes
    on as before, so that load balancers notice by the probe; then no connection is accepted, each answer ends its connection,
    and connections without a question are closed after a moment.

    Args:
        app: for everything but predictions.
        front: what the connections share.
        drain_delay_s: see above.
        grace_s: how long open requests may then still take.
        access_log: whether the application's requests are logged.

    Attributes:
        given_up: requests that were answered "stopping" because they took longer than the grace.
    """

    def __init__(self, app: App, front: Front, *, drain_delay_s: float, grace_s: float, access_log: bool) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http=cast(Any, partial(Connection, front)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=access_log,
            server_header=False,
            proxy_headers=False,
        )
        super().__init__(config)
        self._front = front
        self._drain_delay_s = drain_delay_s
        self._grace_s = grace_s
        self._asks = False
        self.given_up = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The worker has handlers of its own."""
        yield

    def connections(self) -> list[Connection]:
        """Those of now."""
        return [connection for connection in self.server_state.connections if isinstance(connection, Connection)]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """Prepare to accept connections; `accept` begins and stops it."""
        self.servers = []
        self.started = True

    @property
    def accepting(self) -> bool:
        """Whether this process accepts connections now."""
        return self.started and any(server.is_serving() for server in self.servers)

    async def accept(self, listener: socket.socket, *, wanted: bool, may: Callable[[], bool] | None = None) -> None:
        """Begin or stop accepting connections from a socket that other processes share; open connections stay open.

        When the process has no free descriptor, it does not begin; call again.

        Args:
            wanted: whether to accept. may: asked before each connection; None accepts all, which is faster.
        """
        if not self.started or self.should_exit or (wanted == self.accepting and (may is not None) == self._asks):
            return
        for server in self.servers:
            server.close()
        self.servers, self._asks = [], may is not None
        if wanted:
            with contextlib.suppress(OSError):
                if may is None:
                    await super().startup(sockets=[listener.dup()])
                else:
                    self.servers = [cast(Any, Guarded(listener.dup(), self._connection, may))]

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]  # as uvicorn calls it

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain; at the end of the grace, or when forced, what is still open is answered that it was not done."""
        await self._until(lambda: False, self._drain_delay_s)
        self._front.closing = True
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
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

    async def _until(self, done: Callable[[], bool], most_s: float) -> None:
        end = time.monotonic() + most_s
        while not done() and time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110 - as uvicorn waits
            await asyncio.sleep(_LOOK_AGAIN_S)
