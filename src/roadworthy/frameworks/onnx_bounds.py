"""Whether a graph may run inside a worker: only listed operators, whose work and memory a row are known before anything runs.

A graph is data, and data can still loop for hours or ask for all memory: by control flow, by shapes that come out of values, by
tensors that double from node to node, by trees with a loop in them. So the shape of every value is followed from the inputs
through `RULES`. Whatever is not on that list, or whose size is not bounded by the number of rows times a constant, runs isolated,
where a process is watched and has its own memory. Not being on the list costs speed, never answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roadworthy.frameworks.onnx_model import domain_of
from roadworthy.frameworks.onnx_trees import tree_steps
from roadworthy.schema.batch import Array

MAX_NODES = 4_096
MAX_ROW_VALUES = 4_096
"""Most values of one tensor for each row, in addition to four times those that come in."""
MAX_ROW_VALUES_IN_ALL = 65_536
"""The same for all tensors together, in addition to sixteen times those that come in."""
MAX_FIXED_VALUES = 1 << 24
"""Values of one tensor that does not depend on the rows, and of all of them that are not in the model's own bytes."""
MAX_ROW_STEPS = 1 << 22
"""Multiplications, or nodes of trees, a row: a millisecond or two."""
MAX_FIXED_STEPS = 1 << 28
ROWS = None
"""The dimension that is as long as the request has rows."""

Dim = int | None
Shape = tuple[Dim, ...]
Rule = Callable[["_Node"], Sequence[Shape]]


class Unbounded(Exception):
    """The reason, in words, why a graph must run in a process of its own."""


def isolation_reason(model: Any, size_bytes: int) -> str | None:
    """Why the graph of a parsed model must not run inside a worker, in words; None when it may.

    Args:
        model: of `onnx_model.parse_model`.
        size_bytes: of the model's files: its tensors cannot be larger.
    """
    try:
        _Walk(model, size_bytes).run()
    except Unbounded as error:
        return f"unbounded graph: {error}"
    except (ValueError, IndexError, KeyError, TypeError, OverflowError):
        return "unbounded graph: the sizes of its values are not known"
    return None


@dataclass
class _Node:
    """An operator with what is known of its inputs."""

    kind: str
    inputs: Sequence[Shape | None]
    constants: Sequence[Array | None]
    attributes: Mapping[str, Any]
    outputs: int
    steps: int = field(default=0)
    """A row, or in all where no input depends on the rows."""

    @property
    def first(self) -> Shape:
        return self.shape(0)

    def shape(self, number: int) -> Shape:
        shape = self.inputs[number]
        if shape is None:
            raise ValueError("a needed input is left out")
        return shape

    @property
    def given(self) -> list[Shape]:
        return [shape for shape in self.inputs if shape is not None]

    def number(self, name: str, otherwise: int) -> int:
        return int(self.attributes[name].i) if name in self.attributes else otherwise

    def integers(self, name: str, position: int) -> list[int] | None:
        """An attribute, or a constant input of that position; None when neither is given."""
        if name in self.attributes:
            return [int(value) for value in self.attributes[name].ints]
        if position >= len(self.inputs) or self.inputs[position] is None:
            return None
        constant = self.constants[position]
        if constant is None:
            raise Unbounded(f"the operator {self.kind} gets its {name} from values")
        return [int(value) for value in constant.ravel().tolist()]

    def axes(self, rank: int, position: int = 1) -> list[int] | None:
        axes = self.integers("axes", position)
        return None if axes is None else [_axis(axis, rank) for axis in axes]


