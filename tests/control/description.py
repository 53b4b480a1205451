"""The description of the whole management API, including internal routes and pages, for tests that call every route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from roadworthy.control.context import ControlContext
from roadworthy.control.http.app import build_routes


def describe(context: ControlContext) -> dict[str, Any]:
    """An OpenAPI document; its schema "Telemetry" is a gateway's frame."""
    app, _ = build_routes(context, lambda: False, describe_all=True)
    return app.openapi()


def numbers(schema: Any) -> Iterator[dict[str, Any]]:
    """Every integer in a schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            yield schema
        for part in schema.values():
            yield from numbers(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from numbers(part)
