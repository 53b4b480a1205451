"""The agent's calls to the control plane; the only file here that knows its addresses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

_BLOCK_BYTES = 1 << 20
_CALL_S = 20.0
"""How long a call may take, not counting a requested wait and the transfer of its bytes."""
_SLOWEST_BYTES_S = 64 << 10
"""Bytes a second; a slower transfer is given up."""


class ControlLink:
    """A keep-alive client with the gateway's key. Every method raises httpx.HTTPError when the call fails, in bounded time: even
    when the other side takes bytes and never answers, or answers a byte now and then.

    Args:
        url: the control plane's address, http(s)://host:port.
        key: an API key of the role gateway.
        gateway: this gateway's id.
    """

    def __init__(self, url: str, key: str, gateway: str) -> None:
        self._gateway = gateway
        # Ignore proxies and netrc of the environment: this connection stays between the two planes.
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(10.0, connect=5.0),
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=4),
            # loading the machine's certificates takes a while at every start; without TLS an empty context is enough
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if url.startswith("http://") else True,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def snapshot(self, etag: str | None, wait_s: int) -> bytes | None:
        """The snapshot's JSON once it differs from `etag`; None when it does not differ within `wait_s` seconds."""
        headers = {} if etag is None else {"If-None-Match": etag}
        timeout = httpx.Timeout(wait_s + 10.0, connect=5.0)
        async with _within(wait_s + _CALL_S):
            reply = await self._http.get("/internal/v1/snapshot", params={"wait_s": wait_s}, headers=headers, timeout=timeout)
        if reply.status_code == httpx.codes.NOT_MODIFIED:
            return None
        return reply.raise_for_status().content

    async def download_package(self, digest: str, path: Path, max_bytes: int) -> None:
        """Write the packed package to the new file `path`, at most `max_bytes`.

        Raises:
            httpx.HTTPError: the call failed, or the package is larger.
            OSError: the disk refused.
        """
        address = f"/internal/v1/packages/{digest}"
        in_time = _within(_CALL_S + max_bytes / _SLOWEST_BYTES_S)
        async with in_time, self._http.stream("GET", address, timeout=60.0) as reply:
            reply.raise_for_status()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            received = 0
            with os.fdopen(descriptor, "wb") as file:
                async for block in reply.aiter_bytes(_BLOCK_BYTES):
                    received += len(block)
                    if received > max_bytes:
                        raise httpx.DecodingError("the package is larger than the snapshot says")
                    file.write(block)

    async def put_records(self, file: str, data: bytes) -> None:
        """Upload one finished record file; repeating it does no harm."""
        url = f"/internal/v1/records/{self._gateway}/{file}"
        async with _within(_CALL_S + len(data) / _SLOWEST_BYTES_S):
            reply = await self._http.put(url, content=data, timeout=60.0)
        reply.raise_for_status()

    async def post_telemetry(self, frame: bytes) -> None:
        """Send one telemetry frame."""
        async with _within(_CALL_S):
            reply = await self._http.post("/internal/v1/telemetry", content=frame, headers={"Content-Type": "application/json"})
        reply.raise_for_status()


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """Give a call up after this time, however busy the connection looks."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"the call took more than {seconds:.0f} s") from error
