"""MLflow's scoring protocol: `POST /endpoints/{endpoint}/invocations`, and `POST /invocations` for the default or only endpoint.

A JSON body has exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`; other bodies are read by the
codecs of `:predict`. MLflow's client writes a missing value of a DataFrame as NaN or "NaT", so both mean null here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from roadworthy.codecs.codec import BoundProtocol, Headers, is_json, too_many_rows, write_spec
from roadworthy.codecs.discovery import codecs
from roadworthy.codecs.formats import Formats, answers, described_bodies
from roadworthy.codecs.json_bodies import JsonBodies
from roadworthy.codecs.openapi import ROWS, Described, Fragment, json_object, operation, with_example
from roadworthy.codecs.protocol import GatewayState, Page
from roadworthy.codecs.reading.strict_json import read_document
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidInput, InvalidRequest, MalformedBody
from roadworthy.schema.batch import Batch
from roadworthy.schema.columns import Plans
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_columns, decode_rows, no_rows
from roadworthy.schema.signature import Field, Signature

_ROWS, _RECORDS, _SPLIT, _INPUTS = "instances", "dataframe_records", "dataframe_split", "inputs"
_KEYS = (_SPLIT, _RECORDS, _ROWS, _INPUTS)
_HINT = f"send a JSON object with one of the keys {', '.join(_KEYS)}"
_NO_TIME = "NaT"
_MOST_NAMES, _MOST_CHARACTERS = 5, 200
_INSTANCES = b'{"instances":'
_LISTED = re.compile(rb'\{\s*"(?:dataframe_records|instances|inputs)"\s*:\s*(?=\[)')
# One class of characters for all numbers of the index: a group repeated for each keeps a state for each, and takes the loop.
_INDEX = rb'(?:"index"\s*:\s*(\[[0-9,\s]*+\])\s*,\s*)?'
_SPLIT_BY_ROW = re.compile(
    rb'\{\s*"dataframe_split"\s*:\s*\{\s*' + _INDEX + rb'"columns"\s*:\s*(\[[^\[\]{}]*+\])\s*,\s*"data"\s*:\s*(?=\[\s*\[)'
)
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
"""Raises ValueError for what is not JSON, and builds nothing."""
_LENGTHS = 8
"""Names of columns as JSON are at most so many times as long as in the shortest JSON: all escaped, and some blanks."""
_JSON, _TEXT = b"application/json", b"text/plain; charset=utf-8"


class MlflowJson(JsonBodies):
    """MLflow's JSON bodies, bound to one endpoint. `on_loop`: bodies are read on the event loop."""

    name = "mlflow"
    takes_views = False

    def __init__(self, signature: Signature, policy: Policy, *, on_loop: bool = False) -> None:
        super().__init__(signature, policy, on_loop=on_loop, by_column=True)
        self._plans = Plans(self.layout, policy.extra)
        self._times = {place: field.name for place, field in enumerate(signature.inputs) if _is_time(field)}
        self._names = [field.name for field in signature.inputs]
        self._most_names_bytes = _LENGTHS * len(msgspec.json.encode(self._names))
        self._read_instances, self._read_fast = self._read_fast, self._read_listed
        self._read: dict[str, Callable[[Any], tuple[Batch, int]]] = {
            _SPLIT: self._read_split,
            _RECORDS: self._read_rows,
            _ROWS: self._read_rows,
            _INPUTS: self._read_inputs,
        }

    def check_headers(self, headers: Headers) -> None:
        """Nothing: `Invocations.choose` has found that the content type is JSON."""

    def _read_listed(self, body: bytes) -> Batch | None:
        listed = self._as_instances(body)
        return None if listed is None else self._read_instances(listed)

    def _as_instances(self, body: bytes) -> bytes | None:
        """The body as one of `:predict`, for the fast reader of that; None unless it clearly has the rows in field order."""
        found = _LISTED.match(body)
        if found is not None:
            return _INSTANCES + body[found.end() :]
        found = _SPLIT_BY_ROW.match(body)
        end = body.rstrip()
        if found is None or len(self._names) == 1 or not end.endswith(b"}"):  # the row of a single field may be its bare value
            return None
        if len(found[2]) > self._most_names_bytes:
            return None
        try:
            _check_json(found[1] or b"[]")
            names = msgspec.json.decode(found[2])
        except ValueError:
            return None
        return _INSTANCES + end[found.end() : -1] if names == self._names else None

    def _read_exactly(self, body: bytes) -> tuple[Batch, int]:
        self._bounds.check_json(body)
        document, not_finite = read_document(body)
        key = _key_of(document, self._names)
        data = document[key]
        if not_finite:
            missing = [0]
            data = _with_nulls(data, missing)
            if missing[0] < not_finite:
                raise MalformedBody(
                    "the body holds a number that is infinite", code="malformed-json", hint="send finite numbers, or null"
                )
        return self._read[key](data)

    def _read_rows(self, rows: Any) -> tuple[Batch, int]:
        if not isinstance(rows, list):
            raise _malformed(f"{_ROWS} and {_RECORDS} must be lists of rows, {_SPLIT} must have such a list as data")
        if len(rows) > self._max_rows:
            raise too_many_rows(self._max_rows)
        if self._times:
            rows = [self._times_or_nulls(row) for row in rows]
        return decode_rows(self.layout, rows, extra=self._extra)

    def _times_or_nulls(self, row: Any) -> Any:
        """The row with null for each time that is not one."""
        if isinstance(row, dict):
            return {**row, **{name: None for name in self._times.values() if row.get(name) == _NO_TIME}}
        if isinstance(row, list):
            return [None if value == _NO_TIME and place in self._times else value for place, value in enumerate(row)]
        return None if row == _NO_TIME else row

    def _read_inputs(self, inputs: Any) -> tuple[Batch, int]:
        """Rows, or an object with one list of values for each column."""
        if not isinstance(inputs, dict):
            return self._read_rows(inputs)
        if not all(isinstance(values, list) for values in inputs.values()):
            raise _malformed(f"each column of {_INPUTS} must be a list with one value per row")
        return self._read_columns(inputs)

    def _read_split(self, split: Any) -> tuple[Batch, int]:
        if not isinstance(split, dict) or not {"data"} <= split.keys() <= {"columns", "index", "data"}:
            raise _malformed(f'{_SPLIT} must be an object with "data" and, if wanted, "columns" and "index"')
        names, rows = split.get("columns"), split["data"]
        if names is None or names == list(range(len(self.layout.fields))):
            return self._read_rows(rows)
        if not isinstance(names, list) or len({str(name) for name in names}) != len(names):
            raise _malformed("columns must be a list of different names")
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(names) for row in rows):
            raise _malformed(f"data must be a list of rows with {len(names)} values each, one per column")
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        return self._read_columns({str(name): list(values) for name, values in zip(names, columns, strict=True)})

    def _read_columns(self, columns: Mapping[str, list[Any]]) -> tuple[Batch, int]:
        lengths = set(map(len, columns.values()))
        if len(lengths) > 1:
            raise InvalidInput("the columns have different numbers of values", code="wrong-shape", hint="send one value per row")
        plan = self._plans.plan(list(columns))
        rows = lengths.pop()
        if not rows:
            raise no_rows()
        if rows > self._max_rows:
            raise too_many_rows(self._max_rows)
        values = [_times_or_nulls(field, columns[field.name]) for field in plan.fields]
        return plan.assemble(decode_columns(plan.fields, values, self.layout.integers), rows), plan.ignored


