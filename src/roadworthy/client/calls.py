"""Calls of the client, each described once, and the two ways to make them: `Client` blocks, `AsyncClient` awaits.

A call is a generator. It yields requests and pauses, is sent the replies, and returns the call's value; a feed also yields
items, and may read the body of a reply as it comes. The decorators `call` and `feed` make a method of it: in a client that
blocks it returns the value, or an iterator of the items; in one that does not, something to await.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

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


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request; its reply is a body, to be read by `Read`. `between_s`: timeout of each read; None for the client's."""

    request: Request
    between_s: float | None


@dataclass(frozen=True, slots=True)
class Read:
    """Read the next bytes of a body; b"" is its end."""

    body: Any


Call = Generator[Request | Pause, httpx.Response, R]
Feed = Generator[Request | Pause | Open | Read | Item[T], Any, None]


class Items(Iterator[T]):
    """Items as they come. A context manager, which closes them: the server gives up the items that were not read."""

    def __init__(self, steps: Generator[T, None, None]) -> None:
        self._steps = steps

    def __next__(self) -> T:
        return next(self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no further items."""
        self._steps.close()


class AsyncItems(AsyncIterator[T]):
    """As `Items`, to be awaited: `async for`, `async with`."""

    def __init__(self, steps: AsyncGenerator[T, None]) -> None:
        self._steps = steps

    async def __anext__(self) -> T:
        return await anext(self._steps)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Read no further items."""
        await self._steps.aclose()


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

    def follow(self, steps: Feed[T]) -> Items[T]:
        """Make a call that yields items."""
        return Items(self._follow(steps))

    def _follow(self, steps: Feed[T]) -> Generator[T, None, None]:
        reply: Any = None
        bodies: list[Any] = []
        try:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration:
                    return
                if isinstance(step, Item):
                    yield step.value
                    reply = None
                elif isinstance(step, Open):
                    reply = self.connection(step.request.server).open(step.request, step.between_s)
                    bodies.append(reply)
                else:
                    reply = self._take(step)
        finally:
            for body in bodies:
                body.close()

    def _take(self, step: Any) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Read):
            return step.body.read()
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

    def follow(self, steps: Feed[T]) -> AsyncItems[T]:
        """Make a call that yields items."""
        return AsyncItems(self._follow(steps))

    async def _follow(self, steps: Feed[T]) -> AsyncGenerator[T, None]:
        reply: Any = None
        bodies: list[Any] = []
        try:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration:
                    return
                if isinstance(step, Item):
                    yield step.value
                    reply = None
                elif isinstance(step, Open):
                    reply = await self.connection(step.request.server).open(step.request, step.between_s)
                    bodies.append(reply)
                else:
                    reply = await self._take(step)
        finally:
            for body in bodies:
                await body.close()

    async def _take(self, step: Any) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Read):
            return await step.body.read()
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
    def __get__(self, owner: Synchronous, kind: type[Any]) -> Callable[P, Items[T]]: ...
    @overload
    def __get__(self, owner: Asynchronous, kind: type[Any]) -> Callable[P, AsyncItems[T]]: ...
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
