"""The cases: which version is rolled out with which plan, and the endings that are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from bench.real.models import USER_HEADER, Kind

HOLD_S = 2
DEADLINE_S = 60
SOON_S = 15
WITHHELD = ("rolled-back", "deadline")
"""The ending of a version that lost its traffic because it was over a limit, without a person's decision."""


class Way(StrEnum):
    """The short names of plans."""

    CANARY = "canary"
    STICKY = "canary by user"
    SHADOW_FIRST = "shadow, then canary"
    SHADOW = "shadow"
    BLUE_GREEN = "blue-green"
    AT_ONCE = "all-at-once"


@dataclass(frozen=True, slots=True)
class Case:
    """A rollout to run."""

    kind: Kind
    way: Way

    def plan(self) -> Mapping[str, Any]:
        """The plan in the form for `roadworthy rollout start -f`."""
        # A tenth of a step's requests fail. Out of 300, copies included, that suffices but once in 100,000s of runs.
        evidence = 300 if self.kind is Kind.FAILING_IN_PART else 50
        steps = [
            {"share": 25, "hold": HOLD_S, "evidence": evidence},
            {"share": 60, "hold": HOLD_S, "evidence": evidence},
            100,
        ]
        criteria = ["errors", "invalid_outputs", "slow"]
        deadline = SOON_S if WITHHELD in self.endings else DEADLINE_S
        canary: dict[str, Any] = {
            "strategy": "canary", "steps": steps, "hold": HOLD_S, "evidence": evidence, "criteria": criteria, "deadline": deadline
        }  # fmt: skip
        if self.way is Way.CANARY:
            return canary
        if self.way is Way.STICKY:
            return {**canary, "sticky": {"header": USER_HEADER}}
        if self.way is Way.SHADOW_FIRST:
            copied = {"shadow": 100, "hold": HOLD_S, "evidence": evidence}
            return {**canary, "steps": [copied, *steps], "criteria": [*criteria, "disagreement"]}
        if self.way is Way.SHADOW:
            told = {"strategy": "shadow", "hold": HOLD_S, "evidence": evidence, "deadline": DEADLINE_S}
            return {**told, "criteria": [*criteria, "disagreement"]}
        if self.way is Way.BLUE_GREEN:
            return {
                "strategy": "blue-green",
                "bake": HOLD_S,
                "evidence": evidence,
                "criteria": criteria,
                "deadline": deadline,
            }
        return {"strategy": "all-at-once"}

    @property
    def fails_live(self) -> bool:
        """Whether live requests may fail at the new version; not if it is healthy, never loaded, or gets copies only."""
        return self.kind not in (Kind.GOOD, Kind.UNLOADABLE, Kind.DISAGREEING) and self.way is not Way.SHADOW_FIRST

    @property
    def endings(self) -> frozenset[tuple[str, str]]:
        """The right outcomes, with their codes."""
        if self.kind is Kind.GOOD:
            return frozenset({("completed", "completed") if self.way is Way.SHADOW else ("promoted", "promoting")})
        if self.kind is Kind.UNLOADABLE:
            return frozenset({("not-started", "load-failed")})
        if self.kind is Kind.CRASHING:
            return frozenset({("rolled-back", "crash-limit"), ("rolled-back", "not-loadable")})
        # At 100 % no stable traffic is left to compare with: a version over the limit loses its traffic.
        return frozenset({WITHHELD if self.way is Way.BLUE_GREEN else ("rolled-back", "worse")})


_TABLE: dict[Kind, dict[Way, int]] = {
    Kind.GOOD: {Way.CANARY: 5, Way.STICKY: 3, Way.SHADOW_FIRST: 3, Way.SHADOW: 1, Way.BLUE_GREEN: 2, Way.AT_ONCE: 2},
    Kind.FAILING: {Way.CANARY: 4, Way.STICKY: 2, Way.SHADOW_FIRST: 1, Way.BLUE_GREEN: 2},
    Kind.FAILING_IN_PART: {Way.CANARY: 3, Way.STICKY: 2, Way.SHADOW_FIRST: 1},
    Kind.SLOW: {Way.CANARY: 3, Way.STICKY: 2, Way.SHADOW_FIRST: 1},
    Kind.WRONG_OUTPUT: {Way.CANARY: 3, Way.STICKY: 1, Way.SHADOW_FIRST: 1, Way.BLUE_GREEN: 1},
    Kind.CRASHING: {Way.CANARY: 3, Way.STICKY: 1, Way.BLUE_GREEN: 1},
    Kind.DISAGREEING: {Way.SHADOW_FIRST: 3, Way.SHADOW: 2},
    Kind.UNLOADABLE: {Way.CANARY: 2, Way.BLUE_GREEN: 1},
}
"""How often each case runs in the whole benchmark."""
ALL = tuple(Case(kind, way) for kind, ways in _TABLE.items() for way, times in ways.items() for _ in range(times))


def drawn(rng: np.random.Generator, count: int) -> list[Case]:
    """`count` cases, ALL repeated as needed, in random order."""
    found: list[Case] = []
    while len(found) < count:
        found += [ALL[number] for number in rng.permutation(len(ALL))]
    return found[:count]
