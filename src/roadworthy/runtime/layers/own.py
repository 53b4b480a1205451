"""Our own layers as `stack.py` finds them, by entry points like those of plug-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Fallback
from roadworthy.runtime.layers.breaker import Breaker
from roadworthy.runtime.layers.cache import Cache
from roadworthy.runtime.layers.fallback import CACHED, STATIC, Fallbacks, LastGood, OtherSubmitter, Static, Step
from roadworthy.runtime.layers.layer import LayerContext
from roadworthy.runtime.pending import Submitter


class FallbackLayer:
    """Answers in another way when the version cannot. Its rules are steps of it (`rules.py`)."""

    name = "fallback"
    interface = 1
    order = 100
    parameters = Fallback

    @staticmethod
    def wrap(below: Submitter, parameters: Sequence[Fallback], context: LayerContext) -> Submitter:
        """As in Layer; `parameters` are all fallbacks of the policy."""
        steps = [_step(fallback, context) for fallback in parameters]
        return Fallbacks(below, [step for step in steps if step is not None], context.counts.fell_back)


class CacheLayer:
    """Repeats answers to equal requests, and keeps the last good ones for the fallback "cached"."""

    name = "cache"
    interface = 1
    order = 200
    parameters = CachePolicy

    @staticmethod
    def wrap(below: Submitter, parameters: CachePolicy, context: LayerContext) -> Submitter:
        """As in Layer."""
        cache = Cache(below, context.answers_by, parameters, asyncio.get_running_loop(), context.counts.cached)
        if parameters.ttl_s > 0 and context.shared is not None:
            cache.share(context.shared)
        return cache


class BreakerLayer:
    """Stops asking a version that fails or is slow."""

    name = "breaker"
    interface = 1
    order = 300
    parameters = BreakerPolicy

    @staticmethod
    def wrap(below: Submitter, parameters: BreakerPolicy, context: LayerContext) -> Submitter:
        """As in Layer."""
        return Breaker(below, parameters, context.cells(parameters.window_s))


def _step(fallback: Fallback, context: LayerContext) -> Step | None:
    """The step of a fallback; None when it is not available here and now."""
    if fallback.kind == STATIC:
        return Static(context.outputs, fallback.value)
    if fallback.kind == CACHED:
        cache = context.inner.get("cache")
        return LastGood(cache, fallback.max_age_s) if isinstance(cache, Cache) else None
    found = context.find(fallback)
    return None if found is None else OtherSubmitter(fallback.kind, *found)
