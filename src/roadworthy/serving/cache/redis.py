"""The Redis client of `shared.py`, and the only file that uses the library, which is imported when a worker connects.

It has one connection and runs one round trip at a time: a single write of all commands, then their replies. RESP2 and plain
commands work with Redis since release 5 and with servers of the same protocol (Valkey, KeyDB).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from roadworthy.runtime.layers.answer_bytes import MAX_ENTRY_BYTES

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisServer:
    """The connection. `open` opens it.

    Args:
        url: redis://, rediss:// or unix://, with user and password where the server requires them.

    Attributes:
        address: the URL without user and password, for logs.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis | None = None
        parts = urlsplit(url)
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def open(self) -> None:
        """Connect, and check that the server answers a command.

        Raises:
            Exception: it does not. Of nearly any class, since any program may answer at that address.
        """
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        await self.close()
        options: dict[str, Any] = {"ssl_check_hostname": True} if self._url.startswith("rediss:") else {}
        # The caller has retries and timeouts of its own; those of the library would make requests wait.
        self._client = Redis.from_url(
            self._url, retry=Retry(NoBackoff(), 0), protocol=2, max_connections=1, decode_responses=False, **options
        )
        await self.ping()

    async def ping(self) -> None:
        """Check that the server answers.

        Raises:
            Exception: see `open`.
        """
        if not await self._opened.ping():
            raise ValueError("no answer to PING")

    async def exchange(self, asked: Sequence[bytes], stored: Sequence[tuple[bytes, bytes, int]]) -> list[object]:
        """Look up keys and store entries in one round trip.

        The time to live is read first: if the entry is replaced in between, the bytes are newer than the time says, never older.

        Args:
            asked: keys to look up.
            stored: key, entry and milliseconds to live of each entry to store.

        Returns:
            two replies for each key in `asked`, its milliseconds to live and its first MAX_ENTRY_BYTES + 1 bytes; then one for
            each entry in `stored`. A reply may be an exception.

        Raises:
            Exception: see `open`.
        """
        round_ = self._opened.pipeline(transaction=False)
        for key in asked:
            round_.execute_command("PTTL", key)
            round_.execute_command("GETRANGE", key, 0, MAX_ENTRY_BYTES)
        for key, entry, left_ms in stored:
            round_.execute_command("SET", key, entry, "PX", left_ms)
        replies: list[object] = await round_.execute(raise_on_error=False)
        if len(replies) != 2 * len(asked) + len(stored):
            raise ValueError(f"{len(replies)} replies came, expected {2 * len(asked) + len(stored)}")
        return replies

    async def close(self) -> None:
        """Close the connection without waiting for replies."""
        client, self._client = self._client, None
        if client is not None:
            await client.connection_pool.disconnect(inuse_connections=True)

    @property
    def _opened(self) -> Redis:
        if self._client is None:
            raise ValueError("the connection is not open")
        return self._client
