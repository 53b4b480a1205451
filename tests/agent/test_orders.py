"""The agent's end of its channel to the supervisor."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from roadworthy.agent.runners.orders import Orders
from tests.waiting import DEADLINE_S


def test_orders_go_out_and_what_happened_comes_in() -> None:
    """It says hello first and confirms messages; long lists, broken lines and the end of the channel do no harm."""
    told: list[dict[str, Any]] = []

    async def scene() -> None:
        near, far = socket.socketpair()
        came = asyncio.Event()

        def take(message: dict[str, Any]) -> None:
            told.append(message)
            came.set()

        orders = Orders(far.detach(), take)
        task = asyncio.create_task(orders.run())
        reader, writer = await asyncio.open_connection(sock=near, limit=1 << 22)
        assert json.loads(await reader.readline()) == {"hello": True}
        many = [{"name": f"runner-{n}", "argv": [], "document": {"text": "x" * 1_000}, "grace_s": 1.0} for n in range(500)]
        orders.order(many)
        orders.kill("runner-1", 7, "hung")
        assert json.loads(await reader.readline()) == {"children": many}
        assert json.loads(await reader.readline()) == {"kill": "runner-1", "pid": 7, "reason": "hung"}
        running = {"running": [{"name": "x" * 1_000, "pid": n} for n in range(500)], "number": 3}
        writer.write(b"{broken\n[]\n" + json.dumps(running).encode() + b"\n")
        await asyncio.wait_for(came.wait(), DEADLINE_S)
        assert told == [running]
        assert json.loads(await reader.readline()) == {"heard": 3}
        writer.close()
        await writer.wait_closed()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())
