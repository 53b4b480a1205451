"""Timestamps as tensors of the Open Inference Protocol: BYTES with text in ISO 8601, or INT64 where the endpoint's policy names
their unit. `open_inference.py` calls."""

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
    """What reads the tensors of a field; `integers` as in the policy."""
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
        """Text is read by another reader than integers."""
        return self._of_text if datatype == self._of_text.expects else self

    def from_json(self, data: bytes, shape: Sequence[int], *, exactly: bool = True) -> Column:
        """As the super class has it."""
        return self._in_micros(super().from_json(data, shape, exactly=exactly))

    def from_raw(self, data: memoryview, shape: Sequence[int]) -> Column:
        """As the super class has it."""
        return self._in_micros(super().from_raw(data, shape))

    def _in_micros(self, column: Column) -> Column:
        values, mask = column
        return from_integers(self.field, values, mask, self._integers), mask


class _TextReader(FieldReader):
    """Reads ISO 8601 text. In raw tensors, which have no null, an empty text is null where the column may have nulls."""

    def __init__(self, field: Field) -> None:
        super().__init__(replace(field, dtype=DType.STRING, minimum=None, maximum=None))
        self._name = field.name
        self._layout = Layout((field,))  # by which values from JSON are read

    def from_raw(self, data: memoryview, shape: Sequence[int]) -> Column:
        """As the super class has it."""
        values, _ = super().from_raw(data, shape)
        if self.field.nullable:
            values[values == ""] = None
        batch, _ = decode_rows(self._layout, [{self._name: value} for value in values.tolist()])
        return batch.column_at(0)
