"""Reads a saved model and a table of rows from files, for packing on the user's own machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roadworthy.foundation.errors import PackError
from roadworthy.frameworks.discovery import readers

_TABLES = (".csv", ".parquet", ".json", ".jsonl")


def opened(model: Any) -> Any:
    """`model` itself, or the model in the file when `model` is a path (text or Path).

    Raises:
        As `load_model_file`.
    """
    return load_model_file(Path(model)) if isinstance(model, (str, Path)) else model


def load_model_file(path: Path) -> Any:
    """The model in a file, read by the framework that has the file's suffix.

    Unpickling executes code from the file: use it for the user's own files only, in the user's own process.

    Raises:
        PackError: "model-file-missing", "model-file-unknown", "model-file-unreadable".
    """
    if not path.is_file():
        raise PackError(f"no model file {path.name!r}", code="model-file-missing", hint="check the path")
    known = readers()
    if path.suffix not in known:
        raise PackError(
            f"unknown kind of model file: {path.name}",
            code="model-file-unknown",
            hint=f"give a file that ends in {', '.join(known)}, or pack from Python with roadworthy.pack",
        )
    try:
        return known[path.suffix].read_file(path)
    except Exception as error:  # reading may run any object's own code, which may raise anything
        raise PackError(
            f"cannot read the model file {path.name}: {type(error).__name__}: {error}",
            code="model-file-unreadable",
            hint="use the Python and library versions that saved it, in the folder that holds its modules",
        ) from error


def read_sample(path: Path) -> Any:
    """A pandas DataFrame from a .csv, .parquet, .json (list of records) or .jsonl file.

    Raises:
        PackError: "sample-missing", "sample-unknown", "sample-unreadable", "requirement-missing".
    """
    if not path.is_file():
        raise PackError(f"no sample file {path.name!r}", code="sample-missing", hint="check the path")
    if path.suffix not in _TABLES:
        raise PackError(
            f"unknown kind of sample file: {path.name}", code="sample-unknown", hint=f"give one of {', '.join(_TABLES)}"
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
            f"cannot read the sample file {path.name}: {type(error).__name__}",
            code="sample-unreadable",
            hint="expected UTF-8; in CSV, a header line, then one row per line",
        ) from error
