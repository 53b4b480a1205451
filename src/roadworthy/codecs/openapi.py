"""The OpenAPI document of one endpoint, made from its signature, its policy and golden rows of its package.

Codecs and protocols add their fragments: a codec the body in its media types, a protocol its paths. Everything is bounded,
however wide the signature is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from roadworthy.contract.policy import Policy
from roadworthy.schema.batch import Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import encode_rows
from roadworthy.schema.signature import Field, Privacy, Signature
from roadworthy.schema.time_units import texts_of

Fragment = dict[str, Any]
"""A part of an OpenAPI 3.1 document: plain JSON values."""

MOST_COLUMNS = 500
"""Columns that a document describes one by one. It counts the others, which GET /v1/models/{endpoint} lists."""
_MOST_CATEGORIES_BYTES = 1 << 10
MOST_EXAMPLES, _MOST_EXAMPLE_BYTES = 3, 16 << 10
_MOST_TEXT = 200
_SERVERS = b'"servers":[{"url":"/"}]'
ROWS: Fragment = {"$ref": "#/components/schemas/Rows"}
ANSWERS: Fragment = {"$ref": "#/components/schemas/Answers"}
_SCALARS: dict[DType, Fragment] = {
    DType.BOOL: {"type": "boolean"},
    DType.STRING: {"type": "string"},
    DType.TIMESTAMP: {"type": "string", "format": "date-time"},
    DType.JSON: {},
    DType.FLOAT32: {"type": "number", "format": "float"},
    DType.FLOAT64: {"type": "number", "format": "double"},
}


@dataclass(frozen=True, slots=True)
class Described:
    """An endpoint to describe.

    Attributes:
        inputs, answers: golden rows and the answers to them; None without any that are short enough to show.
    """

    name: str
    signature: Signature
    policy: Policy
    inputs: Batch | None = None
    answers: Batch | None = None

    @property
    def rows(self) -> list[Any]:
        """The golden rows as JSON values; empty without any."""
        return [] if self.inputs is None else encode_rows(self.inputs)

    @property
    def predictions(self) -> list[Any]:
        """The answers to them as JSON values; empty without any."""
        return [] if self.answers is None else encode_rows(self.answers)


def described(name: str, signature: Signature, policy: Policy, golden: tuple[Batch, Batch] | None) -> Described:
    """The endpoint with as many of the golden rows as may be shown. Of a model that answers in parts, `golden` is one row and all
    parts of its answer."""
    for rows in range(0 if golden is None else min(MOST_EXAMPLES, golden[0].rows), 0, -1):
        shown = golden if signature.parts else (side.slice(0, rows) for side in golden or ())
        found = Described(name, signature, policy, *shown or ())
        try:
            if len(msgspec.json.encode([found.rows, found.predictions])) <= _MOST_EXAMPLE_BYTES:
                return found
        except (TypeError, ValueError):  # a nested value without a JSON form
            break
    return Described(name, signature, policy)


def below(encoded: bytes, root: str) -> bytes:
    """An encoded document for a server whose paths are all below the prefix `root`, such as "/models"."""
    return encoded.replace(_SERVERS, b'"servers":[{"url":%b}]' % msgspec.json.encode(root), 1) if root else encoded


def document(about: Described, paths: Mapping[str, Fragment], version: str) -> Fragment:
    """The whole document.

    Args:
        about: the endpoint.
        paths: of all protocols.
        version: of Roadworthy.
    """
    policy = about.policy
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Endpoint {about.name}",
            "version": version,
            "description": f"Predictions of the endpoint {about.name}, served by Roadworthy. A request has at most "
            f"{policy.max_rows} rows and {policy.max_body_bytes} bytes, and is answered within {policy.timeout_ms} ms.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": dict(paths),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key. A gateway without keys needs none."},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": {
                "Row": _object(about.signature.inputs),
                "Rows": _rows(about.signature.inputs, policy.max_rows),
                "Answer": _object(about.signature.outputs),
                "Answers": {
                    "type": "array",
                    "description": "One answer per row.",
                    "items": _bare(about.signature.outputs) or {"$ref": "#/components/schemas/Answer"},
                },
                "Problem": _PROBLEM,
            },
        },
    }


_PROBLEM: Fragment = {
    "type": "object",
    "required": ["error", "code", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong, in words."},
        "code": {"type": "string", "description": "A stable code."},
        "hint": {"type": ["string", "null"], "description": "What to do."},
        "request_id": {"type": "string"},
        "fields": {"type": "array", "items": {"type": "object"}, "description": "Columns and rows that do not fit."},
    },
}


def operation(name: str, summary: str, request: Mapping[str, Fragment], reply: Mapping[str, Fragment]) -> Fragment:
    """A path item with one POST.

    Args:
        name: the operation's id.
        summary: what it does.
        request, reply: the bodies by media type.
    """
    problem = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": dict(request)},
            "responses": {
                "200": {"description": "The predictions.", "content": dict(reply)},
                "4XX": {"description": "The request is refused.", **problem},
                "5XX": {"description": "The model failed, or cannot answer now.", **problem},
            },
        }
    }


def json_object(properties: Mapping[str, Fragment], required: Sequence[str]) -> Fragment:
    """The schema of an object with these keys and no others."""
    return {"type": "object", "required": list(required), "properties": dict(properties), "additionalProperties": False}


def with_example(schema: Fragment, example: Any, *, there: object) -> Fragment:
    """A media type object; the example is left out when `there` is empty."""
    return {"schema": schema, "example": example} if there else {"schema": schema}


def _rows(fields: Sequence[Field], most: int) -> Fragment:
    listed = {"type": "array", "minItems": len(fields), "maxItems": len(fields), "description": "The values in field order."}
    forms = [{"$ref": "#/components/schemas/Row"}, _bare(fields) or listed]
    return {"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": forms}}


def _bare(fields: Sequence[Field]) -> Fragment | None:
    """The schema of the plain value of a single field; None for several."""
    return _schema(fields[0]) if len(fields) == 1 else None


def _object(fields: Sequence[Field]) -> Fragment:
    shown = fields[:MOST_COLUMNS]
    found: Fragment = {
        "type": "object",
        "required": [field.name for field in shown],
        "properties": {field.name: _schema(field) for field in shown},
    }
    if len(fields) > len(shown):
        found["description"] = f"The first {len(shown)} of {len(fields)} columns; GET /v1/models/{{endpoint}} lists all of them."
    return found


def _schema(field: Field) -> Fragment:
    """The schema of one value. Only what the endpoint refuses is a constraint; the training data is in the description."""
    found = dict(_SCALARS.get(field.dtype) or _integer(field.dtype))
    if field.nullable and "type" in found:
        found["type"] = [found["type"], "null"]
    categories = list(field.categories or ())
    if len(msgspec.json.encode(categories)) > _MOST_CATEGORIES_BYTES:
        found["description"] = f"{len(categories)} categories; GET /v1/models/{{endpoint}} lists them."
    elif field.categorical and categories:
        found["enum"] = [*categories, None] if field.nullable else categories
    elif categories and field.privacy is Privacy.KEEP:
        found["examples"] = categories
    words = _training_range(field)
    if words:
        found["description"] = words
    for size in reversed(field.shape):
        bounds = {} if size < 0 else {"minItems": size, "maxItems": size}
        found = {"type": "array", "items": found, **bounds}
    return found


def _integer(dtype: DType) -> Fragment:
    if not dtype.is_integer:
        return {}
    info = np.iinfo(dtype.value)
    return {"type": "integer", "minimum": int(info.min), "maximum": int(info.max)}


def _training_range(field: Field) -> str:
    low, high = field.minimum, field.maximum
    if low is None or high is None or field.privacy is not Privacy.KEEP:
        return ""
    if field.dtype is DType.TIMESTAMP:
        low, high = texts_of(np.array([int(low), int(high)])).tolist()
    return f"In training: {low} to {high}."[:_MOST_TEXT]
