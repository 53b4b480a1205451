"""Receives a request's body into a file, within a limit, and deletes it afterwards. For the routes of packages and records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Request

from roadworthy.foundation.errors import BodyTooLarge, MalformedBody
from roadworthy.foundation.files import create_private
from roadworthy.store.blobs import BlobStore


@asynccontextmanager
async def received(request: Request, blobs: BlobStore, max_bytes: int) -> AsyncIterator[Path]:
    """The body as a temporary file.

    Raises:
        BodyTooLarge: by Content-Length before reading, or while reading.
        MalformedBody: "empty-body".
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    path = blobs.incoming()
    size = 0
    try:
        with create_private(path) as handle:
            async for block in request.stream():
                size += len(block)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                handle.write(block)
        if size == 0:
            raise MalformedBody("the body is empty", code="empty-body", hint="send the file's bytes as the body")
        yield path
    finally:
        path.unlink(missing_ok=True)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is over {max_bytes} bytes", facts={"limit_bytes": max_bytes})
