"""The training data at pack time, and the checks on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from roadworthy.foundation.errors import PackError
from roadworthy.package.packing.pack import pack


def test_the_row_that_the_model_fails_on_is_named(tmp_path: Path) -> None:
    """The error has the number of the bad row among many good ones."""
    frame = pd.DataFrame({"a": np.arange(100.0)})

    def picky(rows: pd.DataFrame) -> np.ndarray:
        if (rows["a"] == 73).any():
            raise ValueError("no 73")
        return rows["a"].to_numpy()

    with pytest.raises(PackError) as caught:
        pack(picky, name="picky", inputs=frame, out=tmp_path)
    assert caught.value.code == "model-fails-on-sample"
    assert caught.value.facts["row"] == 73
    assert "row 73" in caught.value.message


def test_golden_examples_hold_what_training_saw(tmp_path: Path) -> None:
    """Answers given with outputs= become the golden ones to the last bit, even if the live model differs by rounding."""
    inputs = np.arange(20.0).reshape(10, 2)
    seen = inputs.sum(axis=1) * (1 + 1e-7)
    package = pack(lambda rows: rows.sum(axis=1), name="sum", inputs=inputs, outputs=seen, out=tmp_path, compile=False)
    golden, answers = package.golden()
    order = golden.column("x")[0][:, 0].argsort()
    assert (answers.column("prediction")[0][order] == seen).all()


def test_a_model_that_answers_otherwise_each_time_is_called_so(tmp_path: Path) -> None:
    """Also if only a late row differs: the error does not blame the form of the rows."""
    asked: list[int] = []

    def restless(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return np.where(rows > 900, len(asked), rows)

    with pytest.raises(PackError) as caught:
        pack(restless, name="restless", inputs=np.arange(1000.0), out=tmp_path)
    assert caught.value.code == "not-deterministic"
