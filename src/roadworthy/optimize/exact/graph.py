"""Writes ONNX graphs in double from end to end: inputs in the form of a batch, outputs with the names of the signature.

The exact candidates add their operators in between. The graph takes labels from the sums, in double, by the estimator's own rule:
taken from rounded probabilities, near ties between classes would become ties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import CONSTRUCTION, NotConvertible
from roadworthy.optimize.exact.columns import RawColumn
from roadworthy.optimize.exact.folding import Words
from roadworthy.schema.batch import Array, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

FILE = "model.onnx"
_LEAST_OPSET = 18
_LEAST_TREE_OPSET = 5
_IR_VERSION = 10


@dataclass
class Writer:
    """A graph under construction: nodes, constants, inputs and outputs, with generated names."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    feeds: list[dict[str, Any]] = field(default_factory=list)
    fetches: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator with one result; returns the result's name."""
        from onnx import helper

        result = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], domain=domain, **attributes))
        return result

    def constant(self, values: Array) -> str:
        """Add a constant tensor; returns its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def rename(self, name: str, wanted: str) -> None:
        """Give a result its final name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, current in enumerate(names):
                    if current == name:
                        names[place] = wanted

    def save(self, folder: Path, construction: tuple[str, ...], guards: Mapping[str, Any]) -> Saved:
        """Check and write the graph; returns the options with which the onnx framework loads it.

        Args:
            folder: destination of the file.
            construction: the arithmetic that the graph reproduces, one statement per step.
            guards: the options of `frameworks/guards.py`; empty when the original accepts every value.
        """
        import onnx
        from onnx import helper

        graph = helper.make_graph(self.nodes, "roadworthy", self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", _LEAST_OPSET), helper.make_opsetid("ai.onnx.ml", _LEAST_TREE_OPSET)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="roadworthy")
        onnx.checker.check_model(model)
        (folder / FILE).write_bytes(model.SerializeToString(deterministic=True))
        options = {
            "file": FILE,
            "feeds": self.feeds,
            "fetches": self.fetches,
            CONSTRUCTION: list(construction),
            **guards,
        }
        return Saved(options, ("onnxruntime",), carries_code=False, trust="data")


def write_matrix(
    writer: Writer, signature: Signature, raws: tuple[RawColumn, ...], words: tuple[Words, ...] = ()
) -> tuple[str, dict[RawColumn | Words, int]]:
    """Write the inputs as one double matrix: every needed block of numbers as a whole, then one column per table of words.

    Returns its name, and the column of each raw column of numbers and of each table.
    """
    layout = Layout(signature.inputs)
    parts: list[str] = []
    places: dict[RawColumn | Words, int] = {}
    width = 0
    for block in sorted({raw.block for raw in raws}):
        parts.append(_write_block(writer, layout, block))
        places |= {raw: width + raw.column for raw in raws if raw.block == block}
        width += _width(layout, block)
    text = {block: _write_block(writer, layout, block) for block in sorted({table.raw.block for table in words})}
    parts += [_look_up(writer, text[table.raw.block], table) for table in words]
    places |= {table: width + number for number, table in enumerate(words)}
    return (parts[0] if len(parts) == 1 else writer.add("Concat", *parts, axis=1)), places


def _width(layout: Layout, block: int) -> int:
    form = layout.blocks[block]
    return layout.fields[form.fields[0]].shape[0] if form.tensor else len(form.fields)


def _write_block(writer: Writer, layout: Layout, block: int) -> str:
    from onnx import TensorProto, helper

    dtype = layout.blocks[block].dtype
    name = f"block_{block}"
    element = TensorProto.STRING if dtype is DType.STRING else helper.np_dtype_to_tensor_dtype(dtype.numpy)
    writer.inputs.append(helper.make_tensor_value_info(name, element, [None, _width(layout, block)]))
    writer.feeds.append({"input": name, "block": block})
    if dtype in (DType.STRING, DType.FLOAT64):
        return name
    return writer.add("Cast", name, to=TensorProto.DOUBLE)


def _look_up(writer: Writer, name: str, table: Words) -> str:
    from onnx import numpy_helper

    column = writer.add("Gather", name, writer.constant(np.array([table.raw.column], dtype=np.int64)), axis=1)
    values = np.array(list(table.known.values()), dtype=np.float64)
    return writer.add(
        "LabelEncoder",
        column,
        domain="ai.onnx.ml",
        keys_tensor=numpy_helper.from_array(_objects(list(table.known)), "keys"),
        values_tensor=numpy_helper.from_array(values, "values"),
        default_tensor=numpy_helper.from_array(np.array([table.unknown], dtype=np.float64), "default"),
    )


def _objects(values: list[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def write_prediction(writer: Writer, column: str) -> str:
    """Reshape (rows, 1) to (rows,)."""
    return writer.add("Squeeze", column, writer.constant(np.array([1])))


def write_logistic(writer: Writer, sums: str) -> str:
    """From (rows, 1) sums to the probabilities (rows, 2) of the first and second class.

    Written in single operations, since ONNX Runtime's Sigmoid loses all digits of small probabilities: it returns 0 for -40.
    """
    one = writer.constant(np.array([1.0]))
    second = writer.add("Div", one, writer.add("Add", one, writer.add("Exp", writer.add("Neg", sums))))
    first = writer.add("Sub", one, second)
    return writer.add("Concat", first, second, axis=1)


def write_largest(writer: Writer, sums: str, classes: Array, dtype: DType) -> str:
    """(rows,) labels of the largest of (rows, classes) sums; the first among equal ones."""
    return writer.add("Gather", _labels(writer, classes, dtype), writer.add("ArgMax", sums, axis=1, keepdims=0))


def write_sign(writer: Writer, sums: str, classes: Array, dtype: DType, *, zero_is_second: bool) -> str:
    """(rows,) labels by the sign of (rows, 1) sums: the second class above zero, and at zero when `zero_is_second`."""
    from onnx import TensorProto

    kind = "GreaterOrEqual" if zero_is_second else "Greater"
    second = writer.add(kind, write_prediction(writer, sums), writer.constant(np.array(0.0)))
    if dtype is DType.BOOL and classes.tolist() == [False, True]:
        return second
    number = writer.add("Cast", second, to=TensorProto.INT64)
    if dtype is DType.INT64 and classes.tolist() == [0, 1]:
        return number
    return writer.add("Gather", _labels(writer, classes, dtype), number)


def _labels(writer: Writer, classes: Array, dtype: DType) -> str:
    values = _objects([str(c) for c in classes.tolist()]) if dtype is DType.STRING else classes.astype(dtype.numpy)
    return writer.constant(values)


def label_dtype(signature: Signature) -> DType | None:
    """The dtype of the signature's label, or None when it has no label."""
    return next((output.dtype for output in signature.outputs if output.name == "label"), None)


def write_outputs(writer: Writer, results: dict[str, str], signature: Signature) -> None:
    """Make results the graph's outputs. Floats are double; labels already have their field's dtype.

    Raises:
        NotConvertible: an output of the signature is not among `results`.
    """
    from onnx import TensorProto, helper

    for output in signature.outputs:
        if output.name not in results:
            raise NotConvertible(f"the model has an unknown output {output.name!r}")
        result = results[output.name]
        element = TensorProto.STRING
        if output.dtype is not DType.STRING:
            element = helper.np_dtype_to_tensor_dtype(output.dtype.numpy)
            if output.name != "label" and output.dtype is not DType.FLOAT64:
                result = writer.add("Cast", result, to=element)
        writer.rename(result, output.name)
        writer.outputs.append(helper.make_tensor_value_info(output.name, element, [None, *output.shape]))
        writer.fetches.append({"output": output.name, "field": output.name})
