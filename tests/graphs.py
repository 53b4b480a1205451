"""Small ONNX graphs that several tests serve."""

from __future__ import annotations

from pathlib import Path


def sum_graph(folder: Path, columns: int) -> Path:
    """`sum.onnx` in `folder`, which executes in workers: the sum "total" of each row "x" of float32 numbers."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0, axes=[1])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [None])],
    )
    file = folder / "sum.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), file)
    return file
