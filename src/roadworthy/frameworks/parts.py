"""A callable that answers in parts: a generator function or an async generator function of rows. `python.py` calls this."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from roadworthy.foundation.errors import ModelFault
from roadworthy.foundation.host import end_fork
from roadworthy.frameworks.answers import named_answers
from roadworthy.frameworks.framework import Preprocess
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.schema.batch import Array, Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature
from roadworthy.schema.tables import answers_to_batch

_DONE = object()
_SCALARS = (str, bytes, int, float, bool, np.generic)
_PLAIN = {DType.STRING: str, DType.FLOAT64: float, DType.INT64: int, DType.BOOL: bool}
"""The Python types whose values are elements of an array of the dtype without any conversion."""
_LONG_STEP_S = 0.0005
"""After a step that took longer, the other async generators of the process have their turn."""


class Steps(Protocol):
    """An iterator that can be closed before its end."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def close(self) -> None:
        """Give the rest up; runs the `finally` blocks of a generator."""
        ...


def yields_parts(model: Any) -> bool:
    """Whether calling `model` gives a generator or an async generator. It is not called."""
    called = model if inspect.isroutine(model) or isinstance(model, partial) else type(model).__call__
    return inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called)


def begin(model: Any, rows: Any) -> Steps:
    """Call `model`; an async generator is driven on another thread."""
    steps: Any = model(rows)
    if isinstance(steps, AsyncGenerator):
        return _Driven(steps)
    generator: Steps = steps
    return generator


def part_answers(part: Any) -> Mapping[str, Array]:
    """What a model yields as named arrays, as `named_answers` reads answers. A bare value, or a bare value by name, is the answer
    to one row.

    Raises:
        PackError: "unsupported-output".
    """
    if isinstance(part, _SCALARS):
        part = [part]
    elif isinstance(part, Mapping):
        part = {name: [value] if isinstance(value, _SCALARS) or value is None else value for name, value in part.items()}
    return named_answers(part)


