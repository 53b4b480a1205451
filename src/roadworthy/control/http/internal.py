"""Routes for gateways, with a key of the role gateway: snapshots, packages, telemetry, records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from roadworthy.access.principal import Principal
from roadworthy.contract.api import gateways as api
from roadworthy.contract.telemetry import decode_telemetry
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Digest, File, Instance, Seconds
from roadworthy.control.http.packages import stream
from roadworthy.control.http.routing import Routes
from roadworthy.control.http.uploads import received
from roadworthy.control.resources import packages, telemetry
from roadworthy.foundation.errors import MalformedBody

_MAX_FRAME_BYTES = 16 << 20
_MAX_RECORD_FILE_BYTES = 256 << 20
RecordFile = Annotated[str, Path(json_schema_extra={"pattern": f"^{telemetry.FILE.pattern}$"})]


def routes(root: ControlContext, stopping: Callable[[], bool]) -> Routes:
    """The routes. `stopping` ends long polls early."""
    found = Routes("gateways", root)

    @found.add(api.SNAPSHOT)
    async def snapshot(context: ControlContext, request: Request, wait_s: Seconds = 0.0) -> Response:
        """The newest snapshot; 304 if no snapshot newer than If-None-Match appears within `wait_s` seconds."""
        known = request.headers.get("if-none-match")
        if context.publisher.is_behind(known):  # the gateway has read from another control plane
            await run_in_threadpool(context.publisher.catch_up)
        edition = await context.publisher.wait(known, wait_s, stopping)
        if edition is None:
            return Response(status_code=304, headers={"ETag": known or ""})
        return Response(edition.encoded, media_type="application/json", headers={"ETag": edition.etag})

    @found.add(api.PACKAGE)
    def package(context: ControlContext, digest: Digest) -> File:
        """A package's .rw file."""
        return stream(packages.open_digest(context, digest))

    @found.add(api.REPORT)
    async def frame(context: ControlContext, request: Request, principal: Principal) -> api.Accepted:
        """Accept one frame; a repeated frame gets the same reply."""
        async with received(request, context.blobs, _MAX_FRAME_BYTES) as file:
            data = file.read_bytes()
        try:
            decoded = decode_telemetry(data)
        except ValueError as error:
            raise MalformedBody("the body is not a telemetry frame", code="malformed-telemetry") from error
        return api.Accepted(accepted=await run_in_threadpool(telemetry.receive, context, principal, decoded))

    @found.add(api.KEEP_RECORDS)
    async def records(
        context: ControlContext, request: Request, principal: Principal, gateway: Instance, file: RecordFile
    ) -> None:
        """Store a finished file of prediction records. `gateway` is named as in a frame, with or without the key."""
        blob = await run_in_threadpool(telemetry.record_blob, context, principal, gateway, file)
        async with received(request, context.blobs, _MAX_RECORD_FILE_BYTES) as source:
            await run_in_threadpool(telemetry.keep_records, context, blob, source)

    return found
