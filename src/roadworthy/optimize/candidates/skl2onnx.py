"""What skl2onnx makes of an estimator, as a float32 graph and as a float64 one.

It knows many more models than the exact candidates and promises less: float32 moves values across split thresholds. Therefore it
stands behind the same comparison as everything else.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import NotConvertible, Source
from roadworthy.optimize.exact.trees import read_ensemble, splits
from roadworthy.schema.batch import Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field

_FILE = "model.onnx"
_OPSETS = {"": 18, "ai.onnx.ml": 3}


class Skl2Onnx:
    """One width of float, "float32" or "float64", for all inputs that are floats."""

    framework = "onnx"
    by_construction = False

    def __init__(self, width: str) -> None:
        self.name = f"onnx-skl2onnx-{width}"
        self._width = width

    def convert(self, source: Source, folder: Path) -> Saved:
        """As Candidate.convert."""
        if not type(source.model).__module__.startswith("sklearn."):
            raise NotConvertible("the model is not of scikit-learn")
        try:
            from skl2onnx import to_onnx
        except ImportError as error:
            raise NotConvertible("skl2onnx is not installed") from error

        _refuse_endless(source.model)
        types, feeds = self._inputs(source)
        classifier = any(output.name == "label" for output in source.signature.outputs)
        options = {id(source.model): {"zipmap": False}} if classifier else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its attributes are of types that protobuf still takes, under protest
            graph = to_onnx(source.model, initial_types=types, target_opset=_OPSETS, options=options)
        (folder / _FILE).write_bytes(graph.SerializeToString())
        outputs = [output.name for output in graph.graph.output]
        names = ["label", "probabilities"] if classifier else ["prediction"]
        wanted = {output.name for output in source.signature.outputs}
        if not wanted <= set(names[: len(outputs)]):
            raise NotConvertible("the graph has other outputs than the model")
        fetches = [{"output": o, "field": n} for o, n in zip(outputs, names, strict=False) if n in wanted]
        return Saved({"file": _FILE, "feeds": feeds, "fetches": fetches}, ("onnxruntime",))

    def _inputs(self, source: Source) -> tuple[list[tuple[str, Any]], list[dict[str, Any]]]:
        """skl2onnx's description of the inputs, and how they are fed: as one matrix where possible, else by column."""
        fields = source.signature.inputs
        layout = Layout(fields)
        if source.signature.container in (Container.RECORDS, Container.POLARS):
            raise NotConvertible(f"the model takes {source.signature.container.value}")
        if len(layout.blocks) == 1 and fields[0].dtype.is_float and not _picks_columns(source.model):
            width = fields[0].shape[0] if fields[0].shape else len(fields)
            return [("x", self._type(fields[0], width))], [{"input": "x", "block": 0, "cast": self._width}]
        if any(field.shape for field in fields):
            raise NotConvertible("an input is a tensor of a type that is not known here")
        casts = [{"cast": self._width} if field.dtype.is_float else {} for field in fields]
        feeds = [{"input": field.name, "field": field.name, **cast} for field, cast in zip(fields, casts, strict=True)]
        return [(field.name, self._type(field, 1)) for field in fields], feeds

    def _type(self, field: Field, width: int) -> Any:
        from skl2onnx.common import data_types

        if field.dtype.is_float:
            kind = data_types.FloatTensorType if self._width == "float32" else data_types.DoubleTensorType
            return kind([None, width])
        kinds = {
            DType.STRING: data_types.StringTensorType,
            DType.INT64: data_types.Int64TensorType,
            DType.BOOL: data_types.BooleanTensorType,
        }
        if field.dtype not in kinds:
            raise NotConvertible(f"column {field.name!r} is {field.dtype.value}")
        return kinds[field.dtype]([None, width])


def _refuse_endless(model: Any) -> None:
    """skl2onnx looks for the float before an infinite threshold, which stands for a split on missing values, without end."""
    try:
        trees = read_ensemble(getattr(model, "steps", [(None, model)])[-1][1]).trees
    except NotConvertible:
        return
    if not all(np.isfinite(thresholds).all() for _, thresholds in splits(trees)):
        raise NotConvertible("skl2onnx does not come to an end on splits on missing values")


def _picks_columns(model: Any) -> bool:
    """Whether any step chooses columns by name."""
    return any(type(step).__name__ == "ColumnTransformer" for _, step in getattr(model, "steps", ()))


CANDIDATES = (Skl2Onnx("float32"), Skl2Onnx("float64"))
