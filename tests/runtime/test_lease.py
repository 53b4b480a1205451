"""Leases: a request that holds a version keeps it loaded."""

from __future__ import annotations

import asyncio

import pytest

from roadworthy.foundation.errors import Unavailable
from roadworthy.runtime.lease import Leases
from tests.waiting import DEADLINE_S


def test_draining_waits_for_the_last_holder() -> None:
    """Unloading continues after the last of several leases is given back, and no new lease is given."""

    async def scene() -> None:
        leases = Leases()
        leases.take()
        leases.take()
        drained = asyncio.create_task(leases.drained())
        await asyncio.sleep(0)
        leases.give_back()
        await asyncio.sleep(0)
        assert not drained.done()
        with pytest.raises(Unavailable) as caught:
            leases.take()
        assert caught.value.code == "version-unloading"
        leases.give_back()
        await drained

    asyncio.run(scene())


def test_draining_an_idle_version_is_immediate() -> None:
    """Without leases there is nothing to wait for."""
    asyncio.run(asyncio.wait_for(Leases().drained(), DEADLINE_S))
