"""An agent's end of the home folder, in this process: the real registry over a slab, without a supervisor or a control plane."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from roadworthy.agent.worker_registry import WorkerRegistry
from roadworthy.contract.record import PredictionRecord
from roadworthy.contract.snapshot import Snapshot, decode_snapshot, encode_snapshot
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.serving.metrics import Totals, read_totals
from tests.records import unpack


class HomeAgent:
    """Serves the snapshot of a gateway's folder from entering to leaving. `members`: how many processes may join."""

    def __init__(self, folder: Path, *, members: int = 1) -> None:
        self._folder = folder
        self._slab = folder / "run" / "slab"
        create_slab(self._slab, 3 + members, members=members, names=1_024, cells=8_192)
        self._reader = SlabReader(self._slab)
        self.records: list[PredictionRecord] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def _call(self, make: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result()

    def snapshot(self) -> Snapshot:
        """The snapshot in the folder."""
        return decode_snapshot((self._folder / "snapshot.json").read_bytes())

    def publish(self) -> None:
        """Hand out the snapshot in the folder."""

        async def publish() -> None:
            self._registry.publish(encode_snapshot(self.snapshot()))

        self._call(publish)

    def totals(self) -> Totals:
        """The counts of all slots."""
        return read_totals(self._reader, {each.name for each in self.snapshot().endpoints})

    def __enter__(self) -> Self:
        def take(payload: bytes, _is_members: bool) -> None:
            self.records += unpack(payload)

        def names() -> set[str]:
            return {each.name for each in self.snapshot().endpoints}

        async def start() -> None:
            self._registry = WorkerRegistry(self._reader, take, lambda: None, names, lambda _count: None)
            await self._registry.start(self._folder / "run" / "agent.sock")

        self._thread.start()
        self._call(start)
        self.publish()
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            await self._registry.close()

        self._call(stop)
        (self._folder / "run" / "agent.sock").unlink(missing_ok=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
