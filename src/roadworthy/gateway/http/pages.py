"""The gateway's static pages: `/` says what this is and where to go, `/docs` tries an endpoint.

They need no key, since they hold nothing about endpoints: `docs.html` fetches that with the key that its reader types. They load
nothing from elsewhere, and their Content-Security-Policy forbids it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files

import msgspec

from roadworthy.codecs.codec import HeaderList
from roadworthy.gateway.http import describe
from roadworthy.gateway.http.messages import Handler, Receive, Reply, Request

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)
_FRONT = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Roadworthy gateway</title>
<h1>Roadworthy gateway</h1>
<p>This server answers predictions of machine-learning models over HTTP.</p>
<ul>
<li><a href="docs">Try an endpoint</a>, with an example of its own rows</li>
<li><a href="v1/models">The endpoints</a> as JSON; /v1/models/NAME/openapi.json describes each one</li>
<li><a href="readyz">Whether this gateway can answer</a> for every endpoint</li>
</ul>
"""


def page_routes() -> dict[bytes, Mapping[str, Handler]]:
    """/ and /docs."""
    page = (files("roadworthy.gateway.http") / "docs.html").read_bytes()
    front = msgspec.json.encode(describe.front())

    async def docs(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        return Reply(200, page, _html_headers(page))

    async def root(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        if b"text/html" in request.headers.get(b"accept", b""):
            return Reply(200, _FRONT, [*_html_headers(_FRONT), (b"vary", b"accept")])
        reply = Reply(200, front)
        reply.headers.append((b"vary", b"accept"))
        return reply

    return {b"/": {"GET": root, "HEAD": root}, b"/docs": {"GET": docs, "HEAD": docs}}


def _html_headers(page: bytes) -> HeaderList:
    """The headers of a page: only its own inline script and style may run, and it may fetch from this gateway only."""
    hashes = {b"script": b"'none'", b"style": b"'none'"}
    for kind, text in _INLINE.findall(page):
        hashes[kind] = b"'sha256-%b'" % base64.b64encode(hashlib.sha256(text).digest())
    policy = (
        b"default-src 'none'; script-src %b; style-src %b; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'" % (hashes[b"script"], hashes[b"style"])
    )
    return [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
