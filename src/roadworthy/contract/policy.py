"""How an endpoint treats requests: a part of the snapshot, written by a person, checked by the control plane.

Bounds and choices hold for what a person writes. A gateway reads any policy that its control plane has accepted.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from roadworthy.contract.runners import AUTO, runner_names
from roadworthy.foundation.documents import Bounds, OneOf

FALLBACKS = ("version", "rule", "cached", "static")
INTEGER_UNITS = ("s", "ms", "us", "ns")
MOST_FALLBACKS = 8
_DAY_S = 86_400


class Batching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests that wait at the same time are joined into one run.

    Attributes:
        max_rows: rows of one joined run; 1 joins no requests. None: found by measuring, at most 1,024.
        max_wait_ms: how long the first request of a run may wait for others; 0 adds no wait.
    """

    max_rows: Annotated[int, Bounds(1, 10**6)] | None = None
    max_wait_ms: Annotated[float, Bounds(0, 60_000)] = 0.0


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the endpoint's versions execute.

    Attributes:
        where: the name of a kind of runner (`contract/runners.py`), such as "inline" in each worker or "process" in runner
            processes that all workers of a machine share; "auto" by measured cost and trust. Earlier releases execute in
            workers what names a kind of a plug-in.
        copies: runner processes of each version; None for as many as the measured cost requires.
        threads: threads of each native pool in a runner; None for one.
        memory_mb: a runner that grows beyond this is killed, and its version gets a crash; None for no bound.
        hang_s: a runner whose run lasts longer than this is killed; None for twice the endpoint's timeout, at least 10 s.
    """

    where: Annotated[str, OneOf((AUTO,), runner_names)] = AUTO
    copies: Annotated[int, Bounds(1, 256)] | None = None
    threads: Annotated[int, Bounds(1, 1_024)] | None = None
    memory_mb: Annotated[int, Bounds(1, 1 << 24)] | None = None
    hang_s: Annotated[float, Bounds(0.1, _DAY_S)] | None = None


class CachePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cache of answers to equal requests, separate for each caller unless shared, and never across versions.

    Attributes:
        ttl_s: how long a cached answer may be used.
        max_entries, max_bytes: bounds of one worker's cache of this endpoint; the least recently used entry is removed first.
        shared_between_callers: one entry for all keys instead of one for each key.
    """

    ttl_s: Annotated[float, Bounds(0.001, 366 * _DAY_S)] = 60.0
    max_entries: Annotated[int, Bounds(1, 10**7)] = 10_000
    max_bytes: Annotated[int, Bounds(1, 1 << 40)] = 64 << 20
    shared_between_callers: bool = False


class BreakerPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a failing or slow version gets no requests for a while. All workers of a machine share the state.

    Attributes:
        window_s: the period over which requests are counted.
        min_requests: with fewer in the window the breaker does not open.
        failure_rate: the breaker opens at this share of failures, 0 to 1.
        slow_ms: slower answers count as slow; None: slowness does not open the breaker. slow_rate: it opens at this share of
            slow answers.
        open_s: how long it stays open before it lets probes through. probes: this many successful probes close it, and one
            failure opens it again.
    """

    window_s: Annotated[float, Bounds(1, 3_600)] = 10.0
    min_requests: Annotated[int, Bounds(1, 10**9)] = 20
    failure_rate: Annotated[float, Bounds(0.001, 1)] = 0.5
    slow_ms: Annotated[float, Bounds(0.001, 1_000 * _DAY_S)] | None = None
    slow_rate: Annotated[float, Bounds(0.001, 1)] = 0.8
    open_s: Annotated[float, Bounds(0.1, _DAY_S)] = 5.0
    probes: Annotated[int, Bounds(1, 1_000)] = 3


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to answer when the chosen version cannot; an endpoint tries its fallbacks in order.

    Attributes:
        kind: "version" another version (`version`, or the previous one when that is None); "rule" the Python function `rule` of
            the version's package; "cached" the last good answer to an equal request, up to `max_age_s` old; "static"
            the fixed `value`.
        version: a reference such as "flights:2". The control plane resolves it to `digest`.
        rule: name of the function.
        max_age_s: the highest age of a cached answer.
        value: one prediction in JSON, repeated for each row.
    """

    kind: Annotated[str, OneOf(FALLBACKS)]
    version: str | None = None
    digest: str | None = None
    rule: str | None = None
    max_age_s: Annotated[float, Bounds(0, 366 * _DAY_S)] = 3_600.0
    value: Any = None


class Timestamps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How values of timestamp columns are interpreted.

    Attributes:
        integers: the unit of integers, one of INTEGER_UNITS; None refuses integers, because an integer has no unit.
    """

    integers: Annotated[str, OneOf(INTEGER_UNITS)] | None = None


class StreamPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Deadlines of answers in parts, besides the endpoint's `timeout_ms` for the whole.

    Attributes:
        first_part_ms: the time until the first part, after which the request gets 504; None for the whole time.
        between_ms: the time that the model may take from one part to the next; None for no bound but that of the whole.
    """

    first_part_ms: Annotated[int, Bounds(1, 1_000 * _DAY_S)] | None = None
    between_ms: Annotated[int, Bounds(1, 1_000 * _DAY_S)] | None = None


class Policy(msgspec.Struct, frozen=True):
    """How an endpoint treats requests.

    Attributes:
        max_body_bytes: largest request body, after decompression too.
        max_rows: most rows in one request.
        extra: "refuse" columns that the signature does not name, or "ignore" and count them.
        timeout_ms: the total time of a request, after which it gets 504; a caller's own deadline can only shorten it.
        max_in_flight: concurrent requests of this endpoint in one worker; further ones get 503.
        record: whether predictions are recorded.
        batching, placement, timestamps, stream: see their classes.
        cache, breaker: None switches them off.
        fallback: tried in this order; with an empty list the request fails.
        layers: layers of plug-ins by name, each with its parameters (`contract/layers.py`). Earlier releases ignore them.
    """

    max_body_bytes: Annotated[int, Bounds(1, 1 << 40)] = 16 << 20
    max_rows: Annotated[int, Bounds(1, 10**9)] = 10_000
    extra: Annotated[str, OneOf(("refuse", "ignore"))] = "refuse"
    timeout_ms: Annotated[int, Bounds(1, 1_000 * _DAY_S)] = 60_000
    max_in_flight: Annotated[int, Bounds(1, 10**6)] = 1_024
    record: bool = True
    batching: Batching = Batching()
    placement: Placement = Placement()
    timestamps: Timestamps = Timestamps()
    stream: StreamPolicy = StreamPolicy()
    cache: CachePolicy | None = None
    breaker: BreakerPolicy | None = None
    fallback: Annotated[tuple[Fallback, ...], Bounds(0, MOST_FALLBACKS)] = ()
    layers: dict[str, Any] = msgspec.field(default_factory=dict)
