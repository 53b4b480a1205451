"""Leases, by which requests hold a loaded version: it is unloaded only after its last lease has been given back."""

from __future__ import annotations

import asyncio

from roadworthy.foundation.errors import Unavailable


class Leases:
    """Counts the requests that hold one version. Event loop only; `take` and `give_back` are in the path of every request."""

    __slots__ = ("_closed", "_drained", "held")

    def __init__(self) -> None:
        self.held = 0
        self._closed = False
        self._drained: asyncio.Future[None] | None = None

    def take(self) -> None:
        """Hold the version. The caller must follow every call that returns with exactly one `give_back`.

        Raises:
            Unavailable: code "version-unloading": the version went out of service while the request was on its way here.
        """
        if self._closed:
            raise Unavailable(
                "the version was taken out of service meanwhile",
                code="version-unloading",
                hint="try again",
                retry_after_s=1,
            )
        self.held += 1

    def give_back(self, count: int = 1) -> None:
        """Return so many leases; after the last one, wake the task that waits to unload the version."""
        self.held -= count
        if not self.held and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Refuse further leases, and wait until no request holds the version."""
        self._closed = True
        while self.held:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
