"""The part of `make bench-rollout` with real processes: figures of rollouts and shares, and their targets."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.load.traffic import causes
from bench.real.cases import Case, drawn
from bench.real.models import Cast, Kind, asked, register
from bench.real.rollouts import Lane, Made, make
from bench.real.shares import LEVEL, Observed, Splitting
from bench.report import Measure
from bench.service import Service, installed

ROLLOUTS, LEAST_ROLLOUTS = 56, 50
EXPOSED_S = 5.0
_MANY_USERS = 4_000


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the benchmark.

    Attributes:
        rollouts: their number. lanes: endpoints with rollouts at the same time. rate: requests per second at each of them.
        workers: of the gateway.
        shares: percentages at which traffic is counted. requests: for each share. connections: for these requests.
    """

    rollouts: int = ROLLOUTS
    lanes: int = 2
    rate: float = 150.0
    workers: int = 4
    shares: tuple[int, ...] = (5, 25, 60)
    requests: int = 5_000
    connections: int = 32


@dataclass(frozen=True, slots=True)
class Story:
    """The results: the rollouts, their lanes, and the split of requests and users."""

    made: list[Made]
    lanes: list[Lane]
    by_request: list[Observed]
    by_user: list[Observed]

    def measures(self) -> list[Measure]:
        """The figures."""
        return [*self._whole(), *self._by_kind(), *_split("requests", self.by_request), *_split("users", self.by_user)]

    def _whole(self) -> list[Measure]:
        right = sum(made.right for made in self.made)
        wrong = [outcome for lane in self.lanes for outcome in lane.unexplained]
        sent = sum(len(lane.traffic.outcomes) for lane in self.lanes)
        why = f": {causes(wrong)}" if wrong else ""
        exposed = [made.exposed_s for made in self.made if made.case.kind is Kind.FAILING and made.exposed_s is not None]
        found = [
            Measure(
                f"real rollouts decided right, of {len(self.made)}",
                right,
                "rollouts",
                target=f"all, >= {LEAST_ROLLOUTS}",
                met=right == len(self.made),
            ),
            Measure(
                f"failed requests of {sent:,} meanwhile that no broken canary explains, retries off{why}",
                len(wrong),
                "requests",
                target="0",
                met=not wrong,
            ),
        ]
        if exposed:
            name = "E1: a canary that fails every request, from its first failure to its last answer, the longest"
            worst = max(exposed)
            found.append(Measure(name, round(worst, 2), "s", target=f"< {EXPOSED_S:g} s", met=worst < EXPOSED_S))
        return found

    def _by_kind(self) -> list[Measure]:
        kinds = {kind: [made for made in self.made if made.case.kind is kind] for kind in Kind}
        return [_decided(kind, of_kind) for kind, of_kind in kinds.items() if of_kind]


def _decided(kind: Kind, made: Sequence[Made]) -> Measure:
    times = [each.decided_s for each in made]
    seen = [len(each.canary) for each in made if each.canary]
    pairs = [each.pairs for each in made if each.pairs]
    told = [f"{len(made)} rollouts", f"longest {max(times):.1f} s"]
    if seen:
        told.append(f"canary requests {median(seen):,.0f}, most {max(seen):,}")
    if pairs:
        told.append(f"pairs {median(pairs):,.0f}, most {max(pairs):,}")
    name = f"until decided, median, {kind.value} ({', '.join(told)})"
    return Measure(name, round(median(times), 1), "s", target="right", met=all(each.right for each in made))


def _split(what: str, observed: Iterable[Observed]) -> list[Measure]:
    found = []
    for each in observed:
        low, high = each.interval
        told = f"{each.canary:,} of {each.draws:,}" + (f", {each.strays} changed sides" if what == "users" else "")
        name = f"E17: {what} at the canary where {each.share} % was set, {each.workers} workers asked ({told})"
        percent = (100 * count / each.draws for count in (low, high))
        target = "{:.2f} to {:.2f} % ({:.1f} %)".format(*percent, 100 * LEVEL)
        met = each.right and each.workers > 1
        found.append(Measure(name, round(100 * each.canary / each.draws, 2), "%", target=target, met=met))
    return found


def run(folder: Path, plan: Plan, seed: int, cases: Sequence[Case] | None = None) -> Story:
    """Run the benchmark in a new installation below `folder`.

    Args:
        cases: to roll out instead of those drawn with the seed.
    """
    rng = np.random.default_rng([seed, 17])
    cases = drawn(rng, plan.rollouts) if cases is None else cases
    kinds = {case.kind for case in cases}
    with installed(folder, [], workers=plan.workers) as service:
        lanes = []
        for number in range(plan.lanes):
            cast = register(service, folder, f"lane{number + 1}", kinds)
            lanes.append(Lane(cast, asked(service, cast.name, plan.rate, rng)))
        made = _rolled_out(service, lanes, cases)
        by_request, by_user = _observed(service, plan, lanes[0].cast, rng)
    return Story(made, lanes, by_request, by_user)


def _rolled_out(service: Service, lanes: Sequence[Lane], cases: Sequence[Case]) -> list[Made]:
    columns = (TextColumn("rollouts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with service.client() as client, Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(cases))

        def told(made: Made) -> None:
            print(made.told(), flush=True)
            progress.advance(bar)

        return asyncio.run(make(client, lanes, cases, told))


def _observed(service: Service, plan: Plan, cast: Cast, rng: np.random.Generator) -> tuple[list[Observed], list[Observed]]:
    found = []
    with service.client() as client:
        for by_user in (False, True):
            traffic = asked(service, cast.name, 2 * plan.rate, rng, users=_MANY_USERS)
            traffic.connections = plan.connections
            splitting = Splitting(service, client, cast, traffic)
            count = splitting.by_user if by_user else splitting.by_request
            found.append(asyncio.run(count(plan.shares, plan.requests)))
    return found[0], found[1]


def measures(plan: Plan, seed: int) -> list[Measure]:
    """Run everything in a temporary folder; each rollout is printed when it is over."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), plan, seed).measures()
