"""Decompresses requests by their Content-Encoding, and compresses answers by the caller's Accept-Encoding.

The decompressed size is bounded while it grows, by the endpoint's limit and by the compressed length: a few kilobytes that would
become a gigabyte are refused after some megabytes.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import Any

from roadworthy.codecs.codec import HeaderList, too_large
from roadworthy.codecs.reading.bodies import BodyBuffer
from roadworthy.foundation.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

INLINE_BYTES = 8 << 10
"""Up to this many compressed bytes take a few milliseconds at most; more must not be decompressed on the event loop."""
LEAST_ANSWER_BYTES = 1 << 10
"""Shorter answers are not compressed."""
MAX_RATIO = 200
_FREE_BYTES = 1 << 20
"""Up to this many bytes any ratio is allowed, since equal rows compress very well."""
_CHUNK_BYTES = 64 << 10
_PIECE_BYTES = 1 << 20
STEP_BYTES = 128 << 10
"""Compressing this much takes one to two milliseconds."""
_WINDOW_LOG = 23
"""A zstd frame may require 8 MiB of memory, the limit of RFC 9659 for HTTP."""
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
_MOST_ACCEPT_BYTES = 256
_QUALITY = re.compile(rb"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")
_VARY = (b"vary", b"accept-encoding")


def is_compressed(encodings: bytes) -> bool:
    """Whether a Content-Encoding names anything but identity.

    Raises:
        UnsupportedMediaType: "unsupported-content-encoding": an unknown coding, or several.
    """
    codings = _codings(encodings)
    if not codings:
        return False
    if len(codings) > 1 or codings[0] not in _PIECES:
        raise UnsupportedMediaType(
            "the body's content encoding is not supported",
            code="unsupported-content-encoding",
            hint=f"send it with one of {', '.join(name.decode() for name in _PIECES)}, or uncompressed",
        )
    return True


def decompress(body: bytes, encodings: bytes, limit: int) -> bytes:
    """The decompressed body. Pure, and fit for another thread: zlib and zstd release the interpreter's lock.

    Args:
        body: as it was sent.
        encodings: the Content-Encoding header.
        limit: bytes that the result may have.

    Raises:
        UnsupportedMediaType: "unsupported-content-encoding": an unknown coding, or several.
        BodyTooLarge: "body-too-large", or "compression-ratio" when it grows more than MAX_RATIO times.
        MalformedBody: "malformed-encoding": it has another coding, is cut short, or has bytes after its end.
    """
    if not is_compressed(encodings):
        return body
    allowed = max(_FREE_BYTES, MAX_RATIO * len(body))
    whole = BodyBuffer(limit)
    try:
        for piece in _PIECES[_codings(encodings)[0]](body):
            if whole.size + len(piece) > limit:
                raise too_large(limit)
            if whole.size + len(piece) > allowed:
                raise BodyTooLarge(
                    f"the body decompresses to more than {MAX_RATIO} times its length",
                    code="compression-ratio",
                    hint="send it uncompressed, or fewer rows at a time",
                    facts={"max_ratio": MAX_RATIO},
                )
            whole.add(piece)
    except (zlib.error, zstd.ZstdError):
        raise _malformed("does not have the coding that Content-Encoding names") from None
    return whole.take()


def compress(body: bytes, accept_encoding: bytes | None) -> Generator[None, None, tuple[bytes, HeaderList]]:
    """An answer's body in the coding that the caller prefers, and the headers for it; a small body stays as it is. A long body
    takes several steps, of about a millisecond each."""
    if len(body) < LEAST_ANSWER_BYTES:
        return body, []
    coding = None
    if accept_encoding is not None and len(accept_encoding) <= _MOST_ACCEPT_BYTES:
        coding = _best(accept_encoding)
    if coding is None:
        return body, [_VARY]
    engine: Any
    if coding == b"zstd":
        engine = zstd.ZstdCompressor(1)
        engine.set_pledged_input_size(len(body))
    else:  # gzip.compress writes the time into the header, but equal answers must be equal bytes
        engine = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    parts: list[bytes] = []
    for start in range(0, len(body), STEP_BYTES):
        if start:
            yield
        parts.append(engine.compress(body[start : start + STEP_BYTES]))
    return b"".join((*parts, engine.flush())), [(b"content-encoding", coding), _VARY]


def _codings(encodings: bytes) -> list[bytes]:
    names = [name.strip().lower() for name in encodings.split(b",")]
    return [name for name in names if name not in (b"", b"identity")]


def _zlib_pieces(window: int, body: bytes) -> Iterator[bytes]:
    engine = zlib.decompressobj(window)
    for start in range(0, len(body), _CHUNK_BYTES):
        chunk = body[start : start + _CHUNK_BYTES]
        while True:
            piece = engine.decompress(chunk, _PIECE_BYTES)
            yield piece
            chunk = engine.unconsumed_tail
            if not chunk and len(piece) < _PIECE_BYTES:
                break
        if engine.eof:
            _check_end(engine.unused_data, start, body)
            return
    raise _malformed("is cut short")


def _zstd_pieces(body: bytes) -> Iterator[bytes]:
    engine = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    for start in range(0, len(body), _CHUNK_BYTES):
        yield engine.decompress(body[start : start + _CHUNK_BYTES], _PIECE_BYTES)
        while not engine.needs_input and not engine.eof:
            yield engine.decompress(b"", _PIECE_BYTES)
        if engine.eof:
            _check_end(engine.unused_data, start, body)
            return
    raise _malformed("is cut short")


_PIECES: dict[bytes, Callable[[bytes], Iterator[bytes]]] = {
    b"gzip": lambda body: _zlib_pieces(_GZIP, body),
    b"x-gzip": lambda body: _zlib_pieces(_GZIP, body),
    b"deflate": lambda body: _zlib_pieces(_ZLIB, body),
    b"zstd": _zstd_pieces,
}


def _check_end(unused: bytes, start: int, body: bytes) -> None:
    """Refuse bytes after the end of the stream: some readers would read them and others not."""
    if unused or start + _CHUNK_BYTES < len(body):
        raise _malformed("has bytes after its end")


def _malformed(words: str) -> MalformedBody:
    return MalformedBody(
        f"the compressed body {words}",
        code="malformed-encoding",
        hint="send one complete stream of the coding that Content-Encoding names",
    )


@lru_cache(256)
def _best(accept_encoding: bytes) -> bytes | None:
    """The supported coding of the highest quality, zstd before gzip; None when the caller prefers an uncompressed body."""
    qualities: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b","):
        name, _, parameter = (part.strip() for part in item.partition(b";"))
        quality = _QUALITY.fullmatch(parameter) if parameter else None
        if name and (quality is not None or not parameter):
            qualities.setdefault(name, 1.0 if quality is None else float(quality[1]))
    anything = qualities.get(b"*", 0.0)
    offers = {
        b"zstd": qualities.get(b"zstd", anything),
        b"gzip": qualities.get(b"gzip", qualities.get(b"x-gzip", anything)),
    }
    best = max(offers, key=lambda name: offers[name])
    return best if offers[best] > 0 and offers[best] >= qualities.get(b"identity", 0.0) else None
