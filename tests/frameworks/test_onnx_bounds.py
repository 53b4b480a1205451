"""Which graphs may run inside a worker: those whose work and memory a row are known from their bytes alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from roadworthy.frameworks.framework import FormatMismatch
from roadworthy.frameworks.onnx_bounds import _Walk, isolation_reason
from roadworthy.frameworks.onnx_model import parse_model

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)
node = helper.make_node


def model(nodes: list[Any], shape: Any = (None, 4), constants: dict[str, Any] | None = None, **more: Any) -> Any:
    """A graph from x to y, with constants; `functions` of its own, `opset` of ONNX, `kind` of x."""
    kind = more.pop("kind", FLOAT)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in (constants or {}).items()],
    )
    domains = [helper.make_opsetid("", more.pop("opset", 18)), helper.make_opsetid("ai.onnx.ml", 3)]
    domains += [helper.make_opsetid(name, 1) for name in more.pop("domains", ())]
    return helper.make_model(graph, opset_imports=domains, ir_version=9, **more)


def reason(graph: Any) -> str | None:
    """The reason why it must run in a process of its own."""
    data = graph.SerializeToString()
    return isolation_reason(parse_model(data), len(data))


WIDE = np.ones((4, 6), np.float32)
ONE = np.ones(1, np.int64)
BOUNDED: dict[str, Any] = {
    "linear": model([node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])], constants={"w": WIDE, "b": WIDE[0]}),
    "gemm": model([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], constants={"w": WIDE.T.copy(), "b": WIDE[0]}),
    "vectors": model([node("MatMul", ["x", "w"], ["y"])], constants={"w": WIDE[:, 0]}),
    "matrices": model([node("MatMul", ["x", "w"], ["y"])], (None, 2, 4), {"w": WIDE}),
    "network": model(
        [
            node("Gemm", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["r"]),
            node("LayerNormalization", ["r", "b"], ["n"], axis=-1),
            node("Softmax", ["n"], ["y"], axis=-1),
        ],
        constants={"w": WIDE, "b": WIDE[0]},
    ),
    "reductions": model(
        [
            node("ReduceSum", ["x", "axes"], ["s"], keepdims=1),
            node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1),
            node("ReduceMax", ["x"], ["t"], axes=[-1], keepdims=0),
            node("ReduceL2", ["x"], ["all"]),
            node("Div", ["x", "s"], ["d"]),
            node("Concat", ["d", "m"], ["y"], axis=1),
        ],
        constants={"axes": ONE},
        opset=13,
    ),
    "labels": model([node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), node("Gather", ["w", "i"], ["y"])], constants={"w": WIDE}),
    "features": model(
        [node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain="ai.onnx.ml")], constants={"i": np.array([[2, 0, 2]])}
    ),
    "looked up": model(
        [
            node("ArgMax", ["x"], ["i"], axis=1, keepdims=1),
            node("ArrayFeatureExtractor", ["w", "i"], ["y"], domain="ai.onnx.ml"),
        ],
        constants={"w": WIDE[0]},
    ),
    "shapes": model(
        [
            node("Reshape", ["x", "to"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
            node("Flatten", ["t"], ["f"]),
            node("Unsqueeze", ["f", "one"], ["u"]),
            node("Squeeze", ["u", "one"], ["q"]),
            node("Slice", ["q", "one", "minus", "one"], ["l"]),
            node("Split", ["q", "parts"], ["p1", "p2"], axis=1),
            node("Reshape", ["p1", "row"], ["v"]),
            node("Concat", ["l", "p2", "p1"], ["y"], axis=1),
        ],
        constants={
            "to": np.array([-1, 2, 2]),
            "one": ONE,
            "minus": -ONE,
            "parts": np.array([1, 3]),
            "row": np.array([-1]),
        },
    ),
    "reshape keeps": model([node("Reshape", ["x", "to"], ["y"])], constants={"to": np.array([0, -1, 2])}),
    "halves": model([node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)]),
    "backwards": model(
        [node("Slice", ["x", "from", "to", "axis", "step"], ["y"])],
        constants={"from": -ONE, "to": np.array([-1000]), "axis": ONE, "step": -ONE},
    ),
    "constants": model(
        [
            node("Constant", [], ["c"], value=numpy_helper.from_array(WIDE[:, 0])),
            node("Constant", [], ["i"], value_ints=[1, 2]),
            node("Constant", [], ["f"], value_float=2.0),
            node("Mul", ["x", "c"], ["m"]),
            node("Mul", ["m", "f"], ["n"]),
            node("Gather", ["n", "i"], ["y"], axis=1),
        ]
    ),
    "scaler": model([node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])]),
    "one hot": model([node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", cats_int64s=[1, 2, 3])], kind=INT),
    "chosen": model(
        [node("Greater", ["x", "zero"], ["c"]), node("Where", ["c", "x", "zero"], ["y"])], constants={"zero": np.float32(0)}
    ),
    "classifier": model(
        [
            node(
                "LinearClassifier",
                ["x"],
                ["l", "y"],
                domain="ai.onnx.ml",
                coefficients=[1.0] * 12,
                intercepts=[0.0] * 3,
                classlabels_ints=[0, 1, 2],
            )
        ]
    ),
    "two classes": model(
        [
            node(
                "LinearClassifier",
                ["x"],
                ["l", "y"],
                domain="ai.onnx.ml",
                coefficients=[1.0] * 4,
                intercepts=[0.5],
                classlabels_ints=[0, 1],
            )
        ]
    ),
    "regressor": model(
        [node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0] * 8, intercepts=[0.0] * 2, targets=2)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("rows", [1, 5])
def test_listed_graphs_run_inside_with_the_sizes_that_were_followed(name: str, rows: int) -> None:
    """Every value has exactly the shape that was expected of it, so nothing hides how values stretch."""
    graph = BOUNDED[name]
    assert reason(graph) is None
    data = graph.SerializeToString()
    walk = _Walk(parse_model(data), len(data))
    walk.run()
    names = [output for each in graph.graph.node for output in each.output]
    for output in [name for name in names if name != "y"]:
        graph.graph.output.append(helper.make_empty_tensor_value_info(output))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [rows if not isinstance(size, int) else size for size in given.shape]
    x = RNG.normal(size=shape).astype(np.int64 if "int64" in given.type else np.float32)
    found = session.run(None, {"x": x})
    for output, values in zip(session.get_outputs(), found, strict=True):
        expected = tuple(rows if size is None else size for size in walk._shapes[output.name])
        assert np.shape(values) == expected, output.name
    del graph.graph.output[1:]


def branch(name: str) -> Any:
    """A graph inside a node."""
    out = helper.make_tensor_value_info(name, FLOAT, None)
    return helper.make_graph([node("Identity", ["x"], [name])], name, [], [out])


def loop() -> Any:
    """Identity, as often as the values of x say."""
    body = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), node("Identity", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("n", INT, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("v2", FLOAT, None)],
    )
    return model([node("Loop", ["", "yes", "x"], ["y"], body=body)], constants={"yes": np.array(True)})


def scan() -> Any:
    """Row by row."""
    body = helper.make_graph(
        [node("Identity", ["v"], ["v2"])],
        "body",
        [helper.make_tensor_value_info("v", FLOAT, None)],
        [helper.make_tensor_value_info("v2", FLOAT, None)],
    )
    return model([node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)])


def doubling(times: int, kind: str) -> Any:
    """A few nodes, and 2 to the power of `times` values."""
    names = ["x", *(f"v{number}" for number in range(times)), "y"]
    made = {
        "Concat": lambda a, b: node("Concat", [a, a], [b], axis=1),
        "MatMul": lambda a, b: node("MatMul", [a, "w"], [b]),
    }[kind]
    return model([made(a, b) for a, b in pairwise(names)], constants={"w": np.ones((4, 4), np.float32)})


def nested(depth: int) -> Any:
    """If in If."""
    inner = branch("z0")
    for number in range(1, depth):
        out = helper.make_tensor_value_info(f"z{number}", FLOAT, None)
        both = {"then_branch": inner, "else_branch": inner if number < 5 else branch("e")}
        inner = helper.make_graph([node("If", ["yes"], [f"z{number}"], **both)], f"g{number}", [], [out])
    return model([node("If", ["yes"], ["y"], then_branch=inner, else_branch=branch("e"))], constants={"yes": np.array(True)})


def tree(true: list[int], false: list[int], kind: str = "TreeEnsembleRegressor") -> Any:
    """Trees by the numbers of their nodes' children; a node that has itself as both is a leaf."""
    leaf = [t == f == number for number, (t, f) in enumerate(zip(true, false, strict=True))]
    zeros = [0] * len(true)
    more = {"n_targets": 1, "target_treeids": [0], "target_nodeids": [leaf.index(True) if any(leaf) else 0]}
    more |= {"target_ids": [0], "target_weights": [1.0]}
    return model(
        [
            node(
                kind,
                ["x"],
                ["y"],
                domain="ai.onnx.ml",
                nodes_treeids=zeros,
                nodes_nodeids=list(range(len(true))),
                nodes_featureids=zeros,
                nodes_values=[0.5] * len(true),
                nodes_modes=["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in leaf],
                nodes_truenodeids=true,
                nodes_falsenodeids=false,
                **more,
            )
        ]
    )


def sparse() -> Any:
    """A tensor of a few bytes that is a gigabyte when it is made whole."""
    graph = model([node("MatMul", ["x", "s"], ["y"])])
    values = helper.make_tensor("s", FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", INT, [1], [0])
    graph.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 1 << 28]))
    return graph


