"""The element types of columns and tensors, and their names in other systems."""

from __future__ import annotations

from enum import Enum

import numpy as np


class DType(str, Enum):
    """A field's element type. Values are the names used in manifests, in the API and in error messages.

    STRING and JSON are stored in object arrays, TIMESTAMP in int64 arrays of microseconds since 1970-01-01 UTC.
    """

    BOOL = "bool"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"
    TIMESTAMP = "timestamp"
    JSON = "json"

    __hash__ = str.__hash__  # Enum's own is a Python function, and the tables below would call it for every look-up

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The dtype of the array that stores such values in a Batch."""
        return _NUMPY[self]

    @property
    def is_float(self) -> bool:
        return self in (DType.FLOAT32, DType.FLOAT64)

    @property
    def is_integer(self) -> bool:
        return self in _INTEGERS

    @property
    def is_numeric(self) -> bool:
        """Whether it is an integer or float type; bool and timestamp are not."""
        return self.is_float or self.is_integer

    @property
    def open_inference(self) -> str:
        """The datatype name in the Open Inference Protocol."""
        return _OPEN_INFERENCE[self]

    @classmethod
    def from_numpy(cls, dtype: np.dtype[np.generic]) -> DType | None:
        """The DType that stores values of a numpy dtype without loss; None if unknown (objects need a look at the values).

        float16 widens to float32; datetime64 of any unit becomes TIMESTAMP; fixed-width text becomes STRING.
        """
        if dtype.kind == "M":
            return cls.TIMESTAMP
        if dtype.kind == "U":
            return cls.STRING
        if dtype == np.float16:
            return cls.FLOAT32
        if dtype.kind == "O":
            return None
        try:
            return cls(dtype.name)
        except ValueError:
            return None


_INTEGERS = frozenset({DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64})
_OBJECTS = frozenset({DType.STRING, DType.JSON})
_NUMPY: dict[DType, np.dtype[np.generic]] = {
    dtype: np.dtype(object) if dtype in _OBJECTS else np.dtype("int64" if dtype is DType.TIMESTAMP else dtype.value)
    for dtype in DType
}
_OPEN_INFERENCE: dict[DType, str] = {
    DType.BOOL: "BOOL",
    DType.FLOAT32: "FP32",
    DType.FLOAT64: "FP64",
    DType.STRING: "BYTES",
    DType.JSON: "BYTES",
    DType.TIMESTAMP: "BYTES",
    **{dtype: dtype.value.upper() for dtype in _INTEGERS},
}
