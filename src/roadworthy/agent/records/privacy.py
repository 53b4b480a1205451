"""Removes private values from predictions: applies the signature's `privacy` marks to bodies before anything is written.

The agent makes one Scrubber per endpoint from the snapshot. A body that cannot be parsed completely is not kept at all. Only
fields that the signature names are kept: other values that a caller sent may be just as private as the marked ones. Frames of
endpoints without private fields pass unchanged.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from roadworthy.contract.record import (
    Pieces,
    RecordColumns,
    RecordKind,
    RecordRow,
    decode_records,
    encode_columns,
    to_columns,
)
from roadworthy.foundation.files import write_atomic
from roadworthy.schema.signature import Field, Privacy, Signature

WITHHELD = "withheld"
"""The `input_format` of a record whose bodies are empty because their private values could not be removed."""

_KEY_BYTES = 32
# The key of the rows and that of the tensors. Bodies in other formats cannot be parsed here, so private ones are not kept.
_INPUT_NAMES = {"json": ("instances", ""), "open-inference": ("inputs", "inputs")}
_OUTPUT_NAMES = {"json": ("predictions", ""), "open-inference": ("outputs", "outputs")}


class _Unreadable(Exception):
    """The body does not have the form that the signature describes."""


def load_hash_key(path: Path) -> bytes:
    """This gateway's random key for hashed fields, created on the first call; mode 0600.

    Equal values give equal hashes on one gateway, so that records can be joined; without the key no value can be guessed.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) != _KEY_BYTES:
        key = secrets.token_bytes(_KEY_BYTES)
        write_atomic(path, key, mode=0o600)
    return key


