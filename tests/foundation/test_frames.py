"""Frames read back as they were written, and false lengths end the stream."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.frames import MAX_FRAME_BYTES, encode_frame, read_frame


def read_all(data: bytes) -> list[tuple[int, bytes]]:
    """All frames of a closed stream that holds `data`."""

    async def read() -> list[tuple[int, bytes]]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        found = []
        while not reader.at_eof():
            found.append(await read_frame(reader))
        return found

    return asyncio.run(read())


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=64)), max_size=5))
def test_frames_read_back_as_written(frames: list[tuple[int, bytes]]) -> None:
    """Kind and payload survive, in order, also empty ones."""
    assert read_all(b"".join(encode_frame(kind, payload) for kind, payload in frames)) == frames


def test_a_cut_frame_is_an_incomplete_read() -> None:
    """The other end closed inside a frame."""
    with pytest.raises(asyncio.IncompleteReadError):
        read_all(encode_frame(1, b"payload")[:-1])


def test_a_length_over_the_bound_is_refused_before_reading() -> None:
    """A length that is not allowed raises at once, without waiting for the payload."""
    with pytest.raises(ValueError, match="too long"):
        read_all(struct.pack("<IB", MAX_FRAME_BYTES + 1, 1))
