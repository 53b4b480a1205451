"""Answers as bytes, for a store that other processes and machines also write to.

48 bytes of head, then the batch in the form that runner processes use (`isolated/frames.py`): arrays, texts as MessagePack,
nested values as JSON; nothing is pickled. The checksum covers the entry's key, so that an entry under a wrong key, a truncated or
a damaged one is refused. It is not a signature: a process that may write to the store can write entries that pass.

Format version = 1. When this form or that of the arrays changes, the version is raised, and the prefix of the keys with it
(`KEY_PREFIX`). Releases next to each other then do not see each other's entries, and no release reads old ones, which expire.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple

from roadworthy.runtime.runners.isolated.frames import decode_batch, encode_batch
from roadworthy.schema.batch import Batch, Layout

FORMAT = 1
KEY_PREFIX = b"roadworthy:%d:" % FORMAT
MAX_ENTRY_BYTES = 256 << 10
"""A larger answer is not shared, because others wait behind it during its transfer."""

_MAGIC = b"RWA%d" % FORMAT
_SUM_BYTES = 16
_BODY = struct.Struct("<16sQI")  # layout, time to live in milliseconds, rows
_HEAD_BYTES = len(_MAGIC) + _SUM_BYTES + _BODY.size


class Unfit(ValueError):
    """The bytes are not an answer to this request, or the answer cannot be written."""


class Decoded(NamedTuple):
    """An answer, and its time to live when it was new."""

    batch: Batch
    ttl_ms: int


class AnswerBytes:
    """Writes and reads the answers of one version.

    Args:
        layout: of its outputs.
    """

    __slots__ = ("_layout", "_print")

    def __init__(self, layout: Layout) -> None:
        fields = repr([(field.name, field.dtype.value, field.shape) for field in layout.fields])
        self._layout = layout
        self._print = blake2b(fields.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def encode(self, key: bytes, batch: Batch, ttl_ms: int) -> bytes:
        """The bytes to keep under `key`.

        Raises:
            Unfit: the values do not have the layout's types or cannot be written, or the answer is too large.
        """
        try:
            for form, block in zip(self._layout.blocks, batch.blocks, strict=True):
                if block.values.dtype != form.dtype.numpy:
                    raise TypeError("values of another type")
            body = _BODY.pack(self._print, ttl_ms, batch.rows) + encode_batch(batch)
        except (struct.error, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise Unfit("values that cannot be written") from error
        entry = _MAGIC + _sum(key, body) + body
        if len(entry) > MAX_ENTRY_BYTES:
            raise Unfit("too large")
        return entry

    def decode(self, key: bytes, entry: bytes, rows: int) -> Decoded:
        """Read the answer of `rows` rows that was kept under `key`.

        Raises:
            Unfit: the entry is not such an answer.
        """
        if not _HEAD_BYTES <= len(entry) <= MAX_ENTRY_BYTES or not entry.startswith(_MAGIC):
            raise Unfit("not an entry of this format")
        start = len(_MAGIC) + _SUM_BYTES
        body = memoryview(entry)[start:]
        if entry[len(_MAGIC) : start] != _sum(key, body):
            raise Unfit("a damaged entry, or the entry of another request")
        form, ttl_ms, answered = _BODY.unpack_from(body)
        if form != self._print or answered != rows:
            raise Unfit("an answer of another form")
        try:
            return Decoded(decode_batch(body[_BODY.size :], self._layout, rows), ttl_ms)
        except (ValueError, OverflowError) as error:
            raise Unfit("an answer that cannot be read") from error


def _sum(key: bytes, body: bytes | memoryview) -> bytes:
    total = blake2b(key, digest_size=_SUM_BYTES)  # keys are all of one length
    total.update(body)
    return total.digest()
