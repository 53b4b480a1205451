"""The bare ASGI handler with tick batching: the rows of all requests of one iteration of the event loop share one run.

Run as `python -m bench.baselines.batched_asgi MODEL.onnx PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from bench.baselines.bare_asgi import Application, listen, read, reply, session_run

Answers = list[dict[str, Any]]


def application(model: str) -> Application:
    """The ASGI function for a model file: one run for the requests of each iteration."""
    run = session_run(model)
    waiting: list[tuple[list[list[float]], asyncio.Future[Answers]]] = []

    def flush() -> None:
        batch = waiting.copy()
        waiting.clear()
        answers = run([row for rows, _ in batch for row in rows])
        start = 0
        for rows, future in batch:
            if not future.done():  # otherwise its caller is gone
                future.set_result(answers[start : start + len(rows)])
            start += len(rows)

    async def serve(_scope: Any, receive: Any, send: Any) -> None:
        rows = await read(receive)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answers] = loop.create_future()
        waiting.append((rows, future))
        if len(waiting) == 1:
            loop.call_soon(flush)
        await reply(send, await future)

    return serve


if __name__ == "__main__":
    listen(application(sys.argv[1]), int(sys.argv[2]))
