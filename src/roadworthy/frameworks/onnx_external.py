"""Tensors of an ONNX graph that lie in external files of its folder. This module reads them, bounded, and hands them to ONNX
Runtime as arrays. ONNX Runtime opens no file itself, so a graph cannot name one that is not its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from roadworthy.frameworks.framework import FormatMismatch
from roadworthy.frameworks.onnx_model import EXTERNAL
from roadworthy.schema.batch import Array

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,119}", re.ASCII)
_TYPES: Mapping[int, np.dtype[Any]] = {
    number: np.dtype(name).newbyteorder("<")
    for number, name in {
        1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
        9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    }.items()
}  # fmt: skip
"""TensorProto.data_type of what numpy knows."""


def external_files(model: Any) -> Collection[str]:
    """The names of the files in which tensors of the model lie.

    Raises:
        FormatMismatch: one is not the plain name of a file in the graph's folder.
    """
    names = dict.fromkeys(_place(tensor)["location"] for tensor in model.graph.initializer if _is_outside(tensor))
    for name in names:
        if not _PLAIN.fullmatch(name) or name.endswith("."):
            raise FormatMismatch(f"it names the file {name[:80]!r}, expected the name of a file in the graph's own folder")
    return list(names)


def external_arrays(model: Any, read: Callable[[str], bytes]) -> dict[str, Array]:
    """The tensors that lie outside, by name, out of the files that `read` gives.

    Raises:
        FormatMismatch: a file does not hold what the graph says, or a type is not known.
    """
    names = external_files(model)
    contents = {name: read(name) for name in names}
    return {t.name: _array(t, contents[_place(t)["location"]]) for t in model.graph.initializer if _is_outside(t)}


def _array(tensor: Any, content: bytes) -> Array:
    place, shape = _place(tensor), tuple(tensor.dims)
    dtype = _TYPES.get(tensor.data_type)
    if dtype is None or any(size < 0 for size in shape):
        raise FormatMismatch(f"the tensor {tensor.name[:80]!r} in another file is of a type that is not known")
    try:
        offset, length = int(place.get("offset", 0)), int(place.get("length", len(content)))
    except ValueError:
        offset, length = -1, -1
    expected = math.prod(shape) * dtype.itemsize
    length = expected if "length" not in place else length
    if offset < 0 or length != expected or offset + length > len(content):
        raise FormatMismatch(f"the tensor {tensor.name[:80]!r} does not lie in its file: {expected:,} bytes were expected")
    return np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)


def _is_outside(tensor: Any) -> bool:
    return bool(tensor.data_location or tensor.external_data)


def _place(tensor: Any) -> dict[str, str]:
    """Location, offset and length of a tensor that lies outside."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    if tensor.data_location != EXTERNAL or "location" not in place or len(place) != len(tensor.external_data):
        raise FormatMismatch(f"the tensor {tensor.name[:80]!r} does not say in which file it lies")
    return place
