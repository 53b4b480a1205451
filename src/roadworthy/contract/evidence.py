"""The counts that gateways make for a rollout: the wire types of evidence.

Eligibility is decided before the variant is assigned: a request counts if it was admitted, is a first attempt, and would not have
been answered by a cache. Requests that were shed, refused by a breaker, answered by a fallback or retried arrive as `Excluded`
and are never bad events. All counts are since the gateway's boot and only grow. On the wire `variant` is called `arm`,
so that gateways of the previous release are understood.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST = (1 << 53) - 1
"""The largest count: every JSON reader represents it exactly, and the sum of a thousand still fits a database's integer."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
WHOLE = "^[^\\x00]*$"
"""Databases do not accept NUL."""
Name = Annotated[str, msgspec.Meta(max_length=64, pattern=WHOLE)]
Signal = Annotated[str, msgspec.Meta(max_length=80, pattern=WHOLE)]
"""A criterion's signal, including "custom." and a name, or a watched metric's."""
COUNTED_BEFORE = ("disagreement", "errors", "invalid_outputs", "slow")
"""The signals that gateways counted in outcomes when they did not yet report it."""
STABLE, CANARY = "stable", "canary"
VARIANTS = (STABLE, CANARY)
EXCLUDED = ("shed", "breaker", "fallback", "retried", "cached")
CONFIDENCE = "watched.confidence"
"""The metric of the answers' confidence, 0 to 1. No metric of a plan can have this name."""
COUNTERS = "watched.counters"
"""The metric whose number of values is the number of workers that count users in a sticky rollout: each may count a user once."""
OUTPUT_BINS = 32
"""Cells of an output's bins, the same number for every output. One cell for each bin, the last for null or NaN; with fewer bins
the cells in between stay empty."""
DRAWN = "drawn"
"""Not a signal of a plan: its samples are all first attempts that were assigned a variant, whatever their outcome, including
those that are otherwise excluded. Only these show whether the variants get their shares."""

FAILED = "failed."
"""Not a signal of a plan either: with a signal's name, it counts how often the signal raised an error and was counted no more.
Unlike a worker's report, counts outlive the worker."""


class VariantCount(msgspec.Struct, frozen=True):
    """Eligible outcomes of one variant since the source began: their number, and the number of bad ones."""

    generation: Count
    signal: Signal
    variant: Name = msgspec.field(name="arm")
    samples: Count
    bad: Count


class EventCount(msgspec.Struct, frozen=True):
    """Bad events of one variant since the source began, for requests that other sources count as samples of the signal."""

    generation: Count
    signal: Signal
    variant: Name = msgspec.field(name="arm")
    bad: Count


class PairCount(msgspec.Struct, frozen=True):
    """Shadowed requests since the source began: the number with both answers, and those in which exactly one version was bad.

    For the signal "disagreement" `canary_bad` counts the pairs that differ.
    """

    generation: Count
    signal: Signal
    pairs: Count
    canary_bad: Count
    stable_bad: Count = 0


class BadUnit(msgspec.Struct, frozen=True):
    """A user (session, …) of a sticky rollout with a bad event: a hash of the rollout's id and the unit, as text."""

    generation: Count
    signal: Signal
    variant: Name = msgspec.field(name="arm")
    unit: Name


class MetricCount(msgspec.Struct, frozen=True):
    """Values of an A/B test's metric for one variant since the source began: their number and their sum."""

    generation: Count
    metric: Signal
    variant: Name = msgspec.field(name="arm")
    values: Count
    total: float


class BinCount(msgspec.Struct, frozen=True):
    """Answers of one variant by bin since the source began: one count for each of OUTPUT_BINS.

    `output` is the index of the output among those that the rollout watches, from 0. Where `signal` is not empty, the bins are
    that signal's, and `output` is 0.
    """

    generation: Count
    output: Count
    variant: Name = msgspec.field(name="arm")
    cells: tuple[Count, ...]
    signal: Signal = ""


class Excluded(msgspec.Struct, frozen=True):
    """Requests that are not evidence since the source began, and why: one of EXCLUDED."""

    generation: Count
    variant: Name = msgspec.field(name="arm")
    reason: Name
    count: Count


class RolloutCounts(msgspec.Struct, frozen=True):
    """Everything that one life of a gateway has counted for a rollout, as in a telemetry frame.

    Attributes:
        rollout: its id.
        units: in a frame, at least those that no earlier frame has brought: a user with a bad event stays one.
        overflow: the gateway met more units than it can keep.
        crashes: processes that the rollout's canary crashed.
    """

    rollout: Name
    variants: tuple[VariantCount, ...] = msgspec.field(default=(), name="arms")
    pairs: tuple[PairCount, ...] = ()
    units: tuple[BadUnit, ...] = ()
    metrics: tuple[MetricCount, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    overflow: bool = False
    crashes: Count = 0
    bins: tuple[BinCount, ...] = ()
    events: tuple[EventCount, ...] = ()
