"""A framework: linear models, kept as JSON. Loading them executes nothing."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roadworthy.frameworks.framework import (
    FormatMismatch,
    Loaded,
    ModelFiles,
    Nature,
    Preprocess,
    Saved,
    expect_only,
)
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.schema.batch import Array
from roadworthy.schema.signature import Scalar, Signature

FILE = "linear.json"


class LinearFramework:
    """Saves, examines and loads `Linear` models."""

    name = "linear"
    interface = 1
    suffixes = (".linear",)

    def read_file(self, path: Path) -> Any:
        """The model in the user's own file."""
        return _read(path.read_bytes())

    def recognises(self, model: object) -> bool:
        """A Linear: nothing can be one before its module was imported."""
        module = sys.modules.get("roadworthy_example.model")
        return module is not None and isinstance(model, module.Linear)

    def answer(self, model: Any, rows: Any) -> Mapping[str, Array]:
        """One output, "prediction"."""
        return {"prediction": model.predict(rows)}

    def categories(self, model: Any) -> Mapping[str, Sequence[Scalar]]:
        """A regressor has no labels."""
        return {}

    def save(self, model: Any, folder: Path) -> Saved:
        """One file of JSON, and the distribution that reads it."""
        document = {"weights": list(model.weights), "intercept": model.intercept}
        (folder / FILE).write_text(json.dumps(document))
        return Saved(distributions=("roadworthy-example",))

    def examine(self, files: ModelFiles, options: Mapping[str, Any]) -> Nature:
        """Declare that nothing executes, after reading the bytes as exactly what `save` writes."""
        expect_only(files, [FILE])
        _read(files.read(FILE))
        return Nature(carries_code=False, trust="data")

    def load(
        self,
        files: ModelFiles,
        options: Mapping[str, Any],
        signature: Signature,
        threads: int,
        preprocess: Preprocess | None,
    ) -> Loaded:
        """The model, behind the preprocessing."""
        model = _read(files.read(FILE))
        return NativeLoaded(lambda rows: self.answer(model, rows), signature, threads, preprocess)


def _read(data: bytes) -> Any:
    from roadworthy_example.model import Linear

    try:
        document = json.loads(data)
        if set(document) != {"weights", "intercept"}:
            raise ValueError("other keys")
        numbers = [*document["weights"], document["intercept"]]
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError("not all of them are finite numbers")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatMismatch(f"{FILE} is not a linear model: {error}") from error
    return Linear(tuple(map(float, numbers[:-1])), float(numbers[-1]))


FRAMEWORK = LinearFramework()
