"""Makes the kept packages of the current formats. Run it once when the format changes, from the root of the repository:

python tests/formats/keep.py

It refuses to replace a kept package, which shows what a past release wrote.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from roadworthy.package.manifest import FORMAT, FORMAT_AT_ONCE
from roadworthy.package.packing.pack import pack

HERE = Path(__file__).parent
CARD = {"About": "Kept to show that packages of this format stay readable."}


def flat(rows: np.ndarray) -> np.ndarray:
    """The rule of the kept package."""
    return np.zeros((len(rows), 1), dtype=np.float32)


def main() -> None:
    """Write the kept packages that are not there yet next to this file: y = x @ (1, 2, 3) + 0.5 as an ONNX graph, and a model
    that answers in parts."""
    missing = [kept for number in (FORMAT_AT_ONCE, FORMAT) if not (kept := HERE / f"format-{number}.rw").exists()]
    if not missing:
        raise SystemExit("both are already kept; raise FORMAT or FORMAT_AT_ONCE in package/manifest.py first")
    for kept in missing:
        (keep_in_parts if kept.name == f"format-{FORMAT}.rw" else keep_at_once)(kept)


def columns(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The kept model that answers in parts: a part for each column."""
    for column in range(rows.shape[1]):
        yield rows[:, column]


def keep_in_parts(kept: Path) -> None:
    """Write the package of a model that answers in parts."""
    rows = np.arange(24, dtype=np.float64).reshape(8, 3)
    with tempfile.TemporaryDirectory() as folder:
        kept.write_bytes(pack(columns, name="kept", inputs=rows, out=folder, card=CARD).path.read_bytes())


def keep_at_once(kept: Path) -> None:
    """Write the package of a model that answers at once."""
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
        package = pack(model, name="kept", inputs=rows, out=folder, examples=8, card=CARD, rules={"flat": flat})
        kept.write_bytes(package.path.read_bytes())


if __name__ == "__main__":
    main()
