"""Routes for gateways, with a key of the role gateway: snapshots, packages, telemetry, records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from roadworthy.contract.telemetry import decode_telemetry
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Digest, File, Instance, Seconds, body
from roadworthy.control.http.packages import stream
from roadworthy.control.http.uploads import received
from roadworthy.control.resources import telemetry
from roadworthy.foundation.errors import MalformedBody
from roadworthy.foundation.references import check_digest
from roadworthy.store.blobs import package_blob

_MAX_FRAME_BYTES = 16 << 20
_MAX_RECORD_FILE_BYTES = 256 << 20
_FRAME = {"$ref": "#/components/schemas/Telemetry"}
RecordFile = Annotated[str, Path(json_schema_extra={"pattern": f"^{telemetry.FILE.pattern}$"})]
_NOTHING_NEWER: dict[int | str, dict[str, Any]] = {304: {"description": "There is no newer snapshot"}}


def routes(context: ControlContext, stopping: Callable[[], bool]) -> APIRouter:
    """The router. `stopping` ends long polls early."""
    router = APIRouter(prefix="/internal/v1", tags=["gateways"], include_in_schema=False)

    @router.get("/snapshot", responses=_NOTHING_NEWER)
    async def snapshot(request: Request, wait_s: Seconds = 0.0) -> Response:
        """The newest snapshot; 304 if no snapshot newer than If-None-Match appears within `wait_s` seconds."""
        known = request.headers.get("if-none-match")
        if context.publisher.is_behind(known):  # the gateway has read from another control plane
            await run_in_threadpool(context.publisher.catch_up)
        edition = await context.publisher.wait(known, wait_s, stopping)
        if edition is None:
            return Response(status_code=304, headers={"ETag": known or ""})
        return Response(edition.encoded, media_type="application/json", headers={"ETag": edition.etag})

    @router.get("/packages/{digest}", response_class=File)
    def package(digest: Digest) -> File:
        """A package's .rw file."""
        return stream(context.blobs.open(package_blob(check_digest(digest))))

    @router.post("/telemetry", openapi_extra=body("application/json", _FRAME))
    async def frame(request: Request) -> dict[str, Any]:
        """Accept one frame; a repeated frame gets the same reply."""
        async with received(request, context.blobs, _MAX_FRAME_BYTES) as file:
            data = file.read_bytes()
        try:
            decoded = decode_telemetry(data)
        except ValueError as error:
            raise MalformedBody("the body is not a telemetry frame", code="malformed-telemetry") from error
        return {"accepted": await run_in_threadpool(telemetry.receive, context, request.state.key, decoded)}

    @router.put("/records/{gateway:path}/{file}", status_code=204, openapi_extra=body())
    async def records(request: Request, gateway: Instance, file: RecordFile) -> None:
        """Store a finished file of prediction records. `gateway` is named as in a frame, with or without the key."""
        blob = await run_in_threadpool(telemetry.record_blob, context, request.state.key, gateway, file)
        async with received(request, context.blobs, _MAX_RECORD_FILE_BYTES) as source:
            await run_in_threadpool(telemetry.keep_records, context, blob, source)

    return router
