"""Puts the layers that a policy asks for around a version, once, when an endpoint is bound. Printing the result shows the order.

fallback → cache → breaker → version. Where a policy asks for none of them the version itself is what is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from roadworthy.contract.policy import CachePolicy, Fallback, Policy
from roadworthy.runtime.layers.breaker import Breaker, Cells
from roadworthy.runtime.layers.cache import Cache, Shared
from roadworthy.runtime.layers.fallback import (
    CACHED,
    RULE,
    STATIC,
    VERSION,
    Fallbacks,
    LastGood,
    OtherSubmitter,
    Static,
    Step,
)
from roadworthy.runtime.pending import Submitter
from roadworthy.schema.batch import Layout
from roadworthy.schema.signature import Signature


class Counts(Protocol):
    """Where layers count what they do."""

    def cached(self, result: str) -> None:
        """A request came to a cache; `result` is one of those in `cache.py`."""
        ...

    def fell_back(self, kind: str, reason: str) -> None:
        """A request was answered by a fallback of that kind, or by none of them, for the error `reason`."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the layers of one version need from around them.

    Attributes:
        digest: of the version. signature: of the endpoint.
        loop: the event loop.
        counts: where they count.
        cells: the breaker's, for a window of so many seconds.
        stand_in: what answers for a fallback "version", and its name such as "flights:2"; None while it is not loaded.
        rule: what has the rule of that name run; None where the version's package has none, or may not run it.
        shared: answers of this version that other workers and machines were given; None where they are not shared.
    """

    digest: str
    signature: Signature
    loop: asyncio.AbstractEventLoop
    counts: Counts
    cells: Callable[[float], Cells]
    stand_in: Callable[[Fallback], tuple[str, Submitter] | None] = lambda _fallback: None
    rule: Callable[[str], Submitter | None] = lambda _name: None
    shared: Shared | None = None


def layered(below: Submitter, policy: Policy, parts: Parts) -> Submitter:
    """What an endpoint submits to.

    Args:
        below: the version.
        policy: of the endpoint.
        parts: see there.
    """
    top = below
    if policy.breaker is not None:
        top = Breaker(top, policy.breaker, parts.cells(policy.breaker.window_s))
    cache: Cache | None = None
    kept = policy.cache
    if kept is None and any(fallback.kind == CACHED for fallback in policy.fallback):
        kept = CachePolicy(ttl_s=0.0)
    if kept is not None:
        top = cache = Cache(top, parts.digest, kept, parts.loop, parts.counts.cached)
        if policy.cache is not None and parts.shared is not None:
            cache.share(parts.shared)
    if policy.fallback:
        steps = [step for fallback in policy.fallback if (step := _step(fallback, cache, parts)) is not None]
        top = Fallbacks(top, steps, parts.counts.fell_back)
    return top


def _step(fallback: Fallback, cache: Cache | None, parts: Parts) -> Step | None:
    """The step, or None for one that cannot be taken here and now."""
    if fallback.kind == STATIC:
        return Static(Layout(parts.signature.outputs), fallback.value)
    if fallback.kind == CACHED:
        return None if cache is None else LastGood(cache, fallback.max_age_s)
    if fallback.kind == RULE and fallback.rule is not None:
        rule = parts.rule(fallback.rule)
        return None if rule is None else OtherSubmitter(RULE, fallback.rule, rule)
    found = parts.stand_in(fallback) if fallback.kind == VERSION else None
    return None if found is None else OtherSubmitter(VERSION, *found)
