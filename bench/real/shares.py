"""Measures the share of traffic that a new version gets, over all workers, and whether users keep their version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scipy.stats import binom

from bench.load.traffic import Outcome, only
from bench.real.following import begin, until
from bench.real.models import USER_HEADER, Cast, Kind, Sums
from bench.service import Service
from roadworthy.client import Client
from roadworthy.contract.api.rollouts import Rollout

LEVEL = 0.999
_LOOK_S = 0.05
_STANDS = "waits-for-approval"
"""The phase of a rollout that has finished a step, so that all workers apply its split, and waits for a person's approval."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The observations at one share.

    Attributes:
        draws: number of requests, or users. canary: number of them that went to the new version.
        workers: number of workers that got requests.
        strays: number of users that got both versions at one share, or lost the new version when its share grew.
    """

    share: int
    draws: int
    canary: int
    workers: int
    strays: int = 0

    @property
    def interval(self) -> tuple[int, int]:
        """The interval that contains the count with a probability of at least LEVEL, if the share is as set."""
        low, high = binom.interval(LEVEL, self.draws, self.share / 100)
        return int(low), int(high)

    @property
    def right(self) -> bool:
        """Whether the count is in the interval and no user changed versions."""
        low, high = self.interval
        return low <= self.canary <= high and not self.strays


def _stands(share: int, rollout: Rollout) -> bool:
    return (rollout.share, rollout.code) == (share, _STANDS)


@dataclass(frozen=True, slots=True)
class Splitting:
    """A rollout whose share grows on approval, and its traffic."""

    service: Service
    client: Client
    cast: Cast
    traffic: Sums

    async def by_request(self, shares: Sequence[int], requests: int) -> list[Observed]:
        """Observe each share, with every request assigned independently."""
        windows = await self._windows(shares, requests)
        return [
            Observed(share, len(seen), sum(each.version == self._canary for each in seen), workers)
            for share, (seen, workers) in zip(shares, windows, strict=True)
        ]

    async def by_user(self, shares: Sequence[int], requests: int) -> list[Observed]:
        """Observe each of the growing shares, with users assigned."""
        found: list[Observed] = []
        before: set[int] = set()
        windows = await self._windows(shares, requests, {"sticky": {"header": USER_HEADER}})
        for share, (seen, workers) in zip(shares, windows, strict=True):
            new = {self.traffic.users[each.number] for each in seen if each.version == self._canary}
            old = {self.traffic.users[each.number] for each in seen if each.version == self.cast.stable}
            found.append(Observed(share, len(new | old), len(new), workers, len((new | before) & old)))
            before = new
        return found

    @property
    def _canary(self) -> str:
        return self.cast.version(Kind.GOOD)

    async def _windows(
        self, shares: Sequence[int], requests: int, more: dict[str, Any] | None = None
    ) -> list[tuple[list[Outcome], int]]:
        """For each share, the outcomes of at least `requests` requests sent while every worker had the share; and the number of
        workers with connections."""
        steps = [{"share": share, "hold": 0, "evidence": 0, "approve": number > 0} for number, share in enumerate((*shares, 100))]
        plan = {"strategy": "canary", "steps": steps, "criteria": ["errors"], **(more or {})}
        name, rollouts = self.cast.name, self.client.rollouts
        windows = []
        async with self.traffic.running():
            await self.traffic.wait_for(only(self.cast.stable))
            begun = await begin(self.client, name, self._canary, plan)
            for number, share in enumerate(shares):
                if number:
                    await asyncio.to_thread(rollouts.approve, name)
                await until(self.client, begun, partial(_stands, share), f"a share of {share} % stands")
                mark, first = time.monotonic(), len(self.traffic.outcomes)
                while len(self.traffic.outcomes) < first + requests + self.traffic.connections:  # noqa: ASYNC110 - as `answered`
                    await asyncio.sleep(_LOOK_S)
                seen = [each for each in self.traffic.outcomes[first:] if each.sent >= mark]
                windows.append((seen, await asyncio.to_thread(self._workers_asked)))
            await asyncio.to_thread(rollouts.abort, name)
            await self.traffic.wait_for(only(self.cast.stable))
        return windows

    def _workers_asked(self) -> int:
        port = self.service.ports[0]
        asked = 0
        for worker in self.service.worker_processes():
            asked += any(each.raddr and each.laddr.port == port for each in worker.net_connections("tcp"))
        return asked
