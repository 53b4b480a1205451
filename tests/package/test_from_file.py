"""Packing from files: a saved model and a table."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest

from roadworthy.foundation.errors import PackError
from roadworthy.package.packing.from_file import load_model_file, opened, read_sample

FRAME = pd.DataFrame({"city": ["Brno", "Lomé"], "age": [30, 41]})


def code_of(call: Any, path: Path) -> str:
    """The refusal's code; it must have a hint, and no path in its message."""
    with pytest.raises(PackError) as refused:
        call(path)
    assert refused.value.hint
    assert str(path.parent) not in refused.value.message
    return refused.value.code


@pytest.mark.parametrize("suffix", [".joblib", ".pkl", ".pickle"])
def test_a_saved_model_is_read(suffix: str, tmp_path: Path) -> None:
    """joblib and pickle, by the file's suffix."""
    path = tmp_path / f"model{suffix}"
    if suffix == ".joblib":
        joblib.dump({"a": 1}, path)
    else:
        path.write_bytes(pickle.dumps({"a": 1}))
    assert load_model_file(path) == opened(path) == opened(str(path)) == {"a": 1}
    assert opened(7) == 7


def test_a_graph_stays_a_path(tmp_path: Path) -> None:
    """An .onnx file is not read here."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    assert load_model_file(path) == path


def test_model_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Missing, of an unknown kind, damaged, or of a module that cannot be imported."""
    assert code_of(load_model_file, tmp_path / "model.joblib") == "model-file-missing"
    (tmp_path / "model.h5").write_bytes(b"x")
    assert code_of(load_model_file, tmp_path / "model.h5") == "model-file-unknown"
    for name, data in (("model.pkl", b"x"), ("model.joblib", b"\x80\x04"), ("gone.pkl", b"cno_such_module\nThing\n.")):
        (tmp_path / name).write_bytes(data)
        assert code_of(load_model_file, tmp_path / name) == "model-file-unreadable"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_a_table_is_read(suffix: str, tmp_path: Path) -> None:
    """The same rows from each kind of file."""
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        FRAME.to_csv(path, index=False)
    elif suffix == ".parquet":
        FRAME.to_parquet(path)
    else:
        FRAME.to_json(path, orient="records", lines=suffix == ".jsonl")
    pd.testing.assert_frame_equal(read_sample(path), FRAME)


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    """Missing, of an unknown kind, or damaged."""
    assert code_of(read_sample, tmp_path / "rows.csv") == "sample-missing"
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    assert code_of(read_sample, tmp_path / "rows.xlsx") == "sample-unknown"
    for name, data in (
        ("rows.json", b"{"), ("rows.jsonl", b"7\nx"), ("rows.csv", b""), ("more.csv", b"\xff\xfe\xfa"), ("rows.parquet", b"x"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        assert code_of(read_sample, tmp_path / name) == "sample-unreadable"
