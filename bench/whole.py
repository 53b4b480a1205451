"""Simulates whole rollouts with the product's own state machine and random traffic."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from roadworthy.contract.evidence import CANARY, STABLE, RolloutCounts, VariantCount
from roadworthy.rollout.decide.machine import advance, begin
from roadworthy.rollout.decide.state import (
    FINISHED,
    INCONCLUSIVE,
    PROMOTED,
    READY,
    Finish,
    Moment,
    Observation,
    SetSplit,
    State,
)
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Plan

_CANARY_REQUESTS = ("errors", CANARY)


class Ending(StrEnum):
    """The endings of a rollout."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back as worse"
    HELD = "held over a limit until the deadline"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of bad requests of the stable and the canary."""

    errors: tuple[float, float]
    slow: tuple[float, float] = (0.05, 0.05)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The request rate of both versions together, and the controller's looks. It looks every second; the simulation looks less
    often, which only delays decisions."""

    per_s: float = 20.0
    look_s: float = 10.0


USUAL = Traffic()


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished rollout: its ending, and the number of canary requests."""

    ending: Ending
    canary_requests: int


def rollouts(rng: np.random.Generator, plan: Plan, rates: Rates, runs: int, traffic: Traffic = USUAL) -> list[Ended]:
    """Simulate `runs` rollouts to their end."""
    return [_one(rng, plan, rates, traffic) for _ in range(runs)]


def endings(rng: np.random.Generator, plan: Plan, rates: Rates, runs: int, traffic: Traffic = USUAL) -> Counter[Ending]:
    """The number of rollouts by ending."""
    return Counter(each.ending for each in rollouts(rng, plan, rates, runs, traffic))


def _one(rng: np.random.Generator, plan: Plan, rates: Rates, traffic: Traffic) -> Ended:
    state, evidence, generation, now = begin("r", 1), Evidence(), 1, 0.0
    counts: dict[tuple[int, str, str], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    while state.phase != FINISHED:
        move = advance(plan, state, Observation(Moment("b", now), generation, generation, READY, READY), evidence)
        state, now = move.state, now + traffic.look_s
        for action in move.actions:
            if isinstance(action, SetSplit):
                generation = action.generation
            elif isinstance(action, Finish):
                requests = sum(
                    int(cell[0]) for (_, signal, variant), cell in counts.items() if (signal, variant) == _CANARY_REQUESTS
                )
                return Ended(_ending(action, state), requests)
        requests = int(rng.poisson(traffic.per_s * traffic.look_s))
        found = _counted(rng, counts, generation, (requests, state.weight / 10_000), rates)
        evidence = evidence.merged("gateway/1", found)
    raise AssertionError("a rollout ended without saying how")


def _ending(action: Finish, state: State) -> Ending:
    if action.outcome == PROMOTED:
        return Ending.PROMOTED
    if action.outcome == INCONCLUSIVE:
        return Ending.INCONCLUSIVE
    return Ending.HELD if state.code == "deadline" else Ending.ROLLED_BACK


def _counted(
    rng: np.random.Generator,
    counts: dict[tuple[int, str, str], np.ndarray[tuple[int], np.dtype[np.int64]]],
    generation: int,
    asked: tuple[int, float],
    rates: Rates,
) -> RolloutCounts:
    """The gateways' counts after `more` additional requests at a share."""
    mine = int(rng.binomial(*asked))
    for variant, requests, place in ((STABLE, asked[0] - mine, 0), (CANARY, mine, 1)):
        for signal, bad in (("errors", rates.errors[place]), ("invalid_outputs", 0.0), ("slow", rates.slow[place])):
            key = (generation, signal, variant)
            counts[key] = counts.get(key, np.zeros(2, np.int64)) + np.array([requests, rng.binomial(requests, bad)])
    cells = (VariantCount(*key, int(samples), int(bad)) for key, (samples, bad) in counts.items() if key[0] == generation)
    return RolloutCounts("r", tuple(cells))
