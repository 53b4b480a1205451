"""What gateways count for a rollout: the wire types of evidence.

What may be counted was settled before: a request is eligible when it was admitted, is a first attempt and would not have been
answered by a cache, which is decided before its arm is drawn; what was shed, refused by a breaker, answered by a fallback or
retried comes as `Excluded` and is never a bad event. All counts are those since the gateway's boot and only grow.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST = (1 << 53) - 1
"""The greatest count: every reader of JSON has it exactly, and the sum of a thousand still fits a database's integer."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
WHOLE = "^[^\\x00]*$"
"""Databases take no NUL."""
Name = Annotated[str, msgspec.Meta(max_length=64, pattern=WHOLE)]
Signal = Annotated[str, msgspec.Meta(max_length=80, pattern=WHOLE)]
"""A guard's, "custom." and a name among them, or a watched metric's."""
STABLE, CANARY = "stable", "canary"
VARIANTS = (STABLE, CANARY)
EXCLUDED = ("shed", "breaker", "fallback", "retried", "cached")
CONFIDENCE = "watched.confidence"
"""The metric that has how sure answers are, 0 to 1. No metric of a plan can have this name."""
COUNTERS = "watched.counters"
"""The metric whose number of values says how many workers count users in a sticky rollout: as often may one user be counted."""
OUTPUT_BINS = 32
"""Cells of an output's bins, so that all fit one width: the answers of a bin each, the last for null or NaN. Outputs with fewer
bins leave those between empty."""
DRAWN = "drawn"
"""No signal of a plan: its samples are the first attempts for which an arm was drawn, whatever came of them, so also those that
are no evidence but for being retried. Whether the arms have their shares is told by these alone."""


class VariantCount(msgspec.Struct, frozen=True):
    """Eligible outcomes of one arm, since the source began: how many, and how many of them were bad."""

    generation: Count
    signal: Signal
    arm: Name
    samples: Count
    bad: Count


class EventCount(msgspec.Struct, frozen=True):
    """Bad events of one arm, since the source began, of requests that other sources count as samples of the signal."""

    generation: Count
    signal: Signal
    arm: Name
    bad: Count


class PairCount(msgspec.Struct, frozen=True):
    """Shadowed requests, since the source began: how many had both answers, and for how many exactly one side was bad.

    For the signal "disagreement" `canary_bad` counts the pairs that differ.
    """

    generation: Count
    signal: Signal
    pairs: Count
    canary_bad: Count
    stable_bad: Count = 0


class BadUnit(msgspec.Struct, frozen=True):
    """A user (session, …) of a sticky rollout that had a bad event: a hash of the rollout's id and the unit, as text."""

    generation: Count
    signal: Signal
    arm: Name
    unit: Name


class MetricCount(msgspec.Struct, frozen=True):
    """Values of an A/B test's metric in one arm, since the source began: how many, and their sum."""

    generation: Count
    metric: Signal
    arm: Name
    values: Count
    total: float


class BinCount(msgspec.Struct, frozen=True):
    """Answers of one arm by the bin that a value of theirs is in, since the source began: one count for each of OUTPUT_BINS.

    `output` is the place of the output among those that the rollout watches, from 0.
    """

    generation: Count
    output: Count
    arm: Name
    cells: tuple[Count, ...]


class Excluded(msgspec.Struct, frozen=True):
    """What is no evidence, since the source began, and why: one of EXCLUDED."""

    generation: Count
    arm: Name
    reason: Name
    count: Count


class RolloutCounts(msgspec.Struct, frozen=True):
    """All that one life of a gateway knows of a rollout, as a telemetry frame tells it.

    Attributes:
        rollout: its id.
        units: in a frame, those that no frame before it has brought, at least: a user with a bad event stays one.
        overflow: it met more units than it can keep apart.
        crashes: processes that the rollout's canary crashed.
    """

    rollout: Name
    arms: tuple[VariantCount, ...] = ()
    pairs: tuple[PairCount, ...] = ()
    units: tuple[BadUnit, ...] = ()
    metrics: tuple[MetricCount, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    overflow: bool = False
    crashes: Count = 0
    bins: tuple[BinCount, ...] = ()
    events: tuple[EventCount, ...] = ()
