"""A cache of parsed heads of predictions: a client that keeps its connection open sends the same bytes again and again.

Equal bytes have an equal meaning, so each head is parsed once. `connection.py` looks a head up here first, and a request that is
found skips the parser. Nothing that may change is cached: keys, limits and admission are checked for every request, and
`routes.py` clears the cache when its table changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from roadworthy.codecs.compression import INLINE_BYTES
from roadworthy.gateway.http.messages import TIMEOUT_HEADER

if TYPE_CHECKING:
    from roadworthy.codecs.codec import BoundProtocol
    from roadworthy.gateway.http.predict import Predict

MOST_HEADS = 1_024
"""Each Content-Length makes another head, so that one client may need hundreds."""
MOST_HEAD_BYTES = 4 << 10
_MOST_MISSES = 32
_LOOK_AGAIN = 64
_END = b"\r\n\r\n"
_POST = b"POST /"
_LARGE_BYTES = 32 << 10


class CachedHead:
    """The parsed head of a prediction with a body of a fixed length.

    Attributes:
        predict: the prediction that its path names. protocol: reads the body.
        headers: by name in lower case; must not be changed.
        request_id: as the caller gave it, or None. length: of the body, bytes.
        plain: whether the body is short and not encoded, and the caller sets no timeout.
    """

    __slots__ = ("headers", "length", "plain", "predict", "protocol", "request_id")

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
        self.plain = length <= INLINE_BYTES and b"content-encoding" not in headers and TIMEOUT_HEADER not in headers


class HeadCache:
    """The cached heads of a worker. Event loop only."""

    def __init__(self) -> None:
        self._heads: dict[bytes, CachedHead] = {}
        self.get = self._heads.get

    def __len__(self) -> int:
        return len(self._heads)

    def put(self, head: bytes, cached: CachedHead) -> None:
        """Add a head; a full cache is cleared first."""
        if len(head) <= MOST_HEAD_BYTES:
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[head] = cached

    def clear(self) -> None:
        """Remove all heads, because paths have another meaning now."""
        self._heads.clear()


class HeadLookup:
    """One connection's access to the cache. It backs off from a client that sends no head twice."""

    __slots__ = ("_heads", "_misses")

    def __init__(self, heads: HeadCache) -> None:
        self._heads = heads
        self._misses = 0

    def look_up(self, data: bytes) -> tuple[CachedHead, bytes] | None:
        """The cached head that `data` begins with, and the body, if they are one whole request. A large body is a memoryview,
        cast to bytes, where the protocol takes views."""
        misses = self._misses
        if misses > _MOST_MISSES and misses % _LOOK_AGAIN:
            self._misses = misses + 1
            return None
        end = data.find(_END) + 4
        cached = self._heads.get(data[:end])
        if cached is None:
            self._misses = misses + 1
            return None
        if len(data) - end != cached.length:
            return None
        self._misses = 0
        if cached.length >= _LARGE_BYTES and cached.protocol.takes_views and b"content-encoding" not in cached.headers:
            return cached, cast(bytes, memoryview(data)[end:])
        return cached, data[end:]

    def learn(self, data: bytes, cached: CachedHead) -> None:
        """Cache the head of `data`, which is one whole request."""
        misses = self._misses
        if data.startswith(_POST) and (misses <= _MOST_MISSES or misses % _LOOK_AGAIN == 1):
            end = data.find(_END) + 4
            if len(data) - end == cached.length:
                self._heads.put(data[:end], cached)
