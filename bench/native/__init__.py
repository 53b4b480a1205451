"""Programs in C for benchmarks, compiled where a compiler is: a server at the limit of one core, and an open loop of requests."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np

SOURCES = Path(__file__).parent


class NoCompilerError(Exception):
    """This machine has no C compiler, or it failed; the text gives the reason."""


def compiled(name: str, folder: Path) -> Path:
    """The program of `<name>.c`, compiled into `folder`.

    Raises:
        NoCompilerError: it could not be compiled.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("this machine has no C compiler")
    program = folder / name
    command = [compiler, "-O2", "-o", str(program), str(SOURCES / f"{name}.c"), "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NoCompilerError((result.stderr.strip().splitlines() or ["the compiler failed"])[0])
    return program


def write_trees(graph: Path, path: Path) -> None:
    """Write an ONNX graph of a scaler and a binary tree classifier as the flat arrays that limit_server reads."""
    import onnx

    scaler, trees = (
        {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        for node in onnx.load(str(graph)).graph.node[:2]
    )
    places = {key: place for place, key in enumerate(zip(trees["nodes_treeids"], trees["nodes_nodeids"], strict=True))}
    leaves = dict(zip(zip(trees["class_treeids"], trees["class_nodeids"], strict=True), trees["class_weights"], strict=True))
    columns = ("nodes_treeids", "nodes_nodeids", "nodes_modes", "nodes_featureids", "nodes_values", "nodes_truenodeids",
               "nodes_falsenodeids")  # fmt: skip
    nodes = []
    for tree, node, mode, feature, value, left, right in zip(*(trees[name] for name in columns), strict=True):
        if mode == b"LEAF":
            nodes.append(struct.pack("iiif", -1, 0, 0, leaves[tree, node]))
        else:
            nodes.append(struct.pack("iiif", feature, places[tree, left], places[tree, right], value))
    roots = [place for (_, node), place in places.items() if node == 0]
    head = struct.pack("iiif", len(scaler["offset"]), len(roots), len(nodes), trees["base_values"][0])
    scales = np.array([scaler["offset"], scaler["scale"]], dtype=np.float32).tobytes()
    path.write_bytes(head + scales + struct.pack(f"{len(roots)}i", *roots) + b"".join(nodes))