class Scrubber:
    """Removes private values from request and response bodies of one endpoint.

    Attributes:
        inputs_private, outputs_private: whether any input or output is marked hash or drop. Otherwise bodies stay unchanged.
    """

    def __init__(self, signature: Signature, key: bytes) -> None:
        self._inputs, self._outputs, self._key = signature.inputs, signature.outputs, key
        self.inputs_private = any(field.privacy is not Privacy.KEEP for field in self._inputs)
        self.outputs_private = any(field.privacy is not Privacy.KEEP for field in self._outputs)

    def inputs(self, body: bytes, input_format: str, json_bytes: int) -> bytes | None:
        """The request body with hashed fields and without dropped ones; None when it must not be kept."""
        if not self.inputs_private or not body:
            return body
        names = _INPUT_NAMES.get(input_format)
        return None if names is None else self._clear(body, self._inputs, names, json_bytes)

    def outputs(self, body: bytes, output_format: str, json_bytes: int) -> bytes | None:
        """The response body, treated as `inputs` treats requests; an error body is kept, since errors never repeat input
        values."""
        if not self.outputs_private or not body:
            return body
        names = _OUTPUT_NAMES.get(output_format)
        return None if names is None else self._clear(body, self._outputs, names, json_bytes)

    def _clear(self, body: bytes, fields: tuple[Field, ...], names: tuple[str, str], json_bytes: int) -> bytes | None:
        rows_name, tensors_name = names
        if json_bytes >= 0:
            return None  # binary tensors follow the JSON head
        try:
            document = json.loads(body)
            if not isinstance(document, dict):
                return None
            if rows_name in ("predictions", "outputs") and isinstance(document.get("error"), str):
                return body
            items = document[rows_name]
            if not isinstance(items, list):
                return None
            if tensors_name:
                cleared = self._tensors(items, {field.name: field for field in fields})
            else:
                cleared = [self._row(item, fields) for item in items]
            return json.dumps({rows_name: cleared}, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        except (_Unreadable, KeyError, ValueError, TypeError, RecursionError):
            return None

    def _row(self, row: Any, fields: tuple[Field, ...]) -> Any:
        if isinstance(row, dict) and (len(fields) > 1 or fields[0].name in row):
            kept = ((field, row[field.name]) for field in fields if field.name in row)
            return {field.name: self._value(field, value) for field, value in kept if field.privacy is not Privacy.DROP}
        if len(fields) == 1:
            return self._value(fields[0], row)
        if isinstance(row, list) and len(row) == len(fields):
            return [self._value(field, value) for field, value in zip(fields, row, strict=True)]
        raise _Unreadable

    def _tensors(self, tensors: Sequence[Any], fields: dict[str, Field]) -> list[dict[str, Any]]:
        cleared = []
        for tensor in tensors:
            field = fields[tensor["name"]]
            if field.privacy is Privacy.DROP:
                continue
            data = tensor["data"]
            if field.privacy is Privacy.HASH:
                data = [self._value(field, value) for value in _flat(data)]
            cleared.append({**{name: tensor[name] for name in ("name", "shape", "datatype")}, "data": data})
        return cleared

    def _value(self, field: Field, value: Any) -> Any:
        if field.privacy is Privacy.KEEP or value is None:
            return value
        if field.privacy is Privacy.DROP:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1 and 1.0 are the same value of a float column
        text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode("utf-8")
        return f"hmac-sha256:{hmac.new(self._key, text, hashlib.sha256).hexdigest()}"


def clear_records(payload: bytes, scrubbers: Mapping[str, Scrubber]) -> bytes | bytearray:
    """A payload of records without private values; the payload itself where it has none.

    Args:
        payload: bytes from `encode_records`.
        scrubbers: by endpoint; bodies of an endpoint without a scrubber are not kept.

    Raises:
        ValueError: the bytes are not records.
    """
    groups = decode_records(payload)
    known = [scrubbers.get(group.kind.endpoint) for group in groups]
    if all(map(_keeps_all, known)):
        return payload
    cleared: list[RecordColumns] = []
    for group, scrubber in zip(groups, known, strict=True):
        cleared += [group] if _keeps_all(scrubber) else _cleared(group, scrubber)
    return encode_columns(cleared)


def _keeps_all(scrubber: Scrubber | None) -> bool:
    return scrubber is not None and not (scrubber.inputs_private or scrubber.outputs_private)


def _cleared(group: RecordColumns, scrubber: Scrubber | None) -> list[RecordColumns]:
    """The group's records without private values. A body that cannot be cleared is empty, and its record is marked WITHHELD."""
    kind = group.kind
    withheld = msgspec.structs.replace(kind, input_format=WITHHELD)
    found: dict[RecordKind, list[RecordRow]] = {}
    for row in _rows(group):
        inputs = None if scrubber is None else scrubber.inputs(row[7], kind.input_format, row[5])
        outputs = None if scrubber is None else scrubber.outputs(row[8], kind.output_format, row[6])
        lengths = (-1 if inputs is None else row[5], -1 if outputs is None else row[6])
        cleared = (*row[:5], *lengths, inputs or b"", outputs or b"", row[9])
        found.setdefault(withheld if None in (inputs, outputs) else kind, []).append(cleared)
    return [to_columns(*each) for each in found.items()]


def _rows(group: RecordColumns) -> Iterator[RecordRow]:
    ids = [str(each, "utf-8") for each in _cut(group.ids)]
    request_ids = ids if group.request_ids is None else [str(each, "utf-8") for each in _cut(group.request_ids)]
    numbers = (group.at_us, group.latency_us, group.rows, group.json_bytes, group.output_json_bytes, group.unit)
    at_us, *others, units = (column.cast("q").tolist() for column in numbers)
    return zip(
        ids, at_us, request_ids, *others, map(bytes, _cut(group.inputs)), map(bytes, _cut(group.outputs)), units, strict=True
    )


def _cut(pieces: Pieces) -> Iterator[memoryview]:
    start = 0
    for length in pieces.lengths.cast("I"):
        yield pieces.data[start : start + length]
        start += length


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise _Unreadable
    flat: list[Any] = []
    for value in data:
        flat.extend(_flat(value) if isinstance(value, list) else [value])
    return flat