def claimed() -> Any:
    """A tensor that says it is large and holds nothing."""
    graph = model([node("MatMul", ["x", "w"], ["y"])])
    graph.graph.initializer.append(TensorProto(name="w", data_type=FLOAT, dims=[4, 1 << 40]))
    return graph


def with_function() -> Any:
    """A function of the graph's own, which hides what it does in one node."""
    opset = [helper.make_opsetid("", 18)]
    function = helper.make_function("mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opset)
    return model([node("Twice", ["x"], ["y"], domain="mine")], functions=[function], domains=["mine"])


BIG = np.array([1 << 40])
UNBOUNDED: dict[str, tuple[Callable[[], Any], str]] = {
    "loop": (loop, "Loop"),
    "scan": (scan, "Scan"),
    "if": (lambda: nested(1), "If"),
    "nested": (lambda: nested(12), "If"),
    "sequence": (
        lambda: model([node("SequenceConstruct", ["x"], ["s"]), node("ConcatFromSequence", ["s"], ["y"], axis=0)]),
        "Sequence",
    ),
    "enormous constant": (
        lambda: model([node("ConstantOfShape", ["n"], ["y"])], constants={"n": BIG}),
        "ConstantOfShape",
    ),
    "enormous expand": (lambda: model([node("Expand", ["x", "n"], ["y"])], constants={"n": BIG}), "Expand"),
    "enormous tile": (
        lambda: model([node("Tile", ["x", "n"], ["y"])], constants={"n": np.array([1 << 20, 1 << 20])}),
        "Tile",
    ),
    "enormous range": (
        lambda: model([node("Range", ["a", "n", "s"], ["y"])], constants={"a": 0, "n": 1 << 40, "s": 1}),
        "Range",
    ),
    "pad": (lambda: model([node("Pad", ["x", "n"], ["y"])], constants={"n": np.array([0, 0, 0, 1 << 30])}), "Pad"),
    "shape out of values": (
        lambda: model([node("Cast", ["x"], ["n"], to=INT), node("Reshape", ["w", "n"], ["y"])], (4,), {"w": WIDE}),
        "from values",
    ),
    "doubling": (lambda: doubling(30, "Concat"), "memory"),
    "many steps": (
        lambda: model([node("MatMul", ["x", "w"], ["y"])], (None, 3000), {"w": np.ones((3000, 3000), np.float32)}),
        "steps",
    ),
    "many nodes": (lambda: doubling(5000, "MatMul"), "nodes"),
    "square of the rows": (
        lambda: model([node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]),
        "square of the rows",
    ),
    "square by stretching": (
        lambda: model([node("Transpose", ["x"], ["t"], perm=[1, 0]), node("Add", ["x", "t"], ["y"])], (None, 1)),
        "square of the rows",
    ),
    "wide one hot": (
        lambda: model([node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", cats_int64s=list(range(5000)))], kind=INT),
        "memory",
    ),
    "constants that stretch": (
        lambda: model(
            [node("Mul", ["a", "b"], ["c"]), node("ReduceSum", ["c"], ["s"]), node("Add", ["x", "s"], ["y"])],
            constants={"a": np.ones((8192, 1), np.float32), "b": np.ones((1, 8192), np.float32)},
        ),
        "memory",
    ),
    "input of unknown width": (lambda: model([node("Identity", ["x"], ["y"])], (None, None)), "not known"),
    "input without a shape": (lambda: model([node("Identity", ["x"], ["y"])], None), "no shape"),
    "tree that points back": (lambda: tree([1, 0, 2], [2, 2, 2]), "not known"),
    "tree that points to itself": (lambda: tree([1, 1, 2], [2, 2, 2]), "not known"),
    "tree without a root": (lambda: tree([1, 0], [1, 0]), "not known"),
    "tree with a child that is not there": (lambda: tree([1, 1, 2], [77, 1, 2]), "not known"),
    "very deep tree": (lambda: tree([*range(1, 2001), 2000], [*range(1, 2001), 2000]), "not known"),
    "sparse": (sparse, "sparse"),
    "claimed": (claimed, "larger than the model"),
    "function": (with_function, "functions"),
    "contributed operator": (
        lambda: model(
            [node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")],
            constants={"w": WIDE},
            domains=["com.microsoft"],
        ),
        "FusedMatMul",
    ),
    "text patterns": (
        lambda: model([node("RegexFullMatch", ["x"], ["y"], pattern="(a+)+$")], kind=TensorProto.STRING, opset=20),
        "RegexFullMatch",
    ),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_g4_what_can_loop_or_grow_runs_apart(name: str) -> None:
    """With the reason, whatever hides it."""
    make, words = UNBOUNDED[name]
    assert words in str(reason(make()))


@pytest.mark.parametrize("kind", ["TreeEnsembleRegressor"])
def test_ordinary_trees_run_inside(kind: str) -> None:
    """A stump, and a tree whose leaves are shared."""
    assert reason(tree([1, 1, 2], [2, 1, 2], kind)) is None
    assert reason(tree([1, 3, 3, 3], [2, 3, 3, 3], kind)) is None


def custom(op: str, domain: str) -> Any:
    """An operator that a library of someone's own would execute."""
    return model([node(op, ["x"], ["y"], domain=domain)], domains=[domain])


def hidden_custom() -> Any:
    """The same one inside a branch."""
    out = helper.make_tensor_value_info("z", FLOAT, None)
    inner = helper.make_graph([node("Mine", ["x"], ["z"], domain="evil")], "inner", [], [out])
    return model(
        [node("If", ["yes"], ["y"], then_branch=inner, else_branch=branch("e"))],
        constants={"yes": np.array(True)},
        domains=["evil"],
    )


def custom_in_function() -> Any:
    """The same one inside a function."""
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    body = [node("Mine", ["a"], ["b"], domain="evil")]
    function = helper.make_function("mine", "Twice", ["a"], ["b"], body, opset)
    return model([node("Twice", ["x"], ["y"], domain="mine")], functions=[function], domains=["mine", "evil"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: custom("Mine", "evil"),
        lambda: custom("PythonOp", "com.microsoft"),
        lambda: custom("EPContext", "com.microsoft"),
        lambda: custom("ATen", "org.pytorch.aten"),
        hidden_custom,
        custom_in_function,
    ],
)
def test_g4_custom_operators_are_refused(make: Callable[[], Any]) -> None:
    """At any depth: what executes them would not be ONNX Runtime."""
    with pytest.raises(FormatMismatch, match="a library of someone's own would execute it"):
        parse_model(make().SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\x08\x07garbage", b"\x80\x05K\x05.", b"PK\x03\x04" + bytes(60), bytes(100)])
def test_g4_other_bytes_are_no_graph(data: bytes) -> None:
    """Pickles, archives, nothing."""
    with pytest.raises(FormatMismatch, match="no ONNX graph"):
        parse_model(data)


def test_levels_beyond_what_onnx_runtime_reads_are_no_graph() -> None:
    """Messages are nested a hundred deep at most; deeper ones are refused before anything walks through them."""

    def within(number: int, content: bytes) -> bytes:
        length = len(content)
        sizes = b"" if not length else bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
        return bytes([number << 3 | 2]) + (sizes or b"\0") + content

    graph = b""
    for _ in range(60):  # a graph, as an attribute of a node of a graph
        graph = within(1, within(5, within(6, graph)))
    with pytest.raises(FormatMismatch, match="no ONNX graph"):
        parse_model(within(7, graph))
