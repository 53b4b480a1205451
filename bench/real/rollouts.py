"""Runs sequences of rollouts on several endpoints at once, under traffic, and checks each decision.

A reply that is not a right answer of the version it names, or names no version, is a failure. Failures of a broken version's own
requests are expected in a rollout; there must be no others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bench.load.traffic import Outcome, causes, only
from bench.real.cases import WITHHELD, Case, Way
from bench.real.following import TIMEOUT_S, begin, is_over, until
from bench.real.models import Cast, Sums
from roadworthy.client import Client
from roadworthy.contract.api.rollouts import Rollout
from roadworthy.contract.api.system import Event

_SPLIT, _FINISHED = "rollout-split", "rollout-finished"


@dataclass(frozen=True, slots=True)
class Made:
    """A rollout that is over.

    Attributes:
        case: the rollout that was run. document: its final state.
        decided_s: seconds until the decision, from the time when requests, or copies of them, could reach the new version; for
            a version that was never loaded, from the rollout's start.
        canary, stable: outcomes of the requests that named the new version, and of all others.
        pairs: number of compared copies.
    """

    case: Case
    document: Rollout
    decided_s: float
    canary: list[Outcome]
    stable: list[Outcome]
    pairs: int

    @property
    def right(self) -> bool:
        """Whether the rollout ended as it should, without failures that it does not explain."""
        ending = (str(self.document.outcome), self.document.code)
        held = ending != WITHHELD or self.withheld
        return ending in self.case.endings and held and not self.wrong

    @property
    def withheld(self) -> bool:
        """Whether the version lost its traffic because it was over a limit."""
        return self.document.withdrawn == "over-limit"

    @property
    def explained(self) -> list[Outcome]:
        """Failed requests of a broken version."""
        return [outcome for outcome in self.canary if outcome.cause] if self.case.fails_live else []

    @property
    def wrong(self) -> list[Outcome]:
        """Failed requests that no broken version explains."""
        own = [] if self.case.fails_live else self.canary
        return [outcome for outcome in (*own, *self.stable) if outcome.cause]

    @property
    def exposed_s(self) -> float | None:
        """Seconds from the new version's first failure to its last answer; None when no live request failed."""
        failed = [outcome.ended for outcome in self.canary if outcome.cause]
        return max(outcome.ended for outcome in self.canary) - min(failed) if failed else None

    def told(self) -> str:
        """The result in one line."""
        seen = f"{len(self.canary):,} requests" + (f", {self.pairs:,} pairs" if self.pairs else "")
        ended = f"{self.document.outcome} ({self.document.code}) after {self.decided_s:.1f} s, {seen}"
        why = "" if self.right else f"  WRONG: {self.document.text} {causes(self.wrong)}"
        return f"{self.case.kind.value}, {self.case.way.value}: {ended}{why}"


@dataclass
class Lane:
    """An endpoint, its versions, and its traffic."""

    cast: Cast
    traffic: Sums
    made: list[Made] = field(default_factory=list)

    @property
    def unexplained(self) -> list[Outcome]:
        """Failed requests that no broken version explains, between rollouts too."""
        explained = {id(outcome) for made in self.made for outcome in made.explained}
        return [outcome for outcome in self.traffic.failed if id(outcome) not in explained]

    async def run(self, client: Client, cases: deque[Case], told: Callable[[Made], None]) -> None:
        """Run rollouts until no case is left."""
        async with self.traffic.running():
            await self.traffic.wait_for(only(self.cast.stable))
            while cases:
                made = await self._make(client, cases.popleft())
                self.made.append(made)
                told(made)

    async def _make(self, client: Client, case: Case) -> Made:
        name, version, mark = self.cast.name, self.cast.version(case.kind), len(self.traffic.outcomes)
        after = await asyncio.to_thread(_newest_event, client)
        begun = await begin(client, name, version, case.plan())
        ended = await until(client, begun, is_over, "it is over")
        if ended.outcome == "promoted":
            if version == self.cast.spare:
                self.cast.promoted()
            else:  # a wrong decision, which is reported; the next rollout still begins with a healthy version
                await asyncio.to_thread(client.rollback, name)
        await self.traffic.wait_for(only(self.cast.stable), TIMEOUT_S)
        events = await asyncio.to_thread(_events_of, client, after, begun.id)
        seen = self.traffic.outcomes[mark:]
        pairs = max((each.samples for each in (ended.verdict.findings if ended.verdict else ())), default=0)
        return Made(
            case,
            ended,
            _decided_s(ended, events),
            [outcome for outcome in seen if outcome.version == version],
            [outcome for outcome in seen if outcome.version != version],
            pairs if case.way in (Way.SHADOW, Way.SHADOW_FIRST) else 0,
        )


async def make(client: Client, lanes: Sequence[Lane], cases: Iterable[Case], told: Callable[[Made], None]) -> list[Made]:
    """Run every case on a free lane; `told` is called with each finished rollout."""
    left = deque(cases)
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(lane.run(client, left, told))
    return [made for lane in lanes for made in lane.made]


def _newest_event(client: Client) -> int:
    number = 0
    while True:
        page = client.events(number)
        if not page.items:
            return number
        number = int(page.next)


def _events_of(client: Client, after: int, rollout: str) -> list[Event]:
    found: list[Event] = []
    while True:
        page = client.events(after)
        if not page.items:
            return found
        after = int(page.next)
        found += [event for event in page.items if event.detail.get("rollout") == rollout]


def _decided_s(document: Rollout, events: list[Event]) -> float:
    splits = [event for event in events if event.kind == _SPLIT]
    back = [event for event in splits[1:] if event.detail["share"] == 0]
    end = (back or [event for event in events if event.kind == _FINISHED])[-1]
    begun = splits[0].at if splits else document.started_at
    return (datetime.fromisoformat(end.at) - datetime.fromisoformat(begun)).total_seconds()
