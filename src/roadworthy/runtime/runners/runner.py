"""The interface between a loaded version and the place where it executes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature


class Described(Protocol):
    """The part of a package's description that runners need."""

    @property
    def signature(self) -> Signature:
        """Typed inputs and outputs of its runs."""
        ...


class PartSteps(Protocol):
    """An answer in parts under way: an iterator over them. `next` and `close` may raise anything that the model's own code
    raises."""

    @property
    def ask(self) -> Callable[[Callable[[], None]], None] | None:
        """Begins the next step, and calls its argument, on any thread, when `next` would not wait. None when only `next` can."""
        ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Give the rest up."""
        ...


class Executable(Protocol):
    """A constructed package, from `package/construct.py`, that a runner executes."""

    @property
    def package(self) -> Described:
        """The package that was constructed."""
        ...

    @property
    def runtime(self) -> str:
        """The name of the chosen runtime, for example "onnx-exact"."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether `run` is short, native and releases the GIL."""
        ...

    @property
    def parts(self) -> Callable[[Batch], PartSteps] | None:
        """Begins an answer in parts; None for a model that answers at once."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order. May raise anything that the model's own code raises."""
        ...

    def close(self) -> None:
        """Release memory and threads."""
        ...


class Runner(Protocol):
    """Executes batches one at a time."""

    @property
    def concurrent(self) -> bool:
        """True: call `run` on the event loop's own thread, and meanwhile on another one for long requests. False: on one thread
        kept for this version."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order: as many rows as requested, every float finite.

        Raises:
            ModelFault: the model raised, or its answer cannot be used.
        """
        ...

    def close(self) -> None:
        """Release memory and threads. Called once, after the last run."""
        ...
