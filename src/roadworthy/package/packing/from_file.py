"""For someone who has only files: a saved model and a table of rows. Used when packing, on the user's own machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roadworthy.foundation.errors import PackError

_TABLES = (".csv", ".parquet", ".json", ".jsonl")


def opened(model: Any) -> Any:
    """`model` itself; or, of a path given as text or as a Path, what lies there.

    Raises:
        As `load_model_file`.
    """
    return load_model_file(Path(model)) if isinstance(model, (str, Path)) else model


def load_model_file(path: Path) -> Any:
    """The object in a .joblib, .pkl or .pickle file, or the path itself for an .onnx file.

    Unpickling executes what the file says: only for the user's own file, in the user's own process.

    Raises:
        PackError: "model-file-missing", "model-file-unknown", "model-file-unreadable".
    """
    if not path.is_file():
        raise PackError("there is no model file of that name", code="model-file-missing", hint="check the path")
    if path.suffix == ".onnx":
        return path
    if path.suffix not in (".joblib", ".pkl", ".pickle"):
        raise PackError(
            "that kind of model file is not known",
            code="model-file-unknown",
            hint="give a .joblib, .pkl or .onnx file, or pack from Python with roadworthy.pack",
        )
    try:
        if path.suffix == ".joblib":
            import joblib

            return joblib.load(path)
        import cloudpickle

        with path.open("rb") as handle:
            return cloudpickle.load(handle)
    except Exception as error:  # unpickling runs any object's own code, which may raise anything
        raise PackError(
            f"the model file cannot be read: {type(error).__name__}: {error}",
            code="model-file-unreadable",
            hint="use the Python and the libraries that saved it, in the folder where its own modules are",
        ) from error


def read_sample(path: Path) -> Any:
    """A pandas DataFrame from a .csv, .parquet, .json (list of records) or .jsonl file.

    Raises:
        PackError: "sample-missing", "sample-unknown", "sample-unreadable", "requirement-missing".
    """
    if not path.is_file():
        raise PackError("there is no sample file of that name", code="sample-missing", hint="check the path")
    if path.suffix not in _TABLES:
        raise PackError(
            "that kind of sample file is not known", code="sample-unknown", hint=f"give one of {', '.join(_TABLES)}"
        )
    try:
        import pandas as pd
    except ImportError as error:
        raise PackError(
            "reading a sample needs pandas", code="requirement-missing", hint='pip install "roadworthy[sklearn]"'
        ) from error
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        text = path.read_text(encoding="utf-8")
        return pd.DataFrame(
            json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]
        )
    except (ValueError, OSError, UnicodeError) as error:
        raise PackError(
            f"the sample file cannot be read: {type(error).__name__}",
            code="sample-unreadable",
            hint="give a header row, one row a line, in UTF-8",
        ) from error
