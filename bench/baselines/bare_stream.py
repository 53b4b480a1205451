"""A baseline for streams: a raw ASGI function that sends each part of a generator as a server-sent event.

Run as `python -m bench.baselines.bare_stream MODEL PORT`; MODEL is not read. It gives each part to the socket before it asks for
the next one, without keys, checks, records, back-pressure or deadlines.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from bench.baselines.bare_asgi import encode, listen, read
from bench.models import count_up


async def serve(_scope: Any, receive: Any, send: Any) -> None:
    """Answer one request with its parts."""
    rows = await read(receive)
    headers = [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    parts = 0
    for part in count_up(rows):
        parts += 1
        body = b"data: %b\n\n" % encode({"predictions": [part]})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b'event: end\ndata: {"parts":%d}\n\n' % parts})


if __name__ == "__main__":
    listen(serve, int(sys.argv[2]))
