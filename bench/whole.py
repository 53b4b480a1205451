"""Whole rollouts through the product's own state machine, with traffic drawn at random and one look every ten seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from roadworthy.contract.evidence import CANARY, STABLE, ArmCount, RolloutCounts
from roadworthy.rollout.evidence import Evidence
from roadworthy.rollout.machine import advance, begin
from roadworthy.rollout.plan import Plan
from roadworthy.rollout.state import FINISHED, PROMOTED, READY, Finish, Moment, Observation, SetSplit, State

LOOK_S = 10.0
REQUESTS = 200
"""Of both versions between two looks: 20 a second."""
_CANARY_REQUESTS = ("errors", CANARY)


class Ending(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back as worse"
    DEADLINE = "rolled back at the deadline"


@dataclass(frozen=True, slots=True)
class Ended:
    """A rollout that is over: how, and after how many requests of the canary."""

    ending: Ending
    canary_requests: int


def rollouts(rng: np.random.Generator, plan: Plan, rates: tuple[float, float], runs: int) -> list[Ended]:
    """`runs` rollouts, each until it is over.

    Args:
        rates: of errors, the stable's and the canary's; 5 % of both are slow.
    """
    return [_one(rng, plan, rates) for _ in range(runs)]


def endings(rng: np.random.Generator, plan: Plan, rates: tuple[float, float], runs: int) -> Counter[Ending]:
    """How many of such rollouts ended how."""
    return Counter(each.ending for each in rollouts(rng, plan, rates, runs))


def _one(rng: np.random.Generator, plan: Plan, rates: tuple[float, float]) -> Ended:
    state, evidence, generation, now = begin("r", 1), Evidence(), 1, 0.0
    counts: dict[tuple[int, str, str], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    while state.phase != FINISHED:
        move = advance(plan, state, Observation(Moment("b", now), generation, generation, READY, READY), evidence)
        state, now = move.state, now + LOOK_S
        for action in move.actions:
            if isinstance(action, SetSplit):
                generation = action.generation
            elif isinstance(action, Finish):
                requests = sum(
                    int(cell[0]) for (_, signal, arm), cell in counts.items() if (signal, arm) == _CANARY_REQUESTS
                )
                return Ended(_ending(action, state), requests)
        evidence = evidence.merged("gateway/1", _counted(rng, counts, generation, state.weight / 10_000, rates))
    raise AssertionError("a rollout ended without saying how")


def _ending(action: Finish, state: State) -> Ending:
    if action.outcome == PROMOTED:
        return Ending.PROMOTED
    return Ending.DEADLINE if state.code == "deadline" else Ending.ROLLED_BACK


def _counted(
    rng: np.random.Generator,
    counts: dict[tuple[int, str, str], np.ndarray[tuple[int], np.dtype[np.int64]]],
    generation: int,
    share: float,
    rates: tuple[float, float],
) -> RolloutCounts:
    mine = int(rng.binomial(REQUESTS, share))
    for arm, requests, rate in ((STABLE, REQUESTS - mine, rates[0]), (CANARY, mine, rates[1])):
        for signal, bad in (("errors", rate), ("invalid_outputs", 0.0), ("slow", 0.05)):
            key = (generation, signal, arm)
            counts[key] = counts.get(key, np.zeros(2, np.int64)) + np.array([requests, rng.binomial(requests, bad)])
    cells = (ArmCount(*key, int(samples), int(bad)) for key, (samples, bad) in counts.items() if key[0] == generation)
    return RolloutCounts("r", tuple(cells))
