"""Routes of packages, models and versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Cursor, Digest, File, Grants, Name, Version, body
from roadworthy.control.http.uploads import received
from roadworthy.control.resources import packages
from roadworthy.foundation.confine.grants import parse_grants
from roadworthy.foundation.references import VersionReference

_PIECE_BYTES = 1 << 18
_KNOWN: dict[int | str, dict[str, Any]] = {200: {"description": "The package already is a version"}}


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["packages"])

    @router.post("/api/v1/packages", status_code=201, responses=_KNOWN, openapi_extra=body(), summary="Push a package")
    async def push(request: Request, response: Response, allow_code: Digest | None = None, grant: Grants = ()) -> dict[str, Any]:
        """The body is the .rw file. 200 if the package already is a version of its model. `grant` lists what its code may access
        in addition to its own files."""
        allowed = packages.Allowed(allow_code, parse_grants(grant))
        async with received(request, context.blobs, context.settings.max_package_bytes) as file:
            document, new = await run_in_threadpool(packages.push, context, file, request.state.actor, allowed)
        response.status_code = 201 if new else 200
        return document

    @router.get("/api/v1/models", summary="List models")
    def models(cursor: str = "") -> dict[str, Any]:
        """Models sorted by name; `next` is the cursor of the next page."""
        return packages.list_models(context, cursor)

    @router.get("/api/v1/models/{name}/versions", summary="List versions of a model")
    def versions(name: Name, cursor: Cursor = 0) -> dict[str, Any]:
        """Versions sorted by number; `next` is the cursor of the next page."""
        return packages.list_versions(context, name, cursor)

    @router.get("/api/v1/models/{name}/versions/{version}", summary="Get a version")
    def version(name: Name, version: Version) -> dict[str, Any]:
        """Digest, size, runtimes, signature, who pushed it and when, its grants, and the endpoints that hold it."""
        return packages.get_version(context, _reference(name, version))

    @router.get("/api/v1/models/{name}/versions/{version}/package", response_class=File, summary="Download a version's package")
    def package(name: Name, version: Version) -> File:
        """The .rw file."""
        return stream(packages.open_version(context, _reference(name, version)))

    @router.delete("/api/v1/models/{name}/versions/{version}", status_code=204, summary="Delete a version")
    def delete(request: Request, name: Name, version: Version) -> None:
        """Delete the version; 409 while an endpoint holds it."""
        packages.delete_version(context, _reference(name, version), request.state.actor)

    return router


def _reference(name: str, version: int) -> VersionReference:
    return VersionReference.parse(f"{name}:{version}")


def stream(handle: Any) -> File:
    """A file as a reply, in pieces."""

    def pieces() -> Iterator[bytes]:
        with handle:
            while block := handle.read(_PIECE_BYTES):
                yield block

    return File(pieces())
