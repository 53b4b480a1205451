"""Waiting requests are woken from any thread, wait no longer than asked, and leave nothing behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from roadworthy.control.publish.waiters import Waiters
from tests.waiting import DEADLINE_S


def test_many_are_woken_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request sleeps through a change between its check and its sleep, and the list is empty afterwards."""
    monkeypatch.setattr("roadworthy.control.publish.waiters._LOOK_AGAIN_S", 3_600.0)
    waiters, seen = Waiters(), list[int]()

    async def scene() -> list[bool]:
        asked = [waiters.until(lambda number=number: len(seen) >= number, 3_600, lambda: False) for number in range(1, 51)]

        def change() -> None:
            for number in range(50):
                seen.append(number)
                waiters.wake()

        thread = threading.Thread(target=change)
        tasks = [asyncio.create_task(each) for each in asked]
        thread.start()
        async with asyncio.timeout(DEADLINE_S):
            found = await asyncio.gather(*tasks)
        thread.join()
        return found

    assert all(asyncio.run(scene()))
    assert waiters._waiting == []


def test_time_and_the_end_of_the_process_are_noticed() -> None:
    """Both return False; a condition that already holds needs no waiting."""
    waiters = Waiters()

    async def scene() -> None:
        assert not await waiters.until(lambda: False, 0.01, lambda: False)
        assert not await waiters.until(lambda: False, 3_600, lambda: True)
        assert await waiters.until(lambda: True, 0, lambda: True)
        leaving = asyncio.create_task(waiters.until(lambda: False, 3_600, lambda: False))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)

    asyncio.run(scene())
    assert waiters._waiting == []
