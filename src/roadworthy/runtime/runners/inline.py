"""Runs a version inside the worker's own process; every failure becomes a ModelFault."""

from __future__ import annotations

import numpy as np

from roadworthy.foundation.errors import ModelFault
from roadworthy.runtime.runners.runner import Loaded
from roadworthy.schema.batch import Batch

WRONG_COUNT = "wrong-output-count"


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

    def close(self) -> None:
        """Release the model's memory and threads."""
        self._loaded.close()


def _check_answer(answer: Batch, rows: int) -> None:
    if answer.rows != rows or any(len(block.values) != rows for block in answer.blocks):
        raise ModelFault(f"the model got {rows} rows and answered {answer.rows}", code=WRONG_COUNT)
    for block in answer.blocks:
        values = block.values
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ModelFault("the model's answer contains NaN or an infinity", code="non-finite-output")
