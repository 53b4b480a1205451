"""Runs a version inside the worker's own process; every failure becomes a ModelFault."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from roadworthy.foundation.errors import ModelFault
from roadworthy.runtime.runners.runner import Loaded, PartSteps
from roadworthy.schema.batch import Array, Batch

WRONG_COUNT = "wrong-output-count"
_FEW = 16
"""So many numbers are read faster one by one than by numpy."""


class InlineRunner:
    """Calls what was loaded directly and checks its answers."""

    __slots__ = ("_loaded", "_run", "concurrent")

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._run = loaded.run
        self.concurrent = loaded.concurrent

    def run(self, batch: Batch) -> Batch:
        """Answer all rows.

        Raises:
            ModelFault: code "model-failed" (it raised), "wrong-output-count" (wrong number of rows in the answer) or
                "non-finite-output" (NaN or an infinity in the answer).
        """
        try:
            answer = self._run(batch)
        except ModelFault:
            raise
        # The user's own code may raise anything, and even ask the process to exit.
        except (Exception, SystemExit) as error:
            raise ModelFault("the model failed on this input", code="model-failed") from error
        _check_answer(answer, batch.rows)
        return answer

    def parts(self, batch: Batch) -> CheckedParts:
        """Begin an answer in parts.

        Raises:
            ModelFault: code "model-failed".
        """
        begin: Callable[[Batch], PartSteps] | None = getattr(self._loaded, "parts", None)
        if begin is None:
            raise ModelFault("this model does not answer in parts", code="model-failed")
        try:
            return CheckedParts(begin(batch), batch.rows)
        except (Exception, SystemExit) as error:  # as in `run`
            raise ModelFault("the model failed on this input", code="model-failed") from error

    def close(self) -> None:
        """Release the model's memory and threads."""
        self._loaded.close()


class CheckedParts:
    """An answer in parts, with every failure as a ModelFault. `ask` is that of its steps."""

    def __init__(self, steps: PartSteps, rows: int) -> None:
        self._steps = steps
        self._rows = rows
        self._any = False
        self.ask = steps.ask

    def next(self) -> Batch | None:
        """The next part; None at the end.

        Raises:
            ModelFault: as `InlineRunner.run`, and code "no-parts": it ended without a part.
        """
        try:
            part = next(self._steps)
        except StopIteration:
            if not self._any:
                raise ModelFault("the model ended without a part", code="no-parts", hint="yield at least one part") from None
            return None
        except ModelFault:
            raise
        except (Exception, SystemExit) as error:  # as in `run`
            raise ModelFault("the model failed on this input", code="model-failed") from error
        self._any = True
        _check_answer(part, self._rows)
        return part

    def close(self) -> None:
        """Give the rest up. May raise anything that the model's own code raises."""
        self._steps.close()


def _check_answer(answer: Batch, rows: int) -> None:
    if answer.rows != rows or any(len(block.values) != rows for block in answer.blocks):
        raise ModelFault(f"the model got {rows} rows and answered {answer.rows}", code=WRONG_COUNT)
    for block in answer.blocks:
        values = block.values
        if values.dtype.kind == "f" and not _are_finite(values):
            raise ModelFault("the model's answer contains NaN or an infinity", code="non-finite-output")


def _are_finite(values: Array) -> bool:
    if values.size <= _FEW:
        return all(map(math.isfinite, values.ravel().tolist()))
    return bool(np.isfinite(values).all())
