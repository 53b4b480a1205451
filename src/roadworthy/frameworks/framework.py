"""The interface of a framework, and what passes through it.

A framework is an object that an entry point of the group `roadworthy.frameworks` names. It imports its own library inside its
methods, so that only a process that uses the library imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.signature import Scalar, Signature

Preprocess = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Saved:
    """What `save` left in its folder.

    Attributes:
        options: plain JSON values without floats that `load` needs besides the files.
        distributions: names of the installed distributions that loading and running need, for example "scikit-learn".
        carries_code: True when loading can execute what the files say (pickle, a user's module).
        trust: "data" (ONNX, native text or binary), "skops", or "pickle": how far the files must be trusted.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    distributions: tuple[str, ...] = ()
    carries_code: bool = False
    trust: str = "data"


@dataclass(frozen=True, slots=True)
class Nature:
    """What a runtime's files are. It follows from the framework and the bytes alone, never from what a package says.

    Attributes:
        carries_code: loading or running the files can execute what they say.
        trust: "data" or "pickle", as in Saved.
        isolated: why the runtime must not run inside a worker, in words without a full stop; None when it may. Data can still
            loop for long or need much memory.
    """

    carries_code: bool
    trust: str
    isolated: str | None = None


CODE = Nature(carries_code=True, trust="pickle")
"""The nature of every file that is unpickled."""


class FormatMismatch(Exception):
    """The files are not what the framework saves; the text says how they differ. Never leaves the rooms that examine files."""


class ModelFiles(Protocol):
    """The files of one runtime, by their path below its folder. Frameworks read through it and open no path themselves, so that
    the caller knows which bytes are loaded."""

    @property
    def names(self) -> Collection[str]:
        """Every file there is."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of one file.

        Raises:
            RoadworthyError, OSError: it is not there, or not as it was sealed.
        """
        ...


class ModelFolder:
    """The files of a folder of our own: a model that was just saved and is not sealed yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def names(self) -> Collection[str]:
        """As in ModelFiles."""
        return [path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file()]

    def read(self, name: str) -> bytes:
        """As in ModelFiles."""
        return (self._folder / name).read_bytes()


def expect_only(files: ModelFiles, expected: Collection[str]) -> None:
    """Pass a folder that holds exactly the `expected` files.

    Raises:
        FormatMismatch: one is missing, or there is another.
    """
    for name in sorted(set(expected) - set(files.names)):
        raise FormatMismatch(f"there is no {name}")
    for name in sorted(set(files.names) - set(expected)):
        raise FormatMismatch(f"{name} is not a file of this framework")


class Loaded(Protocol):
    """A model in memory. `run` may be called from one thread at a time unless `concurrent` is True."""

    @property
    def concurrent(self) -> bool:
        """True when `run` releases the GIL and may run on the event loop's own thread: short, native and proved."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order; the result has the layout of the signature's outputs and as many rows.

        Raises:
            Exception: whatever the model's own code raises; the runner raises a ModelFault instead.
        """
        ...

    def close(self) -> None:
        """Give memory and threads back. Called once, after the last run."""
        ...


class Framework(Protocol):
    """One way to make models. Stateless."""

    @property
    def name(self) -> str:
        """The field's own name for it, and the name of its entry point: "scikit-learn", "onnx", "python"."""
        ...

    @property
    def interface(self) -> int:
        """The version of this interface that it was written for: 1."""
        ...

    @property
    def suffixes(self) -> Sequence[str]:
        """Suffixes of the files that `read_file` reads, such as ".onnx". May be left out, and `read_file` with it."""
        ...

    def read_file(self, path: Path) -> Any:
        """The model in the user's own file `path`, for packing. May execute what the file says.

        Raises:
            Exception: anything; packing shows it as "model-file-unreadable".
        """
        ...

    def recognises(self, model: object) -> bool:
        """Whether this framework made `model`. Must not import its library when `model` cannot be of it."""
        ...

    def answer(self, model: Any, rows: Any) -> Mapping[str, Array]:
        """Call the live model on rows in the container that it takes, and name what it answers: classifiers "label" (rows,)
        and "probabilities" (rows, classes); regressors "prediction"; others by their own output names. First axis: rows.

        Raises:
            PackError: the answer is of a form that cannot be served.
        """
        ...

    def yields_parts(self, model: Any) -> bool:
        """Whether the live model answers in parts: then packing calls `parts` instead of `answer`, and what `load` gives for a
        signature of parts has a method `parts` too. Both may be left out.
        """
        ...

    def parts(self, model: Any, rows: Any) -> Any:
        """Call such a model; the iterator over what it yields, which `frameworks/parts.py` reads."""
        ...

    def categories(self, model: Any) -> Mapping[str, Sequence[Scalar]]:
        """For outputs that are labels, all labels in the order of the probabilities' columns; empty when no output is a label."""
        ...

    def save(self, model: Any, folder: Path) -> Saved:
        """Write `model` into the empty `folder`.

        Raises:
            PackError: it cannot be saved; the hint says what to change.
        """
        ...

    def examine(self, files: ModelFiles, options: Mapping[str, Any]) -> Nature:
        """Declare which of `files` execute when they are loaded. The answer follows from their bytes. It executes
        nothing and imports nothing heavy. It reads `options` only to find its way: an option can make files be refused, never be
        trusted. Files that could be code are code. A framework without this method has declared nothing: all its files are code.

        Raises:
            FormatMismatch: they are not what `save` writes, or can execute in a way that is not allowed for.
        """
        ...

    def load(
        self,
        files: ModelFiles,
        options: Mapping[str, Any],
        signature: Signature,
        threads: int,
        preprocess: Preprocess | None,
    ) -> Loaded:
        """Build the model from what `save` wrote; `files` were examined before, and nothing else may be opened. `signature` is
        that of the raw rows which `run` will get and of the answers it gives; `threads` bounds every native thread pool of it;
        `preprocess` is applied to the rows in the signature's container, and its result is what the model takes.

        Raises:
            PackageRefused: the files or the installed library do not fit.
        """
        ...
