"""The same inputs give the same digest, also in another process with another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roadworthy.package.packing.pack import pack
from tests.waiting import DEADLINE_S

CODE = """
import sys, numpy as np, pandas as pd, roadworthy as rw
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
rng = np.random.default_rng(5)
frame = pd.DataFrame({"city": rng.choice(["Brno", "Osaka", "Lomé"], 60), "age": rng.integers(18, 90, 60)})
labels = np.where(frame["age"] > 50, "yes", "no")
encode = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
model = make_pipeline(encode, LogisticRegression()).fit(frame, labels)
package = rw.pack(model, name="same", inputs=frame, labels=labels, out=sys.argv[1], compile=False)
print(package.digest)
"""


def test_the_digest_does_not_depend_on_the_hash_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline over text, packed by another process, with another seed, and here: one digest, one file name."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "there")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert there.returncode == 0, there.stderr
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "here")])
    exec(CODE, {})  # noqa: S102  the same words as in the other process
    assert capsys.readouterr().out == there.stdout != "\n"
    names = [[path.name for path in (tmp_path / place).iterdir()] for place in ("here", "there")]
    assert names[0] == names[1]


def test_another_row_is_another_digest(tmp_path: Path, numbers: np.ndarray, linear: Callable[[float], object]) -> None:
    """A different constant in the model or a different training row gives a different digest; equal inputs give the same."""
    same = pack(linear(0.5), name="a", inputs=numbers, out=tmp_path / "1").digest
    assert pack(linear(0.5), name="a", inputs=numbers, out=tmp_path / "2").digest == same
    assert pack(linear(0.25), name="a", inputs=numbers, out=tmp_path / "3").digest != same
    other = numbers.copy()
    other[7, 1] += 1
    assert pack(linear(0.5), name="a", inputs=other, out=tmp_path / "4").digest != same
