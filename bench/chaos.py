"""Kills a random worker or runner every second under load: `make bench-chaos` (2 minutes; BENCH_ARGS=--long: 10).

Two endpoints get requests over keep-alive connections: one whose version executes inside the workers, one whose version executes
in two runner processes. Every second one of these processes is stopped, the connections that it holds are recorded, and it is
killed. So the requests inside it are known, and every failure must be one of them. No request is retried. When the killing ends,
processes, answers and counts must be as before, with nothing left over.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.load.traffic import BROKEN, Outcome, Traffic, all_right, causes
from bench.report import Measure, finish
from bench.service import NO_TLS, Service, installed, role_of, wait_until
from bench.versions import NAME, everyone_answers, serve_first, two_versions

WORKERS = 2
COPIES = 2
ISOLATED = "isolated"
DIED = "503 runner-died"
NOTICE_S = 0.25
"""Seconds after a kill in which a client may still write to a connection whose end it has not noticed."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One killed process.

    Attributes:
        role: "worker" or "runner".
        stopped, at: times of stop and kill, in seconds on the monotonic clock.
        ports: the clients' ports of the connections that a worker held; empty for a runner.
    """

    role: str
    stopped: float
    at: float
    ports: frozenset[int]

    def held(self, outcome: Outcome, *, isolated: bool) -> bool:
        """Whether a request was inside the process: on one of its connections or, for a runner, in progress at its endpoint."""
        if outcome.ended < self.stopped:
            return False
        if self.role == "worker":
            return outcome.port in self.ports and outcome.sent <= self.at + NOTICE_S
        return isolated and outcome.sent <= self.at

    def explains(self, outcome: Outcome, *, isolated: bool) -> bool:
        """Whether this kill explains a failure."""
        return outcome.cause == (BROKEN if self.role == "worker" else DIED) and self.held(outcome, isolated=isolated)


@dataclass
class Story:
    """The results. `faults` lists deviations after the killing ended; `isolated` is None without runner processes."""

    inline: Traffic
    isolated: Traffic | None
    kills: list[Kill] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lost: int = 0
    back_s: float = 0.0

    @property
    def traffics(self) -> list[Traffic]:
        """The traffic of all endpoints."""
        return [self.inline] if self.isolated is None else [self.inline, self.isolated]

    @property
    def failed(self) -> list[Outcome]:
        """Every failure."""
        return [outcome for traffic in self.traffics for outcome in traffic.failed]

    @property
    def unexplained(self) -> list[Outcome]:
        """Failures of requests that were not inside a killed process."""
        return [
            outcome
            for traffic in self.traffics
            for outcome in traffic.failed
            if not any(kill.explains(outcome, isolated=traffic is self.isolated) for kill in self.kills)
        ]

    @property
    def inside(self) -> int:
        """Number of requests that were inside the killed processes."""
        return sum(
            kill.held(outcome, isolated=traffic is self.isolated)
            for kill in self.kills
            for traffic in self.traffics
            for outcome in traffic.outcomes
        )

    def measures(self) -> list[Measure]:
        """The figures."""
        failed, inside = self.failed, self.inside
        outcomes = [outcome for traffic in self.traffics for outcome in traffic.outcomes]
        times = np.array([outcome.ended - outcome.sent for outcome in outcomes]) * 1000
        workers, runners = (sum(kill.role == role for kill in self.kills) for role in ("worker", "runner"))
        why = f" {causes(failed)}" if failed else ""
        without = "" if self.isolated is not None else " (runner processes not measured: none was started)"
        return [
            Measure(
                f"failed requests of {len(outcomes):,}, {workers} workers and {runners} runners killed{without}{why}",
                len(failed),
                "requests",
                target=f"<= {inside} inside the killed",
                met=len(failed) <= inside,
            ),
            _none("failed requests that were inside no killed process", causes(self.unexplained)),
            _none("wrong afterwards: processes, answers, counts, leftovers", self.faults),
            Measure("from the last kill until all processes were there", round(self.back_s, 1), "s"),
            Measure("requests lost, by the gateway's own count", self.lost, "requests"),
            Measure("p99 of all answers", round(float(np.percentile(times, 99)), 1), "ms"),
            Measure("the longest answer", round(float(times.max()), 1), "ms"),
        ]


def _none(name: str, found: dict[str, int] | list[str]) -> Measure:
    count = sum(found.values()) if isinstance(found, dict) else len(found)
    return Measure(f"{name}: {found}" if found else name, count, "", target="0", met=not found)


@dataclass(frozen=True)
class Plan:
    """Duration, interval between kills, requests per second at each endpoint, and the seed that chooses the processes."""

    seconds: float = 120.0
    every_s: float = 1.0
    rate: float = 150.0
    seed: int = 0
    runners: bool = True


async def travel(service: Service, story: Story, plan: Plan) -> None:
    """Send requests and kill processes, then check that everything is as before."""
    chance = random.Random(plan.seed)
    expected = await _settled(service)
    async with asyncio.TaskGroup() as group:
        done = asyncio.Event()
        for traffic in story.traffics:
            group.create_task(_ask(traffic, done))
        try:
            for traffic in story.traffics:
                await traffic.wait_for(all_right)
            end = time.monotonic() + plan.seconds
            while time.monotonic() < end:
                await asyncio.sleep(plan.every_s)
                await asyncio.to_thread(_kill_one, service, story, chance)
            last = time.monotonic()
            await _until_back(service, expected, story)
            story.back_s = time.monotonic() - last
            for traffic in story.traffics:
                await traffic.wait_for(all_right)
        finally:
            done.set()


async def _ask(traffic: Traffic, done: asyncio.Event) -> None:
    async with traffic.running():
        await done.wait()


def _kill_one(service: Service, story: Story, chance: random.Random) -> None:
    """Stop a process, record its connections, kill it."""
    victims = sorted([*service.worker_processes(), *service.runner_processes()], key=lambda process: process.pid)
    if not victims:
        return
    victim = chance.choice(victims)
    with suppress(psutil.NoSuchProcess):
        role = role_of(victim)
        stopped = time.monotonic()
        victim.suspend()  # it neither answers nor accepts any longer, so the record is exact
        ports = frozenset(
            connection.raddr.port for connection in victim.net_connections("tcp") if connection.raddr and role == "worker"
        )
        victim.kill()
        story.kills.append(Kill(role, stopped, time.monotonic(), ports))


async def _until_back(service: Service, expected: dict[str, int], story: Story) -> None:
    deadline = time.monotonic() + 60.0
    while (found := await asyncio.to_thread(_roles, service)) != expected:
        if time.monotonic() > deadline:
            story.faults.append(f"processes: {found} instead of {expected}")
            return
        await asyncio.sleep(0.1)


async def _settled(service: Service) -> dict[str, int]:
    """The processes once their number is stable: runners of versions that are no longer needed end one after another."""
    found, since, deadline = _roles(service), time.monotonic(), time.monotonic() + 60.0
    while time.monotonic() < min(since + 3.0, deadline):
        await asyncio.sleep(0.2)
        if (now := await asyncio.to_thread(_roles, service)) != found:
            found, since = now, time.monotonic()
    return found


def _roles(service: Service) -> dict[str, int]:
    roles = [role_of(member) for member in service.members()]
    return {role: roles.count(role) for role in sorted(set(roles) - {"other"})}


def look_afterwards(service: Service, story: Story) -> None:
    """Check the counts after the last request, and look for processes without an owner."""
    counts = _metrics(service)
    story.lost = int(counts.get("roadworthy_requests_lost_total", 0))
    with suppress(TimeoutError):
        wait_until(lambda: not _metrics(service).get("roadworthy_requests_in_flight"), "nothing in flight")
    if left := _metrics(service).get("roadworthy_requests_in_flight"):
        story.faults.append(f"{left:g} requests are counted as in flight after the last answer")
    killed = sum(kill.role == "worker" for kill in story.kills)
    if counts["roadworthy_worker_restarts_total"] > killed:  # one killed during its start had no slot yet
        story.faults.append(f"{counts['roadworthy_worker_restarts_total']:g} restarts are counted for {killed} kills")
    orphans = strangers(service)
    story.faults += [f"{orphan} has no owner" for orphan in orphans]


def strangers(service: Service) -> list[str]:
    """Processes of this installation that its supervisor does not know; after its stop, all remaining processes."""
    own = {member.pid for member in service.members()}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in own and process.environ().get("ROADWORTHY_HOME") == str(service.home):
                found.append(" ".join(process.cmdline()[-2:]))
    return found


def _metrics(service: Service) -> dict[str, float]:
    """Each metric, summed over its labels."""
    text = httpx.get(f"http://127.0.0.1:{service.ports[2]}/metrics", verify=NO_TLS).text
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def prepare(service: Service, inline: Traffic, plan: Plan) -> Story:
    """Deploy a second endpoint whose version executes in runner processes, if this Roadworthy starts them."""
    if not plan.runners:
        return Story(inline, None)
    others = len(service.runner_processes())
    try:
        with service.client() as client:
            policy = {"placement": {"where": "process", "copies": COPIES}}
            client.wait(client.deploy(f"{NAME}:2", ISOLATED, policy=policy), timeout_s=120)
        wait_until(lambda: len(service.runner_processes()) == others + COPIES, "runner processes")
        wait_until(partial(everyone_answers, service, ISOLATED, inline.bodies[0]), "an answer from a runner")
    except Exception as error:  # noqa: BLE001  any error is printed, and the workers are measured alone
        print(f"without runner processes: {error}", flush=True)
        with service.client() as client, suppress(Exception):
            client.undeploy(ISOLATED)
        return Story(inline, None)
    return Story(inline, replace(inline, endpoint=ISOLATED, outcomes=[], open_requests={}))


def run(service: Service, inline: Traffic, plan: Plan) -> Story:
    """Run the whole benchmark on a running installation, and stop it at the end."""
    story = prepare(service, inline, plan)
    asyncio.run(travel(service, story, plan))
    look_afterwards(service, story)
    status = service.stop()
    if status:
        story.faults.append(f"the supervisor stopped with status {status}")
    story.faults += [f"{left} is left over" for left in strangers(service)]
    return story


def main() -> int:
    """Measure, print, write; exit status 1 for failures outside the killed processes or deviations afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="10 minutes instead of 2")
    parser.add_argument("--seconds", type=float, help="duration in seconds")
    parser.add_argument("--every", type=float, default=Plan.every_s, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="choice of the killed processes")
    parser.add_argument("--without-runners", action="store_true", help="workers only")
    arguments = parser.parse_args()
    seconds = arguments.seconds or (600.0 if arguments.long else Plan.seconds)
    plan = Plan(seconds, arguments.every, seed=arguments.seed, runners=not arguments.without_runners)
    with tempfile.TemporaryDirectory() as folder:
        versions = two_versions(Path(folder))
        with installed(Path(folder), [], workers=WORKERS) as service:
            story = run(service, serve_first(service, versions, plan.rate), plan)
    return finish("chaos", story.measures(), whole=seconds >= Plan.seconds and plan.every_s == 1.0 and plan.runners)


if __name__ == "__main__":
    sys.exit(main())