class _Walk:
    """Follows the shapes through a graph, in its order: ONNX has nodes after what they take. Every shape is exact: one that was
    only an upper bound would hide how values are broadcast against it."""

    def __init__(self, model: Any, size_bytes: int) -> None:
        self._model = model
        self._size_bytes = size_bytes
        self._shapes: dict[str, Shape] = {}
        self._constants: dict[str, Array] = {}
        self._given = self._row_values = self._row_steps = self._fixed_values = self._fixed_steps = 0

    def run(self) -> None:
        graph = self._model.graph
        if self._model.functions:
            raise Unbounded("it holds functions of its own")
        if graph.sparse_initializer:
            raise Unbounded("it holds sparse tensors")
        if len(graph.node) > MAX_NODES:
            raise Unbounded(f"it has over {MAX_NODES:,} nodes")
        for value in graph.input:
            shape = self._shapes[value.name] = _declared(value)
            self._given += math.prod(size for size in shape if size is not None)
        for tensor in graph.initializer:
            self._keep(tensor.name, tensor)
        for node in graph.node:
            self._visit(node)

    def _keep(self, name: str, tensor: Any) -> None:
        """A tensor of the model's own bytes."""
        shape = tuple(tensor.dims)
        if min(shape, default=0) < 0 or math.prod(shape) > 2 * self._size_bytes:
            raise Unbounded("a tensor claims to be larger than the model")
        self._shapes[name] = shape
        values = _integers(tensor)
        if values is not None:
            self._constants[name] = values

    def _keep_constant(self, name: str, value: Any) -> None:
        """The one attribute of the operator Constant."""
        if value.name == "value":
            self._keep(name, value.t)
        elif value.name in ("value_ints", "value_floats"):
            self._shapes[name] = (len(value.ints) + len(value.floats),)
            if value.ints:
                self._constants[name] = np.array(value.ints, dtype=np.int64)
        elif value.name in ("value_int", "value_float"):
            self._shapes[name] = ()
        else:
            raise Unbounded("the operator Constant gives text or sparse values")

    def _visit(self, node: Any) -> None:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if (domain_of(node), node.op_type) == ("", "Constant"):
            self._keep_constant(node.output[0], *attributes.values())
            return
        rule = RULES.get((domain_of(node), node.op_type))
        if rule is None:
            raise Unbounded(f"the operator {node.op_type[:80]} is not listed")
        seen = _Node(
            node.op_type,
            [self._shapes[name] if name else None for name in node.input],
            [self._constants.get(name) for name in node.input],
            attributes,
            len(node.output),
        )
        shapes = rule(seen)
        for name, shape in zip(node.output, shapes, strict=len(node.output) > len(shapes)):
            self._count(shape)
            self._shapes[name] = shape
        self._count_steps(seen)

    def _count(self, shape: Shape) -> None:
        values = math.prod(size for size in shape if size is not None)
        if shape.count(ROWS) > 1:
            raise Unbounded("a value grows with the square of the rows")
        if ROWS in shape:
            self._row_values += values
            most, in_all = MAX_ROW_VALUES + 4 * self._given, MAX_ROW_VALUES_IN_ALL + 16 * self._given
            if values > most or self._row_values > in_all:
                raise Unbounded("its values need much memory a row")
        else:
            self._fixed_values += values
            if self._fixed_values > MAX_FIXED_VALUES:
                raise Unbounded("its values need much memory")

    def _count_steps(self, node: _Node) -> None:
        if any(ROWS in shape for shape in node.given):
            self._row_steps += node.steps
        else:
            self._fixed_steps += node.steps
        if self._row_steps > MAX_ROW_STEPS or self._fixed_steps > MAX_FIXED_STEPS:
            raise Unbounded("it takes many steps a row")


