"""Puts the layers of a policy around a version, once, when an endpoint is bound. The `repr` of the result shows the order.

fallback → cache → breaker → version. Without any layer the endpoint submits to the version itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from roadworthy.contract.policy import CachePolicy, Fallback, Policy
from roadworthy.runtime.layers.breaker import Breaker, Cells
from roadworthy.runtime.layers.cache import Cache, Shared
from roadworthy.runtime.layers.fallback import (
    CACHED,
    STATIC,
    Fallbacks,
    LastGood,
    OtherSubmitter,
    Static,
    Step,
)
from roadworthy.runtime.pending import Submitter
from roadworthy.schema.batch import Layout


class Counts(Protocol):
    """Where layers count what they do."""

    def cached(self, result: str) -> None:
        """Count a request that came to a cache; `result` is one of the results in `cache.py`."""
        ...

    def fell_back(self, kind: str, reason: str) -> None:
        """Count a request that a fallback of this kind, or none, answered after the error code `reason`."""
        ...


def layered(
    below: Submitter,
    policy: Policy,
    digest: str,
    outputs: Layout,
    *,
    counts: Counts,
    cells: Callable[[float], Cells],
    find: Callable[[Fallback], tuple[str, Submitter] | None] = lambda _fallback: None,
    shared: Shared | None = None,
) -> Submitter:
    """Put the layers of a policy around a version; returns what the endpoint submits to. Call it on the event loop.

    Args:
        below: the version.
        policy: of the endpoint.
        digest: of the version.
        outputs: of the endpoint's signature.
        counts: where the layers count what they do.
        cells: makes the breaker's cells, for a window in seconds.
        find: the name and the submitter of a fallback of kind "version" or "rule": "flights:2", or the rule's name. None when it
            is not loaded, does not exist, or may not execute.
        shared: answers of this version from other workers and machines; None when they are not shared.
    """
    top = below
    if policy.breaker is not None:
        top = Breaker(top, policy.breaker, cells(policy.breaker.window_s))
    cache: Cache | None = None
    kept = policy.cache
    if kept is None and any(fallback.kind == CACHED for fallback in policy.fallback):
        kept = CachePolicy(ttl_s=0.0)
    if kept is not None:
        top = cache = Cache(top, digest, kept, asyncio.get_running_loop(), counts.cached)
        if policy.cache is not None and shared is not None:
            cache.share(shared)
    if policy.fallback:
        steps = [_step(fallback, cache, outputs, find) for fallback in policy.fallback]
        top = Fallbacks(top, [step for step in steps if step is not None], counts.fell_back)
    return top


def _step(
    fallback: Fallback,
    cache: Cache | None,
    outputs: Layout,
    find: Callable[[Fallback], tuple[str, Submitter] | None],
) -> Step | None:
    """The step of a fallback; None when it is not available here and now."""
    if fallback.kind == STATIC:
        return Static(outputs, fallback.value)
    if fallback.kind == CACHED:
        return None if cache is None else LastGood(cache, fallback.max_age_s)
    found = find(fallback)
    return None if found is None else OtherSubmitter(fallback.kind, *found)
