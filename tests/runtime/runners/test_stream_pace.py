"""What first parts teach: a version that begins many streams at once is not taken for one that is slow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from roadworthy.runtime.queue.request_queue import _FEW
from roadworthy.runtime.queue.run_times import WARM_UP_RUNS
from roadworthy.runtime.runners.isolated.client import ProcessBatcher
from roadworthy.runtime.runners.isolated.frames import ANSWERED, MOST_STREAMS, Greeting, Outcomes
from tests.runtime.runners.isolated.runners import DIGEST, Waiting, rows


@pytest.mark.parametrize(("parts", "code"), [(True, None), (False, "overloaded")])
def test_first_parts_say_nothing_of_the_queue(tmp_path: Path, parts: bool, code: str | None) -> None:
    """64 streams at a time whose first part takes a second begin 64 a second; an answer a second is one a second. Both are
    known by their run times."""

    async def scene() -> None:
        batcher = ProcessBatcher(DIGEST, [tmp_path / "runner"], asyncio.get_running_loop(), lambda: None)
        batcher.greeted(Greeting(DIGEST, 1, signature={"parts": parts}))
        for _ in range(_FEW):
            batcher.submit(rows(1), Waiting(10))
        for _ in range(MOST_STREAMS):
            batcher.learn(Outcomes([ANSWERED], [], rows(1), 1, 1.0), 1, 1, 1.0)
        assert batcher.times.warming == max(0, WARM_UP_RUNS - MOST_STREAMS)
        late = Waiting(10)
        batcher.submit(rows(1), late)
        assert getattr(late.outcome.result() if late.done else None, "code", None) == code
        batcher.close()

    asyncio.run(scene())
