"""Checks that no request is dropped while versions switch and workers are recycled: `make bench-switches`.

`roadworthy up --workers 2` gets requests at a steady rate over keep-alive connections. Meanwhile a second version is repeatedly
deployed and rolled back, and SIGHUP makes the supervisor recycle its workers. No request is retried: a reply that is not a right
answer of the version it names is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from bench.load.traffic import Traffic, all_right, causes, only
from bench.report import Measure, finish
from bench.service import Service, installed
from bench.versions import NAME, serve_first, two_versions

WORKERS = 2
LEAST_RATE = 200.0
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Plan:
    """The number of requests, their rate per second, and the events meanwhile."""

    requests: int = 100_000
    rate: float = 400.0
    cycles: int = 20
    recyclings: int = 5

    def events(self) -> list[str]:
        """The events in order: each cycle is a deployment and a rollback; recyclings are spread among them."""
        switches = ["deploy", "rollback"] * self.cycles
        after = {round((turn + 1) * len(switches) / (self.recyclings + 1)) for turn in range(self.recyclings)}
        found = []
        for number, switch in enumerate(switches, start=1):
            found += [switch, "recycle"] if number in after else [switch]
        return found


@dataclass
class Story:
    """The results. Times in seconds: of each deployment and rollback, from the command until only that version answers; of each
    recycling."""

    traffic: Traffic
    deployed_s: list[float] = field(default_factory=list)
    rolled_back_s: list[float] = field(default_factory=list)
    recycled_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    def measures(self) -> list[Measure]:
        """The figures."""
        outcomes, failed = self.traffic.outcomes, self.traffic.failed
        times = np.array([outcome.ended - outcome.sent for outcome in outcomes]) * 1000
        rate = len(outcomes) / self.elapsed_s
        why = f": {causes(failed)}" if failed else ""
        name = (
            f"failed requests of {len(outcomes):,} through {len(self.deployed_s)} deployments, "
            f"{len(self.rolled_back_s)} rollbacks and {len(self.recycled_s)} recyclings of {WORKERS} workers, retries off{why}"
        )
        return [
            Measure(name, len(failed), "requests", target="0", met=not failed),
            Measure("at", round(rate), "requests/s", target=f">= {LEAST_RATE:g}", met=rate >= LEAST_RATE),
            Measure("p99 of all answers", round(float(np.percentile(times, 99)), 1), "ms"),
            Measure("the longest answer", round(float(times.max()), 1), "ms"),
            Measure("the longest deployment, until only that version answered", round(max(self.deployed_s), 2), "s"),
            Measure("the longest rollback, until only that version answered", round(max(self.rolled_back_s), 2), "s"),
            Measure("the longest recycling of all workers", round(max(self.recycled_s, default=0.0), 1), "s"),
        ]


async def travel(service: Service, traffic: Traffic, plan: Plan) -> Story:
    """Send requests, deploy, roll back and recycle."""
    story = Story(traffic)
    events = plan.events()
    begun = time.monotonic()
    async with traffic.running():
        await traffic.wait_for(only(f"{NAME}:1"))
        for number, event in enumerate(events, start=1):
            await answered(traffic, number * plan.requests // (len(events) + 1))
            asked = time.monotonic()
            if event == "deploy":
                with service.client() as client:
                    await asyncio.to_thread(client.deploy, f"{NAME}:2", NAME)
                await traffic.wait_for(only(f"{NAME}:2"), _TIMEOUT_S)
                story.deployed_s.append(time.monotonic() - asked)
            elif event == "rollback":
                with service.client() as client:
                    await asyncio.to_thread(client.rollback, NAME)
                await traffic.wait_for(only(f"{NAME}:1"), _TIMEOUT_S)
                story.rolled_back_s.append(time.monotonic() - asked)
            else:
                await recycle(service)
                await traffic.wait_for(all_right)
                story.recycled_s.append(time.monotonic() - asked)
        await answered(traffic, plan.requests)
    story.elapsed_s = time.monotonic() - begun
    return story


async def answered(traffic: Traffic, count: int) -> None:
    """Wait until `count` requests have ended."""
    while len(traffic.outcomes) < count:  # noqa: ASYNC110 - hundreds come a second; an event for each would cost more
        await asyncio.sleep(0.02)


async def recycle(service: Service) -> None:
    """Send SIGHUP, and wait until every worker was replaced and their number is as before."""
    before = set(service.worker_processes())
    assert service.process is not None
    os.kill(service.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        now: set[psutil.Process] = set(await asyncio.to_thread(service.worker_processes))
        if not now & before and len(now) == len(before):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers were not recycled within {_TIMEOUT_S:g} s")
        await asyncio.sleep(0.1)


def run(folder: Path, plan: Plan) -> Story:
    """Run the whole benchmark in a new installation below `folder`."""
    versions = two_versions(folder)
    with installed(folder, [], workers=WORKERS) as service:
        traffic = serve_first(service, versions, plan.rate)
        return asyncio.run(travel(service, traffic, plan))


def main() -> int:
    """Measure, print, write; exit status 1 when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=Plan.requests)
    parser.add_argument("--rate", type=float, default=Plan.rate, help="requests per second")
    parser.add_argument("--cycles", type=int, default=Plan.cycles, help="number of cycles of a deployment and a rollback")
    parser.add_argument("--recyclings", type=int, default=Plan.recyclings)
    arguments = parser.parse_args()
    plan = Plan(arguments.requests, arguments.rate, arguments.cycles, arguments.recyclings)
    with tempfile.TemporaryDirectory() as folder:
        story = run(Path(folder), plan)
    whole = plan.requests >= Plan.requests and plan.cycles >= Plan.cycles and plan.recyclings >= Plan.recyclings
    return finish("switches", story.measures(), whole=whole)


if __name__ == "__main__":
    sys.exit(main())
