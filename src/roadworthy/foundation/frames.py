"""Frames on a stream between workers and their agent: 4 bytes little-endian length, 1 byte kind, then the payload.

Frames over MAX_FRAME_BYTES are refused before they are read.
"""

from __future__ import annotations

import asyncio
import struct

MAX_FRAME_BYTES = 256 << 20
_HEAD = struct.Struct("<IB")


def frame_head(kind: int, length: int) -> bytes:
    """The head of a frame with a payload of `length` bytes. `kind` is 0 to 255; its meaning is up to the two ends.

    Raises:
        ValueError: the payload is longer than MAX_FRAME_BYTES.
    """
    if length > MAX_FRAME_BYTES:
        raise ValueError("frame too long")
    return _HEAD.pack(length, kind)


def encode_frame(kind: int, payload: bytes) -> bytes:
    """One frame as bytes.

    Raises:
        ValueError: as `frame_head`.
    """
    return frame_head(kind, len(payload)) + payload


async def read_frame(reader: asyncio.StreamReader, most_bytes: int = MAX_FRAME_BYTES) -> tuple[int, bytes]:
    """The next frame's kind and payload. `most_bytes`: the longest payload that is read.

    Raises:
        asyncio.IncompleteReadError: the other end closed.
        ValueError: a length over `most_bytes`; the rest of the stream is unreadable.
    """
    length, kind = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if length > most_bytes:
        raise ValueError("frame too long")
    return kind, await reader.readexactly(length)
