"""Conversions that look equal and are not, which the comparison must find. Made by skl2onnx, which claims no bit equality."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, KBinsDiscretizer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import CONSTRUCTION, Source
from roadworthy.schema.batch import Layout

FILE = "model.onnx"
FAULTS: dict[str, Callable[[], Any]] = {
    "boosted stumps": lambda: make_pipeline(
        StandardScaler(), AdaBoostClassifier(DecisionTreeClassifier(max_depth=3), n_estimators=20, random_state=0)
    ),
    "calibrated boosting": lambda: make_pipeline(
        StandardScaler(), CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=10, random_state=0), cv=2)
    ),
    "boosting": lambda: make_pipeline(
        StandardScaler(), HistGradientBoostingClassifier(max_iter=30, random_state=0)
    ),
    "isotonic forest": lambda: CalibratedClassifierCV(
        RandomForestClassifier(10, random_state=0), method="isotonic", cv=2
    ),
    "bins": lambda: make_pipeline(
        KBinsDiscretizer(10, strategy="uniform", encode="ordinal"), LogisticRegression(max_iter=500)
    ),
    "threshold": lambda: make_pipeline(
        StandardScaler(), Binarizer(threshold=0.1), LogisticRegression()
    ),
}  # fmt: skip
"""Models whose float32 conversion is wrong for some ordinary rows."""


class Foreign:
    """skl2onnx with one width of float, as a candidate that claims to be constructed. Converts models of float tables only."""

    framework = "onnx"
    has_ties = False

    def __init__(self, width: str = "float32") -> None:
        self.name = f"foreign-{width}"
        self._width = width

    def convert(self, source: Source, folder: Path) -> Saved:
        """As Candidate.convert."""
        graph = foreign_graph(source.model, source.signature.inputs, self._width)
        (folder / FILE).write_bytes(graph.SerializeToString())
        names = [field.name for field in source.signature.outputs]
        outputs = [output.name for output in graph.graph.output][: len(names)]
        fetches = [{"output": o, "field": n} for o, n in zip(outputs, names, strict=True)]
        feed: dict[str, Any] = {"input": "x", "block": 0, "cast": self._width}
        options = {"file": FILE, "feeds": [feed], "fetches": fetches, CONSTRUCTION: ["claimed, and not true"]}
        return Saved(options, ("onnxruntime",))


def foreign_graph(model: Any, inputs: tuple[Any, ...], width: str = "float32") -> Any:
    """skl2onnx's ModelProto of a model, with one input "x"."""
    from skl2onnx import to_onnx
    from skl2onnx.common import data_types

    (block,) = Layout(inputs).blocks
    columns = inputs[0].shape[0] if block.tensor else len(inputs)
    kind = data_types.FloatTensorType if width == "float32" else data_types.DoubleTensorType
    options = {id(model): {"zipmap": False}} if hasattr(model, "classes_") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_onnx(
            model, initial_types=[("x", kind([None, columns]))], target_opset={"": 18, "ai.onnx.ml": 3}, options=options
        )


def halves(rows: int, columns: int, seed: int = 1) -> np.ndarray[Any, np.dtype[Any]]:
    """Rows of whole and half numbers from 0 to 90, as people type them."""
    return np.asarray(np.random.default_rng(seed).integers(0, 180, (rows, columns)) / 2)