class Invocations:
    """The protocol bound to one endpoint: MLflow's JSON, and the other codecs of `:predict` by content type."""

    def __init__(self, signature: Signature, policy: Policy, *, on_loop: bool = False) -> None:
        self._made_of = (signature, policy)
        self._on_loop = on_loop

    @cached_property
    def unchosen(self) -> MlflowJson:
        """MLflow's JSON, made with the first request: the tables of 1,000 columns take 15 ms, and few endpoints get one here."""
        return MlflowJson(*self._made_of, on_loop=self._on_loop)

    @cached_property
    def _formats(self) -> Formats:
        """Made with the first body that is not JSON: few endpoints ever get one here."""
        return Formats(*self._made_of, on_loop=self._on_loop)

    @cached_property
    def spec(self) -> bytes:
        """See `Chooser`."""
        return write_spec(PROTOCOL.name, *self._made_of)

    def choose(self, headers: Headers) -> BoundProtocol:
        """The protocol that reads a body with these headers.

        Raises:
            UnsupportedMediaType: there is no content type, or no codec reads it.
        """
        return self.unchosen if is_json(headers.get(b"content-type")) else self._formats.choose(headers)


class MlflowProtocol:
    """MLflow's scoring server, as its clients see it."""

    name = "mlflow"
    interface = 1
    streams = True

    def __init__(self) -> None:
        self.pages = (
            Page("/ping", open=True, answer=_ping),
            Page("/health", open=True, answer=_ping),
            Page("/version", open=False, answer=_version),
        )

    def paths(self, endpoint: str, version: int | None, *, only: bool) -> Sequence[str]:
        """See `WireProtocol`. MLflow's paths name no version."""
        if version is not None:
            return ()
        return (f"/endpoints/{endpoint}/invocations", *(("/invocations",) if only else ()))

    def bind(self, endpoint: str, signature: Signature, policy: Policy, *, on_loop: bool = False) -> Invocations:  # noqa: ARG002 - the interface
        """See `WireProtocol`."""
        return Invocations(signature, policy, on_loop=on_loop)

    def error_keys(self, status: int, message: str) -> Mapping[str, Any]:
        """MLflow's error code and message."""
        return {"error_code": _ERROR_CODES.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"), "message": message}

    def openapi(self, about: Described) -> Mapping[str, Fragment]:
        """See `WireProtocol`."""
        split = {"columns": {"type": "array", "items": {"type": "string"}}, "data": ROWS}
        properties = {_SPLIT: json_object({**split, "index": {"type": "array"}}, ["data"]), _RECORDS: ROWS, _ROWS: ROWS}
        forms = [json_object({key: schema}, [key]) for key, schema in {**properties, _INPUTS: {}}.items()]
        json = with_example({"anyOf": forms}, {_RECORDS: about.rows}, there=about.rows)
        others = (each for codec in codecs() if _JSON not in codec.media_types for each in described_bodies(codec, about).items())
        request = {_JSON.decode(): json, **dict(others)}
        return {self.paths(about.name, None, only=False)[0]: operation("invoke", "Predict as MLflow", request, answers(about))}


_ERROR_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _ping(state: GatewayState) -> tuple[int, bytes, bytes]:
    return 200 if state.ready else 503, _JSON, b"\n"


def _version(state: GatewayState) -> tuple[int, bytes, bytes]:
    return 200, _TEXT, state.version.encode()


def _key_of(document: Any, columns: Sequence[str]) -> str:
    """The key under which a body has its rows."""
    if not isinstance(document, dict):
        raise _malformed("the body must be a JSON object")
    keys = [key for key in document if key != "params"]
    if len(keys) != 1 or keys[0] not in _KEYS:
        raise _malformed(f"the body must have exactly one of the keys {', '.join(_KEYS)}")
    if params := document.get("params"):
        raise _no_params(list(params) if isinstance(params, dict) else [], columns)
    key: str = keys[0]
    return key


def _no_params(names: Sequence[Any], columns: Sequence[str]) -> InvalidRequest:
    """The error for params, with what the model takes instead."""
    shown = ", ".join(map(repr, names[:_MOST_NAMES]))[:_MOST_CHARACTERS]
    known = set(columns)
    as_column = next((name for name in names if name in known), None)
    where = "" if as_column is None else f"send {as_column!r} as a column of each row; "
    return InvalidRequest(
        f"this model takes no params, got {shown or 'a value that is no object'}",
        code="params-not-supported",
        hint=f"{where}leave params out: the model takes the columns that GET /v1/models/{{endpoint}} lists",
    )


def _malformed(words: str) -> MalformedBody:
    return MalformedBody(words, code="malformed-request", hint=_HINT)


def _with_nulls(value: Any, missing: list[int]) -> Any:
    """The value with None for each NaN, which are counted in `missing`."""
    if isinstance(value, list):
        return [_with_nulls(each, missing) for each in value]
    if isinstance(value, dict):
        return {key: _with_nulls(each, missing) for key, each in value.items()}
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN is the only float that differs from itself
        missing[0] += 1
        return None
    return value


def _times_or_nulls(field: Field, values: list[Any]) -> list[Any]:
    return [None if value == _NO_TIME else value for value in values] if _is_time(field) else values


def _is_time(field: Field) -> bool:
    return field.dtype is DType.TIMESTAMP and not field.shape


PROTOCOL = MlflowProtocol()
