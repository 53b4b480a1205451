"""A model run by its own Python code: batch → container → preprocessing → the framework's answer → batch.

The framework files build one in `load`; `runtime/runners` call it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from roadworthy.foundation.errors import ModelFault, PackageRefused
from roadworthy.foundation.host import end_fork
from roadworthy.frameworks.framework import Preprocess
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.restore import Restore, Restorer
from roadworthy.schema.signature import Signature
from roadworthy.schema.tables import answers_to_batch

Answer = Callable[[Any], Mapping[str, Array]]


class NativeLoaded:
    """A framework's live model behind the Loaded interface. One run at a time; never on the event loop's thread."""

    concurrent = False

    def __init__(self, answer: Answer, signature: Signature, threads: int, preprocess: Preprocess | None) -> None:
        self._answer = answer
        self._restore = restore_for(signature)
        self._outputs = Layout(signature.outputs)
        self._preprocess = preprocess
        self._threads = threads
        self._bounded = threading.local()

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order.

        Raises:
            ModelFault: "wrong-output-count" or "wrong-output-type".
            Exception: whatever the model's or the preprocessing's own code raises.
        """
        self._bound_native_threads()
        rows = self._restore(batch)
        pid = os.getpid()
        try:
            if self._preprocess is not None:
                rows = self._preprocess(rows)
            answers = self._answer(rows)
        finally:
            end_fork(pid)
        return answers_to_batch(self._outputs, answers, batch.rows)

    def _bound_native_threads(self) -> None:
        """OpenMP keeps its limit per calling thread, so it is set once in each thread that runs the model."""
        if getattr(self._bounded, "done", False):
            return
        self._bounded.done = True
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            return
        threadpool_limits(limits=self._threads)

    def close(self) -> None:
        """Let go of the model."""
        self._answer = _closed
        self._preprocess = None


def restore_for(signature: Signature) -> Restore:
    """What gives a model's own code its rows as in training. Imports the library of the container.

    Raises:
        PackageRefused: "requirement-missing" or "requirement-mismatch": that library is not here, or does not know a type.
    """
    try:
        return Restorer.of(signature).restore
    except ImportError as error:
        raise PackageRefused(
            f"the model takes its rows in a container of a library that is not installed: {error}",
            code="requirement-missing",
            hint="install the library with which the model was trained",
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise PackageRefused(
            f"the libraries that are installed do not know a type of the training rows: {error}",
            code="requirement-mismatch",
            hint="install the versions with which the model was packed",
        ) from error


def _closed(_rows: Any) -> Mapping[str, Array]:
    raise ModelFault("the version is closed", code="version-closed")
