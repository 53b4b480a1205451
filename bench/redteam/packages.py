"""The packages of the attacks: a plain graph, a pickle, and an arbitrary callable."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import roadworthy as rw

ENDPOINT = "line"
WIDTH = 4
ROW = [1.0, 2.0, 3.0, 4.0]
ROWS = np.random.default_rng(0).normal(size=(60, WIDTH))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that is deleted at the end. It is not in /tmp, since a confined process may get its own /tmp."""
    away = Path("/var/tmp")  # noqa: S108  the name in it is random
    within = away if away.is_dir() and os.access(away, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="redteam-", dir=within, ignore_cleanup_errors=True)


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return scratch()


def dist() -> Path:
    """The folder for packages, which exists until this process ends."""
    return Path(_kept().name)


def graph() -> Any:
    """y = 2 x, as an ONNX graph: data."""
    from onnx import TensorProto, helper

    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "f"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, WIDTH])],
        [helper.make_tensor("f", TensorProto.DOUBLE, [1], [2.0])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@cache
def line() -> rw.Package:
    """The graph's package."""
    return rw.pack(graph(), name=ENDPOINT, inputs=ROWS, out=dist(), examples=4)


def file_of(package: rw.Package) -> Path:
    """The path of a package's file."""
    if package.path is None:
        raise RuntimeError("the package was not written")
    return package.path
