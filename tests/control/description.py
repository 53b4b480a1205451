"""The description of the whole management API, including internal routes and pages, for tests that call every route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from fastapi.openapi.utils import get_openapi

from roadworthy.contract.telemetry import Telemetry
from roadworthy.control.context import ControlContext
from roadworthy.control.http import internal, page
from roadworthy.control.http.app import build_routes
from roadworthy.control.http.fields import REFUSALS


def describe(context: ControlContext) -> dict[str, Any]:
    """An OpenAPI document; its schema "Telemetry" is a gateway's frame."""
    app = build_routes(context, lambda: False)
    hidden = [internal.routes(context, lambda: False), page.routes(app.title, str(app.openapi_url))]
    described = app.openapi()
    for router in hidden:
        for route in router.routes:
            route.include_in_schema = True  # type: ignore[attr-defined]  # all of them are API routes
            route.responses = {**REFUSALS, **route.responses}  # type: ignore[attr-defined]  # as above
        paths = get_openapi(title="", version="", routes=router.routes)["paths"]
        described["paths"] |= paths
    for path, methods in described["paths"].items():
        if path.startswith("/internal/"):
            for operation in methods.values():
                operation["security"] = [{"HTTPBearer": []}]
    (_,), models = msgspec.json.schema_components([Telemetry], ref_template="#/components/schemas/{name}")
    described["components"]["schemas"] |= models
    return described


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
