"""The interfaces between a loaded version and the place where it executes, and of kinds of runners, ours and plug-ins'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from roadworthy.contract.runners import RUNNER_HINT, RunnerDeclaration
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.plugins import RUNNERS, plugins
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature

MOST_PROCESSES = 256


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
    def ask(self) -> Callable[[Callable[[], None], int], bool] | None:
        """Returns whether `next` would not wait. If it would, begins up to so many steps, and calls its first argument, on any
        thread, when `next` no longer would. None when only `next` can begin a step."""
        ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Give the rest up."""
        ...


class Loaded(Protocol):
    """What answers batches for a version. It may raise anything, and its answers are not checked yet. For a model that answers in
    parts it has `parts`, as in Executable."""

    @property
    def concurrent(self) -> bool:
        """Whether `run` is short, native and releases the GIL."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order. May raise anything that the model's own code raises."""
        ...

    def close(self) -> None:
        """Release memory and threads."""
        ...


class Executable(Loaded, Protocol):
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
    def parts(self) -> Callable[[Batch], PartSteps] | None:
        """Begins an answer in parts; None for a model that answers at once."""
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


class RunnerKind(RunnerDeclaration, Protocol):
    """One kind of runner. Named by an entry point of the group `roadworthy.runners`."""

    def runner(self, executable: Executable, threads: int) -> Loaded:
        """What answers the version's batches, made of the constructed package. Called where the version executes: in a process
        that the agent keeps if the kind isolates, else in each worker.

        The golden examples are replayed through it, each of its answers is checked, and whatever it raises fails the request.
        Its `close` also closes `executable`. It is `concurrent` only if `executable` is, and it runs `executable` on one thread
        at a time unless that is concurrent.

        Args:
            executable: the constructed package, proved.
            threads: the policy's `placement.threads`, else 1.
        """
        ...


class IsolatingKind(RunnerKind, Protocol):
    """A kind with `isolates`. The agent keeps its processes, confines each of them, and replaces those that hang or leak."""

    def processes(self, copies: int) -> int:
        """How many processes the agent keeps for a version, 1 to MOST_PROCESSES; workers send each request to one of them.

        A pure function, since the agent and each worker call it for themselves.

        Args:
            copies: the policy's `placement.copies`, else as many as the measured cost of the version requires.
        """
        ...


def kind_named(name: str) -> RunnerKind:
    """The kind of runner with that name.

    Raises:
        RoadworthyError: "runner-missing": this process has not loaded it.
    """
    kind: RunnerKind | None = plugins(RUNNERS).get(name)
    if kind is None:
        raise RoadworthyError(f"no such runner is loaded here: {name[:60]}", code="runner-missing", hint=RUNNER_HINT)
    return kind


def processes_of(kind: RunnerKind, copies: int) -> int:
    """How many processes the agent keeps for a version of this kind, 0 when the workers execute it.

    Raises:
        RoadworthyError: "runner-failed": the plug-in raised an error, or gave an impossible number.
    """
    if not kind.isolates:
        return 0
    try:
        number = cast("IsolatingKind", kind).processes(copies)  # `plugins.py` has checked that it has them
    except Exception as error:  # another distribution's code may raise anything
        raise _failed(f"runner {kind.name} failed: {type(error).__name__}: {error}"[:500]) from error
    if not isinstance(number, int) or not 1 <= number <= MOST_PROCESSES:
        raise _failed(f"runner {kind.name} asks for {number!r:.40} processes; expected 1 to {MOST_PROCESSES}")
    return number


def _failed(reason: str) -> RoadworthyError:
    return RoadworthyError(reason, code="runner-failed", hint="report it to the author of the plug-in")
