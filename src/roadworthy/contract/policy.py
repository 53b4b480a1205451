"""How an endpoint treats requests: a part of the snapshot, written by a person, checked by the control plane."""

from __future__ import annotations

from typing import Any

import msgspec

PLACES = ("auto", "inline", "process")
FALLBACKS = ("version", "rule", "cached", "static")
INTEGER_UNITS = ("s", "ms", "us", "ns")


class Batching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests that wait at the same moment are joined into one run.

    Attributes:
        max_rows: rows of one joined run; 1 joins none. None: found by measuring, 1,024 at most.
        max_wait_ms: how long the first of a run may wait for others; 0 adds no wait.
    """

    max_rows: int | None = None
    max_wait_ms: float = 0.0


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the endpoint's versions execute.

    Attributes:
        where: "inline" in each worker, "process" in runner processes that all workers of a machine share, "auto" by measured cost
            and trust.
        copies: runner processes a version, None for what the measured cost asks for.
        threads: bound of native thread pools in each, None for one a process.
        memory_mb: a runner that grows beyond this is ended and counted as a crash of its version; None for no bound.
        hang_s: a runner whose run lasts longer than this is ended; None for twice the endpoint's timeout, at least 10 s.
    """

    where: str = "auto"
    copies: int | None = None
    threads: int | None = None
    memory_mb: int | None = None
    hang_s: float | None = None


class CachePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers to equal requests are kept, for each caller apart, never across versions.

    Attributes:
        ttl_s: how long an answer may be given again.
        max_entries, max_bytes: bounds of one worker's cache of this endpoint; the least recently used goes first.
        shared_between_callers: one entry for all keys instead of one a key.
    """

    ttl_s: float = 60.0
    max_entries: int = 10_000
    max_bytes: int = 64 << 20
    shared_between_callers: bool = False


class BreakerPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a version that fails or is slow is not asked any more for a while. The state is one for all workers of a machine.

    Attributes:
        window_s: how far back is counted.
        min_requests: no verdict on fewer.
        failure_rate: opens at this share of failures, 0 to 1.
        slow_ms: what counts as slow; None: slowness does not open it. slow_rate: opens at this share of slow answers.
        open_s: how long it stays open before probes. probes: successful ones that close it, one failure opens it again.
    """

    window_s: float = 10.0
    min_requests: int = 20
    failure_rate: float = 0.5
    slow_ms: float | None = None
    slow_rate: float = 0.8
    open_s: float = 5.0
    probes: int = 3


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing to answer with when the chosen version cannot; tried in order.

    Attributes:
        kind: "version" another version (`version`, or the previous one when that is None); "rule" the Python function `rule` of
            the version's package; "cached" the last good answer to an equal request, however old up to `max_age_s`; "static"
            the fixed `value`.
        version: a reference such as "flights:2". The control plane resolves it to `digest`.
        rule: name of the function.
        max_age_s: of a cached answer.
        value: one prediction, JSON, given for each row.
    """

    kind: str
    version: str | None = None
    digest: str | None = None
    rule: str | None = None
    max_age_s: float = 3_600.0
    value: Any = None


class Timestamps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How values of timestamp columns are read.

    Attributes:
        integers: the unit of integers, one of INTEGER_UNITS; None refuses integers, since they do not tell their unit.
    """

    integers: str | None = None


class Policy(msgspec.Struct, frozen=True):
    """How an endpoint treats requests.

    Attributes:
        max_body_bytes: largest request body, after decompression too.
        max_rows: most rows in one request.
        extra: "refuse" columns that the signature does not name, or "ignore" them (counted).
        timeout_ms: how long a request may take in all before it is answered 504; a caller's own deadline may only shorten it.
        max_in_flight: requests of this endpoint that one worker holds at a time; more are refused with 503.
        record: whether predictions are recorded.
        batching, placement, timestamps: see there.
        cache, breaker: None for none.
        fallback: tried in this order; empty for a clear refusal.
    """

    max_body_bytes: int = 16 << 20
    max_rows: int = 10_000
    extra: str = "refuse"
    timeout_ms: int = 60_000
    max_in_flight: int = 1_024
    record: bool = True
    batching: Batching = Batching()
    placement: Placement = Placement()
    timestamps: Timestamps = Timestamps()
    cache: CachePolicy | None = None
    breaker: BreakerPolicy | None = None
    fallback: tuple[Fallback, ...] = ()
