"""Calls of the client, each described once, and the two ways to make them: `Client` blocks, `AsyncClient` awaits.

A call is a generator. It yields requests and pauses, is sent the replies, and returns the call's value; a feed also yields
items. The decorators `call` and `feed` make a method of it that returns the value in a client that blocks, and something to await
in one that does not.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx
import msgspec

from roadworthy.client.connection import AsyncConnection, Connection, Request, document_of, unexpected_reply
from roadworthy.contract.api.operation import Operation, Page, Resource
from roadworthy.settings import CONTROL_URL, GATEWAY_URL, ClientSettings

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
CONTROL, GATEWAY = "control plane", "gateway"


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this long before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """An item of a feed."""

    value: T


Call = Generator[Request | Pause, httpx.Response, R]
Feed = Generator[Request | Pause | Item[T], httpx.Response, None]


class _Transport:
    """Connections to a gateway and its control plane, made at the first request to each."""

    connect: Callable[[str, ClientSettings, str], Any]

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.connections: dict[str, Any] = {}

    def connection(self, server: str) -> Any:
        """The connection to the gateway or the control plane."""
        if server not in self.connections:
            gateway = server == GATEWAY
            url = (self.settings.gateway_url or GATEWAY_URL) if gateway else (self.settings.control_url or CONTROL_URL)
            self.connections[server] = type(self).connect(url, self.settings, server)
        return self.connections[server]


class Blocking(_Transport):
    """Makes calls one step at a time, and blocks."""

    connect = Connection

    def run(self, steps: Call[R]) -> R:
        """Make a call."""
        reply: Any = None
        try:
            while True:
                reply = self._take(steps.send(reply))
        except StopIteration as end:
            value: R = end.value
            return value

    def follow(self, steps: Feed[T]) -> Iterator[T]:
        """Make a call that yields items."""
        reply: Any = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                return
            if isinstance(step, Item):
                yield step.value
                reply = None
            else:
                reply = self._take(step)

    def _take(self, step: Any) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return self.connection(step.server).send(step)

    def close(self) -> None:
        """Close all connections."""
        while self.connections:
            self.connections.popitem()[1].close()


class Awaiting(_Transport):
    """Makes calls one step at a time, and awaits."""

    connect = AsyncConnection

    async def run(self, steps: Call[R]) -> R:
        """Make a call."""
        reply: Any = None
        try:
            while True:
                reply = await self._take(steps.send(reply))
        except StopIteration as end:
            value: R = end.value
            return value

    async def follow(self, steps: Feed[T]) -> AsyncIterator[T]:
        """Make a call that yields items."""
        reply: Any = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                return
            if isinstance(step, Item):
                yield step.value
                reply = None
            else:
                reply = await self._take(step)

    async def _take(self, step: Any) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        return await self.connection(step.server).send(step)

    async def close(self) -> None:
        """Close all connections."""
        while self.connections:
            await self.connections.popitem()[1].close()


class Synchronous:
    """What makes calls and returns their values."""

    transport: Blocking


class Asynchronous:
    """What makes calls and returns something to await."""

    transport: Awaiting


class call(Generic[P, R]):  # noqa: N801  (a decorator)
    """Makes a method of a description: it returns the call's value, or something to await."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[R]]) -> None:
        self._describe = describe
        functools.update_wrapper(self, describe)  # type: ignore[arg-type]  # for those who read its name and docstring

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Callable[..., Any]: ...
    @overload
    def __get__(self, owner: Synchronous, kind: type[Any]) -> Callable[P, R]: ...
    @overload
    def __get__(self, owner: Asynchronous, kind: type[Any]) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, owner: Any, kind: type[Any]) -> Any:
        """The description of the class, or the method of the client."""
        return self._describe if owner is None else _method(owner, self._describe, owner.transport.run)


class feed(Generic[P, T]):  # noqa: N801  (a decorator)
    """As `call`, for a description that yields items: the method returns an iterator of them."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Feed[T]]) -> None:
        self._describe = describe
        functools.update_wrapper(self, describe)  # type: ignore[arg-type]  # as above

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Callable[..., Any]: ...
    @overload
    def __get__(self, owner: Synchronous, kind: type[Any]) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, owner: Asynchronous, kind: type[Any]) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, owner: Any, kind: type[Any]) -> Any:
        """The description of the class, or the method of the client."""
        return self._describe if owner is None else _method(owner, self._describe, owner.transport.follow)


def _method(owner: Any, describe: Callable[..., Any], run: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(describe)
    def method(*args: Any, **options: Any) -> Any:
        return run(describe(owner, *args, **options))

    return method


def ask(
    operation: Operation[R],
    names: Mapping[str, str | int] | None = None,
    *,
    params: Mapping[str, str | int | float | None] | None = None,
    body: Resource | Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> Call[R]:
    """One operation of the control plane.

    Args:
        names: values in its path.
        params: its query, without those that are None.
        idempotency_key: sent with the request, so that a repetition has no further effect.

    Raises:
        ClientError: "unexpected-reply". Those of `Connection.send`.
    """
    reply = yield Request(
        CONTROL,
        operation.method,
        operation.url(**names or {}),
        params={name: str(value) for name, value in (params or {}).items() if value is not None},
        body=body,
        headers={} if idempotency_key is None else {"Idempotency-Key": idempotency_key},
    )
    return read(operation, reply)


def read(operation: Operation[R], reply: httpx.Response) -> R:
    """The value of a reply.

    Raises:
        ClientError: "unexpected-reply".
    """
    if operation.reply is type(None):
        return operation.read(None)
    try:
        return operation.read(document_of(reply, CONTROL))
    except msgspec.ValidationError as error:
        raise unexpected_reply(reply, CONTROL) from error


def every(operation: Operation[Page[T]], names: Mapping[str, str] | None = None, first: str | None = None) -> Call[list[T]]:
    """The items of all pages. `first` is the cursor of the first page, for a list that is whole without one."""
    items: list[T] = []
    cursor: str | int | None = first
    while True:
        page = yield from ask(operation, names, params={"cursor": cursor})
        items += page.items
        cursor = page.next
        if cursor is None:
            return items
