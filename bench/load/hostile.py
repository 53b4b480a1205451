"""Hostile requests as bytes: tests/faults/test_a21_smuggling.py checks them one by one, bench/hostile.py sends thousands.

Most are request smuggling: bytes that a proxy and the server could read differently, with a whole `GET /livez` hidden where one
sees a body and the other a second request. However the server reads the first request, it must not answer the hidden one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HIDDEN = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED = frozenset({400})
JSON = b'{"instances": [[1,2,3]]}'
CHUNKS = b"18\r\n" + JSON + b"\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 24"
OR_NOT_IMPLEMENTED = REFUSED | {501}
OR_VERSION = REFUSED | {505}
OR_TOO_LARGE = REFUSED | {413}
OR_HEAD_TOO_LARGE = REFUSED | {413, 431}


@dataclass(frozen=True, slots=True)
class Shape:
    """A hostile request with a hidden one after it. `statuses` are the right answers; the connection is closed after one."""

    name: str
    data: bytes
    statuses: frozenset[int] = REFUSED


@dataclass(frozen=True, slots=True)
class Route:
    """The target of the shapes: the raw path of a prediction route, and the headers with its key."""

    path: bytes = b"/v1/models/sum:predict"
    headers: tuple[bytes, ...] = ()

    def head(self, *lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
        """The head of a POST with these additional lines."""
        first = b"POST %b %b" % (self.path, version)
        return b"\r\n".join([first, b"Host: localhost", b"Content-Type: application/json", *self.headers, *lines, b"", b""])


def shapes(route: Route | None = None) -> list[Shape]:
    """Every shape, for `route`."""
    route = route or Route()
    return [
        *_two_framings(route),
        *_encodings(route),
        *_lengths(route),
        *_names(route),
        *_line_ends(route),
        *_chunks(route),
        *_trailers(route),
        *_first_lines(route),
    ]


def _two_framings(route: Route) -> Iterator[Shape]:
    """A body whose end is given twice."""
    length = b"Content-Length: %d" % len(CHUNKS + HIDDEN)
    short = b"Content-Length: 4"
    for name, lines in {
        "length then chunked": (length, CHUNKED),
        "chunked then length": (CHUNKED, short),
        "chunked and length 0": (CHUNKED, b"Content-Length: 0"),
        "chunked and an invalid length": (CHUNKED, b"Content-Length: x"),
        "chunked twice": (CHUNKED, CHUNKED),
        "chunked, then identity in a second header": (CHUNKED, b"Transfer-Encoding: identity"),
        "identity, then chunked in a second header": (b"Transfer-Encoding: identity", CHUNKED),
        "connection names transfer-encoding": (CHUNKED, b"Connection: Transfer-Encoding"),
        "connection names a length": (CHUNKED, b"Connection: keep-alive, content-length"),
    }.items():
        yield Shape(name, route.head(*lines) + CHUNKS + HIDDEN)
    for name, lines in {
        "two lengths, the same": (LENGTH, LENGTH),
        "two lengths, different": (LENGTH, b"Content-Length: 65"),
        "connection names content-length": (LENGTH, b"Connection: Content-Length"),
    }.items():
        yield Shape(name, route.head(*lines) + JSON + HIDDEN)
    yield Shape("chunked in HTTP/1.0", route.head(CHUNKED, version=b"HTTP/1.0") + CHUNKS + HIDDEN)
    kept = route.head(CHUNKED, b"Connection: keep-alive", version=b"HTTP/1.0")
    yield Shape("chunked in HTTP/1.0, kept alive", kept + CHUNKS + HIDDEN)


def _encodings(route: Route) -> Iterator[Shape]:
    """Transfer codings that are not exactly `chunked`."""
    for text in (
        b"identity", b"gzip, chunked", b"chunked, gzip", b"chunked, identity", b"identity, chunked", b"chunked, chunked",
        b"xchunked", b"chunkedx", b"chunked;q=1", b'"chunked"', b"chun ked", b"\x0bchunked", b"chunked\x0c", b"chunked,",
        b", chunked", b"", b"\xa0chunked", b"deflate",
    ):  # fmt: skip
        line = b"Transfer-Encoding: " + text
        yield Shape(f"transfer-encoding {text!r}", route.head(line) + CHUNKS + HIDDEN, OR_NOT_IMPLEMENTED)


def _lengths(route: Route) -> Iterator[Shape]:
    """Lengths that are not exactly digits."""
    for text in (
        b"+24", b"-24", b"0x18", b"24, 24", b"24,24", b"24, 65", b"24,", b",24", b"2 4", b"24 24", b"24a", b"a24", b"2_4",
        b"24.0", b"2.4e1", b"", b"24;", b'"24"', b"\x0b24", b"24\x0c", b"\xa024", b"\xd9\xa2\xd9\xa4",
    ):  # fmt: skip
        yield Shape(f"content-length {text!r}", route.head(b"Content-Length: " + text) + JSON + HIDDEN)
    for text in (b"18446744073709551640", b"9" * 30, b"9" * 4_400):  # 2^64 + 24; more digits than int() takes
        statuses = OR_TOO_LARGE
        yield Shape(f"content-length of {len(text)} digits", route.head(b"Content-Length: " + text) + JSON + HIDDEN, statuses)


def _names(route: Route) -> Iterator[Shape]:
    """Header names that one reader takes for the framing and another does not."""
    for name, line in {
        "underscore": b"Transfer_Encoding: chunked",
        "space before the colon": b"Transfer-Encoding : chunked",
        "tab before the colon": b"Transfer-Encoding\t: chunked",
        "NUL in the name": b"Transfer-Encoding\x00: chunked",
        "leading space": b" Transfer-Encoding: chunked",
        "leading tab": b"\tTransfer-Encoding: chunked",
        "vertical tab before the colon": b"Transfer-Encoding\x0b: chunked",
        "no colon": b"Transfer-Encoding chunked",
        "no name": b": chunked",
        "space in the name": b"Transfer Encoding: chunked",
        "brackets in the name": b"[Transfer-Encoding]: chunked",
        "a byte above 127 in the name": b"Transfer-Encoding\xff: chunked",
        "folded value": b"Transfer-Encoding:\r\n chunked",
        "value folded with a tab": b"Transfer-Encoding:\r\n\tchunked",
        "folded into another header": b"X-A: b\r\n Transfer-Encoding: chunked",
        "NUL in a value": b"X-A: b\x00Transfer-Encoding: chunked",
        "control byte in a value": b"X-A: b\x01",
        "delete in a value": b"X-A: b\x7f",
    }.items():
        yield Shape(f"header: {name}", route.head(line) + CHUNKS + HIDDEN)
    for name, line in {
        "underscore": b"Content_Length: 24",
        "space before the colon": b"Content-Length : 24",
        "NUL in the value": b"Content-Length: 24\x00",
        "folded": b"Content-Length:\r\n 24",
    }.items():
        yield Shape(f"length: {name}", route.head(line) + JSON + HIDDEN)


def _line_ends(route: Route) -> Iterator[Shape]:
    """Lines that do not end with CR LF."""
    whole = route.head(CHUNKED)
    first, _, others = whole.partition(b"\r\n")
    for name, head in {
        "LF everywhere": whole.replace(b"\r\n", b"\n"),
        "CR everywhere": whole.replace(b"\r\n", b"\r"),
        "LF after the first line": first + b"\n" + others,
        "CR after the first line": first + b"\r" + others,
        "CR CR LF after the first line": first + b"\r\r\n" + others,
        "LF before a header": route.head(b"X-A: b\n" + CHUNKED),
        "CR before a header": route.head(b"X-A: b\r" + CHUNKED),
        "LF CR before a header": route.head(b"X-A: b\n\r" + CHUNKED),
        "LF at the end of the head": whole[:-2] + b"\n",
        "CR at the end of the head": whole[:-2] + b"\r",
        "two LF at the end of the head": whole[:-4] + b"\n\n",
        "CR in a value": route.head(b"X-A: b\rc", CHUNKED),
    }.items():
        yield Shape(f"line end: {name}", head + CHUNKS + HIDDEN)


def _chunks(route: Route) -> Iterator[Shape]:
    """Chunked bodies that violate the grammar."""
    head = route.head(CHUNKED)
    for size in (
        b"1_8", b"6_0", b"+18", b"-18", b"0x18", b" 18", b"18 ", b"\t18", b"1 8", b"", b"g", b"18h", b"18,", b"18.", b"\x0018",
        b"\xb218",
    ):  # fmt: skip
        yield Shape(f"chunk size {size!r}", head + size + CHUNKS[2:] + HIDDEN)
    for size in (b"10000000000000018", b"f" * 400):
        yield Shape(f"chunk size of {len(size)} digits", head + size + CHUNKS[2:] + HIDDEN, OR_TOO_LARGE)
    for name, line in {
        "LF in it": b"18;a=b\nc\r\n",
        "ended by LF": b"18;a=b\n",
        "CR in it": b"18;a=b\rc\r\n",
        "NUL in it": b"18;a=\x00\r\n",
        "open quote": b'18;a="b\r\n',
        "no semicolon": b"18 a=b\r\n",
        "hidden request in it": b"18;a=b\n" + HIDDEN + b"\r\n",
    }.items():
        yield Shape(f"chunk extension: {name}", head + line + JSON + b"\r\n0\r\n\r\n" + HIDDEN)
    yield Shape("chunk extension of 1 MiB", head + b"18;a=" + b"b" * 1_048_576 + CHUNKS[2:] + HIDDEN, OR_TOO_LARGE)
    for name, body in {
        "LF after the size": b"18\n" + JSON + b"\r\n0\r\n\r\n",
        "CR after the size": b"18\r" + JSON + b"\r\n0\r\n\r\n",
        "nothing after the data": b"18\r\n" + JSON + b"0\r\n\r\n",
        "LF after the data": b"18\r\n" + JSON + b"\n0\r\n\r\n",
        "CR after the data": b"18\r\n" + JSON + b"\r0\r\n\r\n",
        "more data than the size": b"18\r\n" + JSON + b"xx\r\n0\r\n\r\n",
        "LF after the last": b"18\r\n" + JSON + b"\r\n0\n\r\n",
        "LF at the end": b"18\r\n" + JSON + b"\r\n0\r\n\n",
        "sign before the last": b"18\r\n" + JSON + b"\r\n-0\r\n\r\n",
    }.items():
        yield Shape(f"chunks: {name}", head + body + HIDDEN)


def _trailers(route: Route) -> Iterator[Shape]:
    """Headers after the body that would change the framing, the caller or the route."""
    begun = route.head(CHUNKED) + CHUNKS[:-2]
    for line in (
        b"Content-Length: 65", b"Transfer-Encoding: chunked", b"Host: evil.example", b"Authorization: Bearer x",
        b"Content-Type: text/plain", b"Transfer-Encoding : x", b"X-A: b\nX-C: d", b"X-A: b\r\n folded", b"no colon", b"X-\x00: b",
    ):  # fmt: skip
        yield Shape(f"trailer {line!r}", begun + line + b"\r\n\r\n" + HIDDEN)
    yield Shape("trailers without end", begun + b"X-A: b\r\n" * 5_000 + b"\r\n" + HIDDEN, OR_HEAD_TOO_LARGE)


def _first_lines(route: Route) -> Iterator[Shape]:
    """Malformed request lines."""
    path = route.path
    rest = b"\r\n" + route.head(LENGTH).partition(b"\r\n")[2] + JSON + HIDDEN
    for name, line in {
        "NUL in the method": b"PO\x00ST " + path + b" HTTP/1.1",
        "NUL before the method": b"\x00POST " + path + b" HTTP/1.1",
        "small letters": b"post " + path + b" HTTP/1.1",
        "space before the method": b" POST " + path + b" HTTP/1.1",
        "two spaces": b"POST  " + path + b" HTTP/1.1",
        "tabs": b"POST\t" + path + b"\tHTTP/1.1",
        "space in the path": b"POST " + path + b" x HTTP/1.1",
        "NUL in the path": b"POST " + path + b"\x00 HTTP/1.1",
        "control byte in the path": b"POST " + path + b"\x01 HTTP/1.1",
        "CR in the path": b"POST " + path + b"\r HTTP/1.1",
        "no path": b"POST HTTP/1.1",
        "no slash": b"POST v1 HTTP/1.1",
        "no version": b"POST " + path,
        "version in small letters": b"POST " + path + b" http/1.1",
        "version with a space": b"POST " + path + b" HTTP /1.1",
        "version without a minor number": b"POST " + path + b" HTTP/1",
        "version with three numbers": b"POST " + path + b" HTTP/1.1.1",
        "something after the version": b"POST " + path + b" HTTP/1.1 x",
        "space after the version": b"POST " + path + b" HTTP/1.1 ",
        "another protocol": b"POST " + path + b" RTSP/1.0",
    }.items():
        yield Shape(f"first line: {name}", line + rest)
    for version in (b"0.9", b"1.2", b"2.0", b"3.0", b"9.9", b"11.1", b"1.10"):
        yield Shape(f"version {version.decode()}", b"POST " + path + b" HTTP/" + version + rest, OR_VERSION)
    yield Shape("unknown method", b"SMUGGLE " + path + b" HTTP/1.1" + rest, OR_NOT_IMPLEMENTED | {405})
    yield Shape("tunnel", b"CONNECT localhost:80 HTTP/1.1" + rest, OR_NOT_IMPLEMENTED | {405})
    yield Shape("HTTP/2 by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN, OR_VERSION)
    yield Shape("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + HIDDEN)
    yield Shape("zeros", bytes(512) + HIDDEN)
