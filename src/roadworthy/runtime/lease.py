"""How requests hold a loaded version: it is unloaded only when the last lease on it has been given back."""

from __future__ import annotations

import asyncio


class Leases:
    """Counts the requests that hold one version. Event loop only; `take` and `give_back` are in the path of every request."""

    __slots__ = ("_drained", "held")

    def __init__(self) -> None:
        self.held = 0
        self._drained: asyncio.Future[None] | None = None

    def take(self) -> None:
        """Hold the version; every call is followed by exactly one `give_back`."""
        self.held += 1

    def give_back(self) -> None:
        """Let go; wakes whoever waits to unload when this was the last."""
        self.held -= 1
        if not self.held and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Wait until nobody holds the version. The caller has first made sure that no new lease can be taken."""
        while self.held:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
