"""A steady load for an hour under which no process may grow: `make soak` (BENCH_ARGS="--minutes 5" for less).

Three endpoints get requests over keep-alive connections, with records on: a compiled pipeline that is deployed and rolled back
from time to time, trees in ONNX, and a Python callable. Memory, descriptors and threads of all our processes are sampled; after
the warm-up their lines must not rise by more than growth.py permits. `--leak` plants a model that keeps 64 KiB with every call,
which the same run must then report.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.growth import Growth, Watch
from bench.load.traffic import Traffic
from bench.models import Subject, bodies, leaking, nothing, onnx_trees
from bench.report import Measure, finish
from bench.service import Service, ask, installed, wait_until
from bench.versions import NAME, serve_first, two_versions

WORKERS = 2


@dataclass(frozen=True)
class Plan:
    """Duration and load.

    Attributes:
        seconds: total duration. warm_up_s: its part before the window that is judged.
        rate: requests per second at each endpoint.
        change_every_s: seconds between deployments and rollbacks. look_every_s: seconds between samples.
    """

    seconds: float = 3_600.0
    warm_up_s: float = 600.0
    rate: float = 100.0
    change_every_s: float = 30.0
    look_every_s: float = 5.0


@dataclass
class Story:
    """The results. `outcomes` counts by cause, "" for right answers."""

    outcomes: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    growths: list[Growth] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    window_s: float = 0.0

    @property
    def faults(self) -> list[str]:
        """The quantities that rose by more than permitted."""
        return [fault for growth in self.growths for fault in growth.faults]

    def measures(self) -> list[Measure]:
        """The figures."""
        failed = {cause: count for cause, count in self.outcomes.items() if cause}
        total = sum(self.outcomes.values())
        name = f"failed requests of {total:,}, through {self.changes} deployments and rollbacks"
        measures = [
            Measure(f"{name}: {failed}" if failed else name, sum(failed.values()), "requests", target="0", met=not failed),
            Measure(
                f"processes that came or went{_listed(self.changed)}",
                len(self.changed),
                "",
                target="0",
                met=not self.changed,
            ),
        ]
        for growth in self.growths:
            others = f"{growth.files:+.1f} descriptors, {growth.threads:+.1f} threads"
            what = f"{growth.role}: {others}, median {growth.median_mb:.0f} MB"
            aim = f"<= {growth.allowed_mb:.1f} MB in {self.window_s / 60:.1f} min"
            measures.append(Measure(what, round(growth.memory_mb, 2), "MB rise", target=aim, met=not growth.faults))
        return measures


def _listed(found: list[str]) -> str:
    return f": {', '.join(found)}" if found else ""


async def steady(service: Service, traffics: list[Traffic], plan: Plan) -> Story:
    """Send requests, change versions, take samples."""
    story, watch = Story(), Watch(service)
    begun = time.monotonic()
    window = begun + plan.warm_up_s
    async with contextlib.AsyncExitStack() as stack:
        for traffic in traffics:
            await stack.enter_async_context(traffic.running())
        changing = asyncio.create_task(_change(service, plan, story))
        while time.monotonic() < begun + plan.seconds:
            await asyncio.sleep(plan.look_every_s)
            await asyncio.to_thread(watch.look)
            for traffic in traffics:
                story.outcomes += traffic.forget()
            if changing.done():
                break
        changing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await changing
    for traffic in traffics:
        story.outcomes += traffic.forget()
    story.growths, story.changed = watch.growths(window), watch.changed(window)
    story.window_s = time.monotonic() - window
    return story


async def _change(service: Service, plan: Plan, story: Story) -> None:
    """Deploy the other version and roll back, alternately."""
    with service.client() as client:
        while True:
            await asyncio.sleep(plan.change_every_s)
            verb: Callable[[], object] = partial(client.rollback, NAME)
            if story.changes % 2 == 0:
                verb = partial(client.deploy, f"{NAME}:2", NAME)
            await asyncio.to_thread(verb)
            story.changes += 1


def traffic_of(service: Service, subject: Subject, rate: float) -> Traffic:
    """Deploy a subject; return the traffic for it."""
    service.deploy(subject)
    wait_until(partial(ask, service, subject), f"right answers of {subject.name}")
    right = {f"{subject.name}:1": subject.right}
    return Traffic(service.ports[0], service.key, bodies(subject.rows), right, endpoint=subject.name, rate=rate, connections=8)


def run(folder: Path, plan: Plan, *, leak: bool = False) -> Story:
    """Run the whole benchmark in a new installation below `folder`."""
    versions = two_versions(folder)
    subjects = [leaking(folder, 500)] if leak else [onnx_trees(folder, 500), nothing(folder, 500)]
    with installed(folder, [], workers=WORKERS) as service:
        traffics = [serve_first(service, versions, plan.rate)]
        traffics += [traffic_of(service, subject, plan.rate) for subject in subjects]
        return asyncio.run(steady(service, traffics, plan))


def main() -> int:
    """Measure, print, write; exit status 1 when something grew or failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="total duration; a sixth of it is warm-up")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="requests a second at each endpoint")
    parser.add_argument("--leak", action="store_true", help="plant a leak, which must be found")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    plan = Plan(seconds, seconds / 6, arguments.rate, min(30.0, seconds / 20), min(5.0, seconds / 60))
    with tempfile.TemporaryDirectory() as folder:
        story = run(Path(folder), plan, leak=arguments.leak)
    return finish("soak", story.measures(), whole=arguments.minutes >= 60 and not arguments.leak)


if __name__ == "__main__":
    sys.exit(main())