def _declared(value: Any) -> Shape:
    """The shape of a graph's input: rows first; only rows may be unknown."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise Unbounded("an input has no shape")
    dims = [int(dim.dim_value) if dim.HasField("dim_value") else ROWS for dim in value.type.tensor_type.shape.dim]
    if ROWS in dims[1:] or any(size is not None and size < 0 for size in dims):
        raise Unbounded("an input has a shape that is not known")
    return tuple(dims)


def _integers(tensor: Any) -> Array | None:
    """The values of a small tensor of integers, which may be a shape or axes."""
    if tensor.data_type not in (6, 7) or tensor.data_location or math.prod(tensor.dims) > 64:
        return None
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data, "<i4" if tensor.data_type == 6 else "<i8")
    return np.array(tensor.int32_data if tensor.data_type == 6 else tensor.int64_data, dtype=np.int64)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError("no such axis")
    return axis % rank


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(_together(sizes) for sizes in zip(*padded, strict=True))


def _together(sizes: Sequence[Dim]) -> Dim:
    """The size that sizes are broadcast to: a number where there is one, since the rows can then only be as many, or one."""
    wide = {size for size in sizes if size != 1}
    numbers = {size for size in wide if size is not None}
    if len(numbers) > 1:
        raise ValueError("sizes differ")
    return numbers.pop() if numbers else (ROWS if wide else 1)


def _like_first(node: _Node) -> list[Shape]:
    return [node.first] * (2 if node.kind == "Dropout" else 1)


def _stretched(node: _Node) -> list[Shape]:
    return [_broadcast(node.given)]


def _matmul(node: _Node) -> list[Shape]:
    left, right = node.shape(0), node.shape(1)
    wide = _product(node, (1, *left) if len(left) == 1 else left, (*right, 1) if len(right) == 1 else right)
    return [(*wide[:-2], *(wide[-2:-1] if len(left) > 1 else ()), *(wide[-1:] if len(right) > 1 else ()))]


def _product(node: _Node, left: Shape, right: Shape) -> Shape:
    shape = (*_broadcast([left[:-2], right[:-2]]), left[-2], right[-1])
    inner = _together([left[-1], right[-2]])
    if inner is ROWS:
        raise Unbounded("a product goes along the rows")
    node.steps = inner * math.prod(size for size in shape if size is not None)
    return shape


def _gemm(node: _Node) -> list[Shape]:
    left, right = node.shape(0), node.shape(1)
    left = left[::-1] if node.number("transA", 0) else left
    right = right[::-1] if node.number("transB", 0) else right
    return [_product(node, left, right)]


def _reduced(node: _Node) -> list[Shape]:
    rank, keep = len(node.first), node.number("keepdims", 1)
    axes = node.axes(rank)
    if not axes:
        axes = [] if node.number("noop_with_empty_axes", 0) else list(range(rank))
    return [tuple(1 if place in axes else size for place, size in enumerate(node.first) if keep or place not in axes)]


def _arg_reduced(node: _Node) -> list[Shape]:
    axis, keep = _axis(node.number("axis", 0), len(node.first)), node.number("keepdims", 1)
    return [tuple(1 if place == axis else size for place, size in enumerate(node.first) if keep or place != axis)]


def _joined(node: _Node) -> list[Shape]:
    axis = _axis(node.number("axis", 0), len(node.first))
    along = [shape[axis] for shape in node.given]
    if ROWS in along or any(len(shape) != len(node.first) for shape in node.given):
        raise Unbounded("it joins along the rows")
    others = _broadcast([(*shape[:axis], 1, *shape[axis + 1 :]) for shape in node.given])
    return [(*others[:axis], sum(size for size in along if size is not None), *others[axis + 1 :])]


def _gathered(node: _Node) -> list[Shape]:
    axis = _axis(node.number("axis", 0), len(node.first))
    return [(*node.first[:axis], *node.shape(1), *node.first[axis + 1 :])]


def _features(node: _Node) -> list[Shape]:
    chosen = node.shape(1)
    count = math.prod(size for size in chosen if size is not None)
    last = ROWS if ROWS in chosen and count == 1 else count
    if ROWS in chosen and count != 1:
        raise ValueError("many columns a row")
    return [(*(node.first[:-1] or (1,)), last)]


def _squeezed(node: _Node) -> list[Shape]:
    axes = node.axes(len(node.first))
    if axes is None:
        raise ValueError("every axis of one is left out, and rows may be one")
    return [tuple(size for place, size in enumerate(node.first) if place not in axes)]


def _unsqueezed(node: _Node) -> list[Shape]:
    rank = len(node.first) + len(node.integers("axes", 1) or ())
    axes, sizes = node.axes(rank) or [], iter(node.first)
    return [tuple(1 if place in axes else next(sizes) for place in range(rank))]


def _reshaped(node: _Node) -> list[Shape]:
    asked = node.integers("shape", 1)
    if asked is None or min(asked, default=0) < -1:
        raise ValueError("no shape")
    if node.number("allowzero", 0):
        raise ValueError("zeros of its own meaning")
    shape: list[Dim] = [node.first[place] if size == 0 else size for place, size in enumerate(asked)]
    values = math.prod(size for size in node.first if size is not None)
    known = math.prod(size for size in shape if size is not None and size != -1)
    if shape.count(-1) > 1:
        raise ValueError("two sizes are open")
    if -1 in shape:
        left = (ROWS in node.first) - (ROWS in shape)
        rest = values // known if known else 0
        if left and values != known:
            raise ValueError("rows are cut up")
        shape[shape.index(-1)] = ROWS if left else rest
    return [tuple(shape)]


def _flattened(node: _Node) -> list[Shape]:
    axis = node.number("axis", 1)
    if axis != 1:
        raise ValueError("another axis than the rows")
    first, *rest = node.first
    if ROWS in rest:
        raise ValueError("rows are not first")
    return [(first, math.prod(size for size in rest if size is not None))]


def _transposed(node: _Node) -> list[Shape]:
    order = node.integers("perm", 1) or list(range(len(node.first)))[::-1]
    if sorted(order) != list(range(len(node.first))):
        raise ValueError("no order of the axes")
    return [tuple(node.first[place] for place in order)]


def _sliced(node: _Node) -> list[Shape]:
    starts, ends = node.integers("starts", 1) or [], node.integers("ends", 2) or []
    axes = node.integers("axes", 3) or list(range(len(starts)))
    steps = node.integers("steps", 4) or [1] * len(starts)
    shape = list(node.first)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _axis(axis, len(shape))
        size = shape[place]
        if size is ROWS:
            raise Unbounded("it cuts rows off")
        shape[place] = len(range(*slice(start, end, step).indices(size)))
    return [tuple(shape)]


def _split(node: _Node) -> list[Shape]:
    axis = _axis(node.number("axis", 0), len(node.first))
    whole, sizes = node.first[axis], node.integers("split", 1)
    if whole is ROWS:
        raise Unbounded("it cuts rows off")
    if sizes is None:
        part = -(-whole // node.outputs)
        sizes = [part] * (node.outputs - 1) + [whole - part * (node.outputs - 1)]
    if min(sizes) < 0 or sum(sizes) != whole:
        raise ValueError("parts that do not add up")
    return [(*node.first[:axis], size, *node.first[axis + 1 :]) for size in sizes]


def _one_hot(node: _Node) -> list[Shape]:
    given = [node.attributes[name] for name in ("cats_int64s", "cats_strings") if name in node.attributes]
    return [(*node.first, sum(len(attribute.ints) + len(attribute.strings) for attribute in given))]


def _trees(node: _Node) -> list[Shape]:
    node.steps = tree_steps(node.attributes)
    return _classified(node) if node.kind == "TreeEnsembleClassifier" else _regressed(node)


def _regressed(node: _Node) -> list[Shape]:
    rows, width = node.first
    targets = node.number("n_targets", 0) or node.number("targets", 1 if node.kind == "LinearRegressor" else 0)
    if not targets or width is ROWS:
        raise ValueError("the number of targets is not told")
    node.steps += targets * width
    return [(rows, targets)]


def _classified(node: _Node) -> list[Shape]:
    rows, width = node.first
    classes = max(len(a.ints) + len(a.strings) for n, a in node.attributes.items() if n.startswith("classlabels_"))
    scores = len(node.attributes["intercepts"].floats) if node.kind == "LinearClassifier" else classes
    if classes < 2 or width is ROWS or scores not in ((1, 2) if classes == 2 else (classes,)):
        raise ValueError("the number of classes is not told")
    node.steps += classes * width
    return [(rows,), (rows, classes)]


def _rules() -> Iterator[tuple[tuple[str, str], Rule]]:
    for rule, names in _LISTED.items():
        for name in names.split():
            domain, _, kind = name.rpartition(":")
            yield ("ai.onnx.ml" if domain == "ml" else "", kind), rule


_LISTED: dict[Rule, str] = {
    _like_first: """
        Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu
        HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization Mish Neg
        Not Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
        ml:Binarizer ml:Imputer ml:LabelEncoder ml:Normalizer ml:Scaler
    """,
    _stretched: """
        Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor
    """,
    _matmul: "MatMul",
    _gemm: "Gemm",
    _reduced: """
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    """,
    _arg_reduced: "ArgMax ArgMin",
    _joined: "Concat",
    _gathered: "Gather",
    _features: "ml:ArrayFeatureExtractor",
    _squeezed: "Squeeze",
    _unsqueezed: "Unsqueeze",
    _reshaped: "Reshape",
    _flattened: "Flatten",
    _transposed: "Transpose",
    _sliced: "Slice",
    _split: "Split",
    _one_hot: "ml:OneHotEncoder",
    _trees: "ml:TreeEnsemble ml:TreeEnsembleClassifier ml:TreeEnsembleRegressor",
    _regressed: "ml:LinearRegressor",
    _classified: "ml:LinearClassifier",
}
RULES: Mapping[tuple[str, str], Rule] = dict(_rules())
"""The operators that may run inside a worker, by domain and name, and the shapes of what each gives."""
