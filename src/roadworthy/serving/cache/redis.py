"""A Redis server as `shared.py` needs it, and the only file that knows the library. It is imported when a worker connects.

One connection, one round at a time, each a single write of all commands and the replies to them. RESP2 and plain commands, so
that any release of Redis since 5 and what speaks its protocol (Valkey, KeyDB) will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from roadworthy.runtime.layers.answer_bytes import MAX_ENTRY_BYTES

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisServer:
    """The connection. Nothing is opened before `open`.

    Args:
        url: redis://, rediss:// or unix://, with user and password where the server asks for them.

    Attributes:
        address: the same without them, to be told.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis | None = None
        parts = urlsplit(url)
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def open(self) -> None:
        """Connect, and see that it answers commands.

        Raises:
            Exception: it does not; nearly any class, since nobody knows who answers at that address.
        """
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        await self.close()
        options: dict[str, Any] = {"ssl_check_hostname": True} if self._url.startswith("rediss:") else {}
        # Retries and timeouts are our caller's: the library's own would make requests wait.
        self._client = Redis.from_url(
            self._url, retry=Retry(NoBackoff(), 0), protocol=2, max_connections=1, decode_responses=False, **options
        )
        await self.ping()

    async def ping(self) -> None:
        """See that it is there.

        Raises:
            Exception: as `open`.
        """
        if not await self._opened.ping():
            raise ValueError("no answer to PING")

    async def exchange(self, asked: Sequence[bytes], kept: Sequence[tuple[bytes, bytes, int]]) -> list[object]:
        """Two replies for each of the keys in `asked`: for how many milliseconds it will be there, and its first
        MAX_ENTRY_BYTES + 1 bytes; and one for each (key, entry, milliseconds) in `kept`. A reply may be an exception.

        The time is asked for first: if another entry takes the place in between, the bytes are newer than the time says, never
        older. And never more bytes than are of use, however many there are.

        Raises:
            Exception: as `open`.
        """
        round_ = self._opened.pipeline(transaction=False)
        for key in asked:
            round_.execute_command("PTTL", key)
            round_.execute_command("GETRANGE", key, 0, MAX_ENTRY_BYTES)
        for key, entry, left_ms in kept:
            round_.execute_command("SET", key, entry, "PX", left_ms)
        replies: list[object] = await round_.execute(raise_on_error=False)
        if len(replies) != 2 * len(asked) + len(kept):
            raise ValueError("another number of replies")
        return replies

    async def close(self) -> None:
        """Close the connection without waiting for anything."""
        client, self._client = self._client, None
        if client is not None:
            await client.connection_pool.disconnect(inuse_connections=True)

    @property
    def _opened(self) -> Redis:
        if self._client is None:
            raise ValueError("not open")
        return self._client