class _Driven:
    """An async generator as an iterator. One task takes all its steps, so that a timeout or a task group of the model's own may
    span a `yield`. All of a process share one event loop, on its own thread, so that the generators wait at the same time. Steps
    that do not wait follow each other there without a change of threads, but none follows one that computed for long before the
    other generators have had their turn."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, generator: AsyncGenerator[Any, None]) -> None:
        self._generator = generator
        self._wanted: asyncio.Queue[None] = asyncio.Queue()
        self._open = 0
        self._given: deque[tuple[Any, Exception | None]] = deque()
        self._ready: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        is_there = threading.Event()
        if not self.ask(is_there.set, 1):
            is_there.wait()
        part, error = self._given.popleft()
        if error is not None:
            raise error
        if part is _DONE:
            raise StopIteration
        return part

    def ask(self, ready: Callable[[], None], steps: int) -> bool:
        """Return whether `__next__` would not wait. If it would, begin up to so many steps; `ready` is called, on any thread,
        when it no longer would."""
        if self._given:
            return True
        self._running_loop().call_soon_threadsafe(self._want, ready, steps)
        return False

    def close(self) -> None:
        """Cancel a step under way, and close the generator, without waiting for either."""
        self._running_loop().call_soon_threadsafe(self._cancel)

    # On the loop's thread.

    def _want(self, ready: Callable[[], None], steps: int) -> None:
        self._ready = ready
        if self._over and not self._given:
            self._give(_DONE)
        elif self._given:
            self._tell()
        for _ in range(steps - self._open - len(self._given)):
            self._open += 1
            self._wanted.put_nowait(None)
        if self._task is None and not self._over:
            self._task = asyncio.get_running_loop().create_task(self._drive())

    def _cancel(self) -> None:
        self._over = True
        if self._task is not None:
            self._task.cancel()

    def _give(self, part: Any, error: Exception | None = None) -> None:
        self._given.append((part, error))
        self._tell()

    def _tell(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready()

    async def _drive(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        began = math.inf
        while not self._over:
            try:
                if time.perf_counter() - began > _LONG_STEP_S:
                    await asyncio.sleep(0)
                await self._wanted.get()
            except asyncio.CancelledError as error:  # by `close`, or by the model's own timeout or task group
                cancelled = error
                continue
            step = self._generator.__anext__() if cancelled is None else self._generator.athrow(cancelled)
            cancelled = None
            began = time.perf_counter()
            try:
                part = await step
            except StopAsyncIteration:
                self._over = True
                self._give(_DONE)
            except BaseException as error:  # noqa: BLE001 - the model's own code may raise anything
                self._over = True
                self._give(None, _as_failure(error))
            else:
                self._open -= 1
                self._give(part)
        await self._generator.aclose()

    @classmethod
    def _running_loop(cls) -> asyncio.AbstractEventLoop:
        if _Driven._loop is None:
            _Driven._loop = asyncio.new_event_loop()
            threading.Thread(target=_run_forever, args=(_Driven._loop,), name="async-parts", daemon=True).start()
        return _Driven._loop


def _as_failure(error: BaseException) -> Exception:
    """The error of a step; one that would end the thread that hears of it becomes a RuntimeError."""
    if isinstance(error, Exception):
        return error
    failure = RuntimeError(f"the model raised {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop, whatever a model's own task raises: an exit would end it for all streams of the process."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            loop.call_exception_handler({"message": "a task of the model's own asked the process to exit", "exception": error})


class PartsLoaded(NativeLoaded):
    """A live callable that answers in parts. Its answers may be under way at the same time; one step at a time."""

    def __init__(self, function: Callable[[Any], Any], signature: Signature, threads: int, preprocess: Preprocess | None) -> None:
        super().__init__(part_answers, signature, threads, preprocess)
        self._function = function

    def run(self, batch: Batch) -> Batch:
        """All parts, one below the other.

        Raises:
            ModelFault: as `parts`, and "no-parts".
            Exception: whatever the model's own code raises.
        """
        with closing(self.parts(batch)) as parts:
            found = list(parts)
        if not found:
            raise ModelFault("the model yielded no part", code="no-parts")
        return Batch.concatenate(found)

    def parts(self, batch: Batch) -> BatchSteps:
        """Begin an answer in parts.

        Raises:
            Exception: whatever the model's or the preprocessing's own code raises.
        """
        self._bound_native_threads()
        rows = self._restore(batch)
        pid = os.getpid()
        try:
            if self._preprocess is not None:
                rows = self._preprocess(rows)
            steps = begin(self._function, rows)
        finally:
            end_fork(pid)
        return BatchSteps(steps, self._outputs, batch.rows)

    def close(self) -> None:
        """Let go of the model."""
        super().close()
        self._function = self._answer


def _plain_type(outputs: Layout) -> type | None:
    """The type of the bare values that are the answer to one row as they are; None if there is no such type."""
    field = outputs.fields[0]
    if len(outputs.fields) > 1 or field.shape or field.nullable or field.categorical:
        return None
    return _PLAIN.get(field.dtype)


class BatchSteps:
    """What a model yields, as batches of its outputs.

    Attributes:
        ask: as in `_Driven`; None for a generator that is not async.
    """

    def __init__(self, steps: Steps, outputs: Layout, rows: int) -> None:
        self._steps = steps
        self._outputs = outputs
        self._rows = rows
        self._plain = _plain_type(outputs) if rows == 1 else None
        self.ask: Callable[[Callable[[], None], int], bool] | None = getattr(steps, "ask", None)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next part.

        Raises:
            ModelFault: "wrong-output-count" or "wrong-output-type".
            Exception: whatever the model's own code raises.
        """
        pid = os.getpid()
        try:
            part = next(self._steps)
        finally:
            end_fork(pid)
        if type(part) is self._plain:
            with suppress(OverflowError):  # an integer that the long way refuses
                return Batch(self._outputs, 1, (Block(np.array([[part]], self._outputs.fields[0].dtype.numpy)),))
        return answers_to_batch(self._outputs, part_answers(part), self._rows)

    def close(self) -> None:
        """Give the rest up."""
        pid = os.getpid()
        try:
            self._steps.close()
        finally:
            end_fork(pid)
