"""Heads of predictions that were read before: who keeps a connection open sends the same bytes again and again.

Reading a head means the same whenever its bytes are the same, so that is done once: `connection.py` looks a head up here first,
and the parser never sees a request that is found. Nothing is kept of what may change: keys, limits, and whether anybody is let in
are judged anew for each request, and `routes.py` has everything forgotten when its table changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from roadworthy.codecs.codec import BoundProtocol
    from roadworthy.gateway.http.predict import Predict

MOST_HEADS = 1_024
"""Each length of a body makes a head of its own, so that one client may need hundreds."""
MOST_HEAD_BYTES = 4 << 10
_MOST_MISSES = 32
_LOOK_AGAIN = 64
_END = b"\r\n\r\n"
_POST = b"POST /"
_LARGE_BYTES = 32 << 10


class CachedHead:
    """One head of a request for a prediction, with a body of a fixed length.

    Attributes:
        predict: what its path leads to. protocol: what reads the body.
        headers: by name in lower case; not to be changed.
        request_id: as the caller gave it, or None. length: of the body, bytes.
    """

    __slots__ = ("headers", "length", "predict", "protocol", "request_id")

    def __init__(
        self,
        predict: Predict,
        protocol: BoundProtocol,
        headers: dict[bytes, bytes],
        request_id: str | None,
        length: int,
    ) -> None:
        self.predict = predict
        self.protocol = protocol
        self.headers = headers
        self.request_id = request_id
        self.length = length


class HeadCache:
    """All that a worker keeps. Event loop only."""

    def __init__(self) -> None:
        self._heads: dict[bytes, CachedHead] = {}
        self.get = self._heads.get

    def __len__(self) -> int:
        return len(self._heads)

    def put(self, head: bytes, known: CachedHead) -> None:
        """Keep one more; when there are too many, begin again."""
        if len(head) <= MOST_HEAD_BYTES:
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[head] = known

    def clear(self) -> None:
        """Forget all: paths lead elsewhere now."""
        self._heads.clear()


class Familiar:
    """One connection's way to the heads that are known; it gives up where no head comes twice."""

    __slots__ = ("_heads", "_misses")

    def __init__(self, heads: HeadCache) -> None:
        self._heads = heads
        self._misses = 0

    def look_up(self, data: bytes) -> tuple[CachedHead, bytes] | None:
        """The head that `data` begins with, and the body, when they are one whole request. A large body is a view that looks like
        bytes to whoever says that views are enough."""
        misses = self._misses
        if misses > _MOST_MISSES and misses % _LOOK_AGAIN:
            self._misses = misses + 1
            return None
        end = data.find(_END) + 4
        known = self._heads.get(data[:end])
        if known is None:
            self._misses = misses + 1
            return None
        if len(data) - end != known.length:
            return None
        self._misses = 0
        if known.length >= _LARGE_BYTES and known.protocol.takes_views and b"content-encoding" not in known.headers:
            return known, cast(bytes, memoryview(data)[end:])
        return known, data[end:]

    def learn(self, data: bytes, known: CachedHead) -> None:
        """Keep the head that `data`, one request that was read whole, begins with."""
        misses = self._misses
        if data.startswith(_POST) and (misses <= _MOST_MISSES or misses % _LOOK_AGAIN == 1):
            end = data.find(_END) + 4
            if len(data) - end == known.length:
                self._heads.put(data[:end], known)
