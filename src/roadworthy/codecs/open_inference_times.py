"""Reads timestamps of the Open Inference Protocol: BYTES with ISO 8601 text, or INT64 where the endpoint's policy names the
unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roadworthy.codecs.open_inference_tensors import Column, FieldReader
from roadworthy.schema.batch import Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Field
from roadworthy.schema.time_arrays import from_integers


def reader_of(field: Field, integers: str | None) -> FieldReader:
    """The reader for tensors of a field. `integers`: the unit in the policy, or None."""
    return TimeReader(field, integers) if field.dtype is DType.TIMESTAMP else FieldReader(field)


class TimeReader(FieldReader):
    """Reads the tensors of one timestamp field."""

    def __init__(self, field: Field, integers: str | None) -> None:
        super().__init__(field)
        self._integers = integers
        self._of_text = _TextReader(field)
        if integers is None:
            self.expects = self._of_text.expects

    def reading(self, datatype: str) -> FieldReader:
        """The reader for text, or this one for integers."""
        return self._of_text if datatype == self._of_text.expects else self

    def from_json(self, data: bytes, shape: Sequence[int], *, exactly: bool = True) -> Column:
        """See `FieldReader`."""
        return self._in_micros(super().from_json(data, shape, exactly=exactly))

    def from_raw(self, data: memoryview, shape: Sequence[int]) -> Column:
        """See `FieldReader`."""
        return self._in_micros(super().from_raw(data, shape))

    def _in_micros(self, column: Column) -> Column:
        values, mask = column
        return from_integers(self.field, values, mask, self._integers), mask


class _TextReader(FieldReader):
    """Reads ISO 8601 text. In raw tensors, which have no null, empty text means null in a nullable column."""

    def __init__(self, field: Field) -> None:
        super().__init__(replace(field, dtype=DType.STRING, minimum=None, maximum=None))
        self._name = field.name
        self._layout = Layout((field,))  # by which values from JSON are read

    def from_raw(self, data: memoryview, shape: Sequence[int]) -> Column:
        """See `FieldReader`."""
        values, _ = super().from_raw(data, shape)
        if self.field.nullable:
            values[values == ""] = None
        batch, _ = decode_rows(self._layout, [{self._name: value} for value in values.tolist()])
        return batch.column_at(0)
