"""Makes the kept package of the current format. Run it once when the format changes, from the root of the repository:

python tests/formats/keep.py

It refuses to replace a kept package, which shows what a past release wrote.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from roadworthy.package.manifest import FORMAT
from roadworthy.package.packing.pack import pack

HERE = Path(__file__).parent


def flat(rows: np.ndarray) -> np.ndarray:
    """The rule of the kept package."""
    return np.zeros((len(rows), 1), dtype=np.float32)


def main() -> Path:
    """Write format-<n>.rw next to this file: y = x @ (1, 2, 3) + 0.5 as an ONNX graph."""
    kept = HERE / f"format-{FORMAT}.rw"
    if kept.exists():
        raise SystemExit(f"{kept.name} is already kept; raise FORMAT in package/manifest.py first")
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [1.0, 2.0, 3.0])
    shift = helper.make_tensor("b", TensorProto.FLOAT, [1], [0.5])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])],
        "kept",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [weights, shift],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = np.asfortranarray(np.random.default_rng(1).random((40, 3)).astype(np.float32))  # an unusual form
    with tempfile.TemporaryDirectory() as folder:
        card = {"About": "Kept to show that packages of this format stay readable."}
        package = pack(model, name="kept", inputs=rows, out=folder, examples=8, card=card, rules={"flat": flat})
        kept.write_bytes(package.path.read_bytes())
    return kept


if __name__ == "__main__":
    main()
