"""The interface between a loaded version and the place where it executes. `runtime/queue/batching.py` is the caller."""

from __future__ import annotations

from typing import Protocol

from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature


class Described(Protocol):
    """What a package tells of itself that matters here."""

    @property
    def signature(self) -> Signature:
        """Typed inputs and outputs of its runs."""
        ...


class Executable(Protocol):
    """What a runner is given: a constructed package (`package/construct.py` makes them)."""

    @property
    def package(self) -> Described:
        """What was constructed."""
        ...

    @property
    def runtime(self) -> str:
        """Name of the runtime that was chosen, for example "onnx-exact"."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether `run` is short, native and gives the GIL back."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order. May raise anything that the model's own code raises."""
        ...

    def close(self) -> None:
        """Give memory and threads back."""
        ...


class Runner(Protocol):
    """Executes batches one at a time."""

    @property
    def concurrent(self) -> bool:
        """True: call `run` on the event loop's own thread. False: on one thread kept for this version."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order; as many rows as were asked, every float finite.

        Raises:
            ModelFault: the model raised, or its answer cannot be used.
        """
        ...

    def close(self) -> None:
        """Give memory and threads back. Called once, after the last run."""
        ...
