"""The signature: a model's named, typed inputs and outputs. `infer.py` makes it, manifests keep it, codecs check it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Literal

import msgspec

from roadworthy.foundation.errors import PackageInvalid
from roadworthy.schema.dtypes import DType

Scalar = str | int | bool
MAX_PART_BYTES = 1 << 20
"""Most bytes of one part of an answer in parts, as it leaves its process."""
MAX_ANSWER_BYTES = 16 << 20
"""Most bytes of all parts of an answer together, as `least_bytes` counts them, for those who want the answer at once."""


class Privacy(str, Enum):
    """How a field's values may be stored in records, golden examples and profiles."""

    KEEP = "keep"
    HASH = "hash"
    DROP = "drop"


class Container(str, Enum):
    """The type in which the model's own code takes its rows; restored exactly before a native runtime is called."""

    DATAFRAME = "dataframe"  # pandas.DataFrame, one column per field, in order
    POLARS = "polars"  # polars.DataFrame, one column per field, in order
    ARRAY = "array"  # one numpy array, rows first; the signature then has exactly one field
    RECORDS = "records"  # list of dicts, one per row
    LISTS = "lists"  # list with one list of numbers or texts per row, or one bare value; one field, as for an array


class Missing(str, Enum):
    """The training container's mark for a missing value; the model gets the same mark."""

    NULL = "null"  # Python's None, or a polars null
    NAN = "nan"
    NA = "na"  # pandas.NA
    NAT = "nat"
    ABSENT = "absent"  # the record does not have the key


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Properties of the training container besides its columns.

    Attributes:
        labels: pandas' type name of the column labels, or None for pandas' default.
        labels_name: the name of the column labels (`frame.columns.name`), or None.
        order: memory order of the numbers if it is not the default: "F" (column by column) for an array, "C" (row by row) for a
            DataFrame of one type.
        rows: "tuple" or "array" if the rows of a list had that type.
    """

    labels: str | None = None
    labels_name: str | None = None
    order: Literal["C", "F"] | None = None
    rows: Literal["tuple", "array"] | None = None

    def to_document(self) -> dict[str, str]:
        """Plain JSON values; defaults are omitted."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


USUAL = Form()
"""The form with only default values."""


@dataclass(frozen=True, slots=True)
class Field:
    """One column (shape `()`) or one tensor (its shape without the rows).

    Attributes:
        name: unique within its side of the signature; any text without control characters.
        dtype: element type.
        shape: trailing shape of one row's value; () for a plain column. -1 means a length that varies between requests.
        nullable: whether a value may be missing.
        minimum, maximum: the smallest and largest training value, as exact text (`repr`), or None. For information only.
        categories: the distinct training values if there were few, otherwise None.
        categorical: the model takes a pandas category. A value outside `categories` is then refused, since the container cannot
            hold it. Otherwise an unseen category is passed to the model.
        privacy: how the values may be stored.
        native: the training container's own type name of the column if `dtype` does not imply it, such as "object", "float16" or
            "datetime64[ns, UTC]". The model's rows are restored to it (`forms.py`). Callers need not know it.
        missing: the training container's mark for a missing value; None when no value was missing, and in packages of format 1
            and 2.
        element: in a column of Python objects, the type of the values if it is not Python's own, such as "numpy.int64".
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()
    nullable: bool = False
    minimum: str | None = None
    maximum: str | None = None
    categories: tuple[Scalar, ...] | None = None
    categorical: bool = False
    privacy: Privacy = Privacy.KEEP
    native: str | None = None
    missing: Missing | None = None
    element: str | None = None

    def to_document(self) -> dict[str, Any]:
        """A dict of plain JSON values without floats, the same for equal fields; defaults are omitted."""
        given = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        return {name: _plain(value) for name, (value, default) in given.items() if value != default}


@dataclass(frozen=True, slots=True)
class Signature:
    """Typed inputs and outputs of a model, in order, and the container and form in which its own code takes the inputs.

    Attributes:
        parts: the model answers in parts, each of which has the outputs. Since format 4 of packages.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    container: Container = Container.DATAFRAME
    form: Form = USUAL
    parts: bool = False

    def to_document(self) -> dict[str, Any]:
        """A dict of plain JSON values without floats."""
        document: dict[str, Any] = {
            "inputs": [field.to_document() for field in self.inputs],
            "outputs": [field.to_document() for field in self.outputs],
            "container": self.container.value,
        }
        if self.form != USUAL:
            document["form"] = self.form.to_document()
        if self.parts:
            document["parts"] = True
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Signature:
        """Parse the result of `to_document`.

        Raises:
            PackageInvalid: "signature-invalid"; the message says where.
        """
        try:
            return msgspec.convert({"container": None, **document}, cls)  # packages of every format name it
        except (TypeError, msgspec.ValidationError) as error:
            raise PackageInvalid(f"the signature is malformed: {error!s:.200}", code="signature-invalid") from error

    def accepts(self, caller: Signature) -> str | None:
        """Whether this signature, a version's, can serve `caller`, an endpoint's.

        Returns None when every request that fits `caller` also fits this signature and gets outputs of the same names and types;
        otherwise a sentence that names the first difference.
        """
        if self.parts != caller.parts:
            return "only one of them answers in parts"
        for mine, theirs, side in ((self.inputs, caller.inputs, "input"), (self.outputs, caller.outputs, "output")):
            if [field.name for field in mine] != [field.name for field in theirs]:
                return f"the {side} names differ"
            for field, wanted in zip(mine, theirs, strict=True):
                difference = _difference(field, wanted, side)
                if difference is not None:
                    return difference
        return None


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value


def _difference(field: Field, wanted: Field, side: str) -> str | None:
    if field.dtype is not wanted.dtype:
        return f"{side} {field.name!r} is {field.dtype.value}, expected {wanted.dtype.value}"
    if field.shape != wanted.shape:
        return f"{side} {field.name!r} has shape {list(field.shape)}, expected {list(wanted.shape)}"
    if side == "input" and wanted.nullable and not field.nullable:
        return f"input {field.name!r} does not accept nulls, which the endpoint allows"
    if side == "input" and field.categorical and not set(wanted.categories or ()) <= set(field.categories or ()):
        return f"input {field.name!r} does not accept all categories that the endpoint allows"
    return None
