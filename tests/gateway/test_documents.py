"""Documents of the gateway that take long to make are made again only after a change."""

from __future__ import annotations

import asyncio
from pathlib import Path

from roadworthy.foundation.slab import SlotWriter, create_slab
from roadworthy.gateway.http.documents import Documents


def test_totals_are_read_again_only_after_a_change(tmp_path: Path) -> None:
    """A new count in any slot is a change; a heartbeat is not one."""
    slab = tmp_path / "slab"
    create_slab(slab, 2)
    writers = [SlotWriter(slab, slot) for slot in range(2)]
    for writer in writers:
        writer.take()
    documents = Documents(tmp_path, slab)

    async def play() -> None:
        first = await documents.totals()
        writers[1].heartbeat()
        assert await documents.totals() is first
        writers[1].values[writers[1].place("records-lost")] += 1
        second = await documents.totals()
        assert second is not first
        assert await documents.totals() is second

    asyncio.run(play())
