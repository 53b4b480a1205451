"""A16: compressed bodies that lie, never end, or expand to a gigabyte."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.codecs.compression import MAX_RATIO, compress, decompress, is_compressed
from roadworthy.codecs.steps import at_once
from roadworthy.foundation.errors import BodyTooLarge, MalformedBody, RoadworthyError, UnsupportedMediaType

LIMIT = 16 << 20
WRITERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"zstd": zstd.compress,
}
BODY = b'{"instances": [[1,2,3]]}'


def deflate_bomb(window: int) -> bytes:
    """About 1 MiB that expands to 1 GiB."""
    engine = zlib.compressobj(9, zlib.DEFLATED, window)
    block = bytes(1 << 20)
    # After a full flush nothing refers to earlier bytes, so all further blocks are compressed alike.
    first, other = (engine.compress(block) + engine.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + other * 1_023


def zstd_bomb() -> bytes:
    """Far less than 1 MiB that expands to 1 GiB."""
    engine = zstd.ZstdCompressor(level=1)
    block = bytes(1 << 20)
    return b"".join([engine.compress(block) for _ in range(1 << 10)]) + engine.flush()


BOMBS = {b"gzip": lambda: deflate_bomb(31), b"deflate": lambda: deflate_bomb(15), b"zstd": zstd_bomb}


@pytest.mark.parametrize("coding", BOMBS)
def test_a16_a_bomb_is_given_up_on(coding: bytes) -> None:
    """1 GiB from 1 MiB or less is refused within the limit's memory."""
    bomb = BOMBS[coding]()
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decompress(bomb, coding, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < LIMIT + (4 << 20)


@pytest.mark.parametrize("coding", WRITERS)
def test_a16_the_limit_is_on_what_comes_out(coding: bytes) -> None:
    """One byte below the limit and exactly the limit are read, one byte more is not."""
    for size in (999, 1_000):
        assert decompress(WRITERS[coding](b"x" * size), coding, 1_000) == b"x" * size
    with pytest.raises(BodyTooLarge) as caught:
        decompress(WRITERS[coding](b"x" * 1_001), coding, 1_000)
    assert caught.value.code == "body-too-large"


@pytest.mark.parametrize("coding", WRITERS)
def test_a16_the_ratio_counts_from_a_megabyte_on(coding: bytes) -> None:
    """One megabyte of zeros is accepted; five are not."""
    assert len(decompress(WRITERS[coding](bytes(1 << 20)), coding, LIMIT)) == 1 << 20
    large = WRITERS[coding](bytes(5 << 20))
    assert len(large) * MAX_RATIO < 5 << 20
    with pytest.raises(BodyTooLarge) as caught:
        decompress(large, coding, LIMIT)
    assert caught.value.code == "compression-ratio"


@pytest.mark.parametrize("coding", WRITERS)
def test_a16_cut_short_or_going_on(coding: bytes) -> None:
    """A stream that ends early, has trailing bytes, or has another coding is refused."""
    whole = WRITERS[coding](BODY)
    others = [WRITERS[name](BODY) for name in WRITERS if WRITERS[name] is not WRITERS[coding]]
    for body in (b"", whole[:-1], whole[:3], whole + b"\0", whole + whole, BODY, b"\0" * 50, *others):
        with pytest.raises(MalformedBody) as caught:
            decompress(body, coding, LIMIT)
        assert caught.value.code == "malformed-encoding"


def test_a16_long_streams_with_something_after_them() -> None:
    """Also if the end is not in the last piece."""
    noise = bytes(n * n % 251 for n in range(1 << 20))
    for coding, write in WRITERS.items():
        whole = write(noise)
        assert decompress(whole, coding, LIMIT) == noise
        with pytest.raises(MalformedBody):
            decompress(whole + bytes(200_000), coding, LIMIT)


@pytest.mark.parametrize(
    "encodings",
    [b"br", b"compress", b"gzip, gzip", b"gzip,zstd", b"identity, gzip, deflate", b"nonsense", b"gzip;q=1", b"*"],
)
def test_a16_unknown_and_nested_codings(encodings: bytes) -> None:
    """Only one known coding, or none, is accepted."""
    for judge in (is_compressed, lambda coding: decompress(gzip.compress(gzip.compress(BODY)), coding, LIMIT)):
        with pytest.raises(UnsupportedMediaType) as caught:
            judge(encodings)
        assert caught.value.code == "unsupported-content-encoding"


@pytest.mark.parametrize("encodings", [b"", b"identity", b"Identity , identity", b" , "])
def test_a16_identity_is_no_coding(encodings: bytes) -> None:
    """The body is taken as it is."""
    assert not is_compressed(encodings)
    assert decompress(BODY, encodings, LIMIT) is BODY


def test_a16_zstd_frames_that_ask_for_much_memory() -> None:
    """A window of more than 8 MiB is not granted."""
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}
    engine = zstd.ZstdCompressor(options=options)
    with pytest.raises(MalformedBody):
        decompress(engine.compress(BODY) + engine.flush(), b"zstd", LIMIT)


@given(st.sampled_from(sorted(WRITERS)), st.binary(max_size=3_000), st.integers(0, 5_000), st.binary(max_size=3))
@settings(deadline=None)
def test_a16_any_damage(coding: bytes, content: bytes, place: int, damage: bytes) -> None:
    """Any bytes give the content or one of the project's errors, never more than the limit."""
    whole = WRITERS[coding](content)
    assert decompress(whole, coding, LIMIT) == content
    place %= len(whole)
    with contextlib.suppress(RoadworthyError):
        assert len(decompress(whole[:place] + damage + whole[place + len(damage) :], coding, 3_000)) <= 3_000


LARGE = b'{"predictions":[' + b",".join(b"0.%d" % number for number in range(1_000)) + b"]}"


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None), (b"", None), (b"gzip", b"gzip"), (b"zstd", b"zstd"), (b"gzip, deflate, br, zstd", b"zstd"),
        (b"deflate, br", None), (b"gzip;q=0", None), (b"GZIP ; Q=0.5, zstd;q=0.4", b"gzip"), (b"*", b"zstd"), (b"*;q=0", None),
        (b"zstd;q=0, *", b"gzip"), (b"identity", None), (b"identity;q=0.5, gzip;q=0.4", None),
        (b"identity;q=0.5, gzip;q=0.5", b"gzip"), (b"x-gzip", b"gzip"), (b"gzip;q=2", None), (b"gzip;q=nan", None),
        (b"gzip;level=9", None), (b"gzip;q=0.0001", None), (b";;,,q=1", None), (b"gzip," * 99, None),
    ],
)  # fmt: skip
def test_answers_are_compressed_as_the_caller_likes(accept: bytes | None, coding: bytes | None) -> None:
    """By quality, zstd before gzip if equal; only codings that the caller accepts; `Vary` on every answer of that length."""
    body, headers = at_once(compress(LARGE, accept))
    assert dict(headers) == ({} if coding is None else {b"content-encoding": coding}) | {b"vary": b"accept-encoding"}
    assert body is LARGE if coding is None else (len(body) < len(LARGE) and decompress(body, coding, LIMIT) == LARGE)


def test_small_answers_are_left_alone() -> None:
    """Compression gains nothing below a packet's length."""
    assert at_once(compress(BODY, b"gzip")) == (BODY, [])
