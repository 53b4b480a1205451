"""GET routes whose documents take files or the slab of counters: they are made on a thread, and OpenAPI is made once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from roadworthy.codecs.openapi import MOST_EXAMPLES, Fragment, described, document
from roadworthy.codecs.predict_json import JsonProbe
from roadworthy.codecs.protocol import guarded, protocols
from roadworthy.foundation.errors import MalformedBody, RoadworthyError
from roadworthy.foundation.slab import SlabReader
from roadworthy.gateway.http.messages import Receive, cut_short
from roadworthy.schema.batch import Batch
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.golden import read_examples
from roadworthy.serving.metrics import Totals, read_totals
from roadworthy.version import __version__

_MOST_BODY_BYTES = 4 << 10
_encode = msgspec.json.Encoder().encode


class Documents:
    """Makes documents about endpoints, one at a time. Event loop only.

    Args:
        folder: the gateway's; golden examples are read from the packages below it.
        slab: the counters of all workers of this machine.
    """

    def __init__(self, folder: Path, slab: Path) -> None:
        self._folder = folder
        self._slab = slab
        self._reader: SlabReader | None = None
        self._totals: tuple[tuple[int, ...], Totals] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._openapi: dict[str, tuple[Endpoint, bytes]] = {}

    def keep(self, served: Mapping[str, Endpoint]) -> None:
        """Forget the documents of endpoints that are no longer these."""
        self._openapi = {name: kept for name, kept in self._openapi.items() if served.get(name) is kept[0]}

    async def totals(self) -> Totals:
        """The counts of all workers; the same object until one changes."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._read_totals)

    async def openapi(self, endpoint: Endpoint) -> bytes:
        """The endpoint's OpenAPI document; the same bytes until the endpoint changes."""
        async with self._one_at_a_time:
            kept = self._openapi.get(endpoint.name)
            if kept is None or kept[0] is not endpoint:
                kept = self._openapi[endpoint.name] = (endpoint, await asyncio.to_thread(self._make_openapi, endpoint))
        return kept[1]

    def _read_totals(self) -> Totals:
        if self._reader is None:
            self._reader = SlabReader(self._slab)
        seen = self._reader.fingerprint()  # before reading, so that a change meanwhile is read the next time
        if self._totals is None or self._totals[0] != seen:
            self._totals = seen, read_totals(self._reader)
        return self._totals[1]

    def _make_openapi(self, endpoint: Endpoint) -> bytes:
        digest = endpoint.split.variants[0].version.digest
        about = described(
            endpoint.name, endpoint.signature, endpoint.entry.policy, self._golden(digest, parts=endpoint.signature.parts)
        )
        paths: dict[str, Fragment] = {}
        for protocol in protocols().values():
            paths |= {path: item for path, item in guarded(protocol, protocol.openapi, {})(about).items() if path not in paths}
        return _encode(document(about, paths, __version__))

    def _golden(self, digest: str, *, parts: bool) -> tuple[Batch, Batch] | None:
        """A few golden rows with their answers, or one row with all parts of its answer; None where the package has none that
        can be read."""
        try:
            examples = read_examples(self._folder, digest, JsonProbe)
        except (RoadworthyError, OSError, ValueError):
            return None
        found = [examples.next() for _ in range(1 if parts else MOST_EXAMPLES)]
        return Batch.concatenate([each.inputs for each in found]), Batch.concatenate([each.expected for each in found])


async def read_small(receive: Receive) -> Any:
    """The JSON value of a short body; None for an empty one.

    Raises:
        MalformedBody: the body is longer than 4 KiB, is not JSON, or ends early.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise cut_short()
        body += message.get("body", b"")
        if len(body) > _MOST_BODY_BYTES:
            raise MalformedBody(f"the body is longer than {_MOST_BODY_BYTES} bytes", code="malformed-request")
        if not message.get("more_body", False):
            break
    try:
        return msgspec.json.decode(body) if body.strip() else None
    except (ValueError, RecursionError):
        raise MalformedBody("the body is not JSON", code="malformed-request", hint="send a JSON object, or no body") from None
