"""Routes of packages, models and versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from roadworthy.access.principal import Principal
from roadworthy.contract.api import registry as api
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Cursor, Digest, File, Grants, Name, Version
from roadworthy.control.http.routing import Replied, Routes, reply_of
from roadworthy.control.http.uploads import received
from roadworthy.control.resources import packages
from roadworthy.foundation.canonical import digest_file
from roadworthy.foundation.confine.grants import parse_grants
from roadworthy.foundation.references import VersionReference

_PIECE_BYTES = 1 << 18


def routes(root: ControlContext) -> Routes:
    """The routes."""
    found = Routes("packages", root)

    @found.add(api.PUSH)
    async def push(
        context: ControlContext, request: Request, principal: Principal, allow_code: Digest | None = None, grant: Grants = ()
    ) -> Response:
        """The body is the .rw file. 200 if the package already is a version of its model. `grant` lists what its code may access
        in addition to its own files."""
        allowed = packages.Allowed(allow_code, parse_grants(grant))
        async with received(request, context.blobs, context.settings.max_package_bytes) as file:

            async def act() -> Response:
                version, new = await run_in_threadpool(packages.push, context, file, principal, allowed)
                return reply_of(api.PUSH, Replied(version, 201 if new else 200))

            return await found.once(api.PUSH, request, await run_in_threadpool(digest_file, file), act)

    @found.add(api.LIST_MODELS)
    def models(context: ControlContext, cursor: str = "") -> Page[api.Model]:
        """Models sorted by name; `next` is the cursor of the next page."""
        return packages.list_models(context, cursor)

    @found.add(api.LIST_VERSIONS)
    def versions(context: ControlContext, name: Name, cursor: Cursor = 0) -> Page[api.Version]:
        """Versions sorted by number; `next` is the cursor of the next page."""
        return packages.list_versions(context, name, cursor)

    @found.add(api.GET_VERSION)
    def version(context: ControlContext, name: Name, version: Version) -> api.Version:
        """Digest, size, runtimes, signature, who pushed it and when, its grants, and the endpoints that hold it."""
        return packages.get_version(context, _reference(name, version))

    @found.add(api.DOWNLOAD)
    def package(context: ControlContext, name: Name, version: Version) -> File:
        """The .rw file."""
        return stream(packages.open_version(context, _reference(name, version)))

    @found.add(api.DELETE_VERSION)
    def delete(context: ControlContext, principal: Principal, name: Name, version: Version) -> None:
        """Delete the version; 409 while an endpoint holds it."""
        packages.delete_version(context, _reference(name, version), principal)

    return found


def _reference(name: str, version: int) -> VersionReference:
    return VersionReference.parse(f"{name}:{version}")


def stream(handle: Any) -> File:
    """A file as a reply, in pieces."""

    def pieces() -> Iterator[bytes]:
        with handle:
            while block := handle.read(_PIECE_BYTES):
                yield block

    return File(pieces())
