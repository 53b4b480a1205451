"""The bytes of an ONNX model as messages, without the onnx package: what is needed to judge a graph before anything runs it.

ONNX Runtime reads the same bytes with the same library (protobuf), so both see the same model: of a field that comes twice the
last one, of nested messages a hundred levels. Fields that are not listed are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from roadworthy.frameworks.framework import FormatMismatch

_BUILT_IN = frozenset({"", "ai.onnx.ml", "com.microsoft"})
_EXECUTING = frozenset({"ATen", "EPContext", "PythonOp", "PythonOpGrad"})
"""Operators of ONNX Runtime's own that hand over to other code."""
EXTERNAL = 1
"""TensorProto.data_location of a tensor whose values lie in another file."""
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph"), "functions": (25, "*Function")},
    "Graph": {
        "node": (1, "*Node"),
        "initializer": (5, "*Tensor"),
        "input": (11, "*Value"),
        "output": (12, "*Value"),
        "sparse_initializer": (15, "*Sparse"),
    },
    "Node": {
        "input": (1, "*string"),
        "output": (2, "*string"),
        "op_type": (4, "string"),
        "attribute": (5, "*Attribute"),
        "domain": (7, "string"),
        "overload": (8, "string"),
    },
    "Attribute": {
        "name": (1, "string"),
        "i": (3, "int64"),
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "floats": (7, "*float"),
        "ints": (8, "*int64"),
        "strings": (9, "*bytes"),
        "tensors": (10, "*Tensor"),
        "graphs": (11, "*Graph"),
        "sparse_tensor": (22, "Sparse"),
        "sparse_tensors": (23, "*Sparse"),
    },
    "Function": {
        "name": (1, "string"),
        "node": (7, "*Node"),
        "domain": (10, "string"),
        "attribute_proto": (11, "*Attribute"),
        "overload": (13, "string"),
    },
    "Tensor": {
        "dims": (1, "*int64"),
        "data_type": (2, "int32"),
        "int32_data": (5, "*int32"),
        "int64_data": (7, "*int64"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "external_data": (13, "*Entry"),
        "data_location": (14, "int32"),
    },
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Entry": {"key": (1, "string"), "value": (2, "string")},
    "Value": {"name": (1, "string"), "type": (2, "Type")},
    "Type": {"tensor_type": (1, "TensorType")},
    "TensorType": {"elem_type": (1, "int32"), "shape": (2, "Shape")},
    "Shape": {"dim": (1, "*Dimension")},
    "Dimension": {"dim_value": (1, "int64"), "dim_param": (2, "string")},
}
"""Message → field → (number, type), after onnx.proto; a star marks what repeats."""


@cache
def _model_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    described = descriptor_pb2.FileDescriptorProto(name="roadworthy_onnx.proto", package="roadworthy_onnx")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = described.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = kinds.LABEL_REPEATED if kind.startswith("*") else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            one = kind.removeprefix("*")
            if one in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".roadworthy_onnx.{one}"
            else:
                added.type = getattr(kinds, f"TYPE_{one.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("roadworthy_onnx.Model"))


def parse_model(data: bytes) -> Any:
    """The model in `data`.

    Raises:
        FormatMismatch: there is no graph; it needs code that is not ONNX Runtime's own; or a tensor lies in another file.
    """
    from google.protobuf.message import DecodeError

    try:
        model = _model_class().FromString(data)
    except DecodeError as error:
        raise FormatMismatch("the bytes are no ONNX graph") from error
    if not model.graph.node and not model.graph.output:
        raise FormatMismatch("the bytes are no ONNX graph")
    local = {(domain_of(function), function.name) for function in model.functions}
    for node in _nodes(model):
        built_in = domain_of(node) in _BUILT_IN and node.op_type not in _EXECUTING
        if not built_in and (domain_of(node), node.op_type) not in local:
            operator = f"{node.domain[:80]}.{node.op_type[:80]}"
            raise FormatMismatch(f"the operator {operator} is not of ONNX, so a library of someone's own would execute it")
    outside = [tensor for tensor in _tensors(model) if tensor.data_location or tensor.external_data]
    if len(outside) > sum(bool(tensor.data_location or tensor.external_data) for tensor in model.graph.initializer):
        raise FormatMismatch("a tensor that is not an initializer of the graph itself lies in another file")
    return model


def domain_of(part: Any) -> str:
    """The domain of a node or a function; ONNX's own is empty."""
    return "" if part.domain == "ai.onnx" else str(part.domain)


def _nodes(model: Any) -> Iterator[Any]:
    """Every node of the model, at any depth."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    waiting += [node for graph in _graphs(a for f in model.functions for a in f.attribute_proto) for node in graph.node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for graph in _graphs(node.attribute) for inner in graph.node]


def _graphs(attributes: Any) -> Iterator[Any]:
    for attribute in attributes:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of the model, at any depth."""
    attributes = [a for function in model.functions for a in function.attribute_proto]
    graphs = [model.graph, *_graphs(attributes)]
    for node in _nodes(model):
        attributes += node.attribute
        graphs += _graphs(node.attribute)
    for graph in graphs:
        yield from graph.initializer
        yield from (part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices))
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
        sparse_tensors = (attribute.sparse_tensor, *attribute.sparse_tensors)
        yield from (part for sparse in sparse_tensors for part in (sparse.values, sparse.indices))
