"""What a worker gives the layers around a version: cells in the slab, counts, and fallback versions. `endpoint.py` passes them to
`runtime/layers/stack.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

from roadworthy.runtime.layers.breaker import OWNER, WIDTH
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest, Submitter
from roadworthy.schema.batch import Batch
from roadworthy.serving.metrics import BREAKER, CACHE, FALLBACK, BoundMetrics, WorkerMetrics


class LayerCounts:
    """Counts for the layers of one endpoint."""

    __slots__ = ("_endpoint", "_metrics")

    def __init__(self, metrics: WorkerMetrics, endpoint: str) -> None:
        self._metrics = metrics
        self._endpoint = endpoint

    def cached(self, result: str) -> None:
        """See `Counts`."""
        self._metrics.count(CACHE, self._endpoint, result)

    def fell_back(self, kind: str, reason: str) -> None:
        """See `Counts`."""
        self._metrics.count(FALLBACK, self._endpoint, kind, reason)


class BreakerCells:
    """A breaker's cells in the slab. Each variant of an endpoint has one run of cells, whichever version it is, so that many
    versions in a row need the same room as one. A mark in the run names the version that owns it."""

    def __init__(self, metrics: WorkerMetrics, endpoint: str, variant: int, owner: int) -> None:
        self._run, self._read = metrics.shared(BREAKER, endpoint, str(variant))
        self._owner = owner
        self._nowhere = [0] * WIDTH
        if self._run[OWNER] != owner:
            self._run[OWNER] = 0  # no owner while the rest is cleared
            for place in range(WIDTH):
                self._run[place] = 0
            self._run[OWNER] = owner

    @property
    def own(self) -> memoryview[int] | list[int]:
        """See `Cells`. Once another version owns the run, cells that no one reads."""
        return self._run if self._run[OWNER] == self._owner else self._nowhere

    def all_workers(self) -> Iterable[tuple[Sequence[int], bool]]:
        """See `Cells`."""
        return [(run, alive) for run, alive in self._read() if run[OWNER] == self._owner]


def owner_of(digest: str, window_s: float) -> int:
    """The mark of a version's breaker cells. It covers the window, since counts over another window are useless."""
    return int.from_bytes(blake2b(f"{digest} {window_s!r}".encode(), digest_size=7).digest(), "little") + 1


class FallbackVersion:
    """Another loaded version that answers instead of the chosen one. It holds a lease for each request.

    Args:
        version: the other version. metrics: its cells.
        by: the variant that answers name as their source.
        top: the version in the layers that surround it, or the version itself.
    """

    def __init__(self, version: Version, metrics: BoundMetrics, by: object, top: Submitter) -> None:
        self._version = version
        self._metrics = metrics
        self._by = by
        self._top = top

    def __repr__(self) -> str:
        return f"FallbackVersion({self._top!r})"

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """See `Submitter`. `request` must be one that is always settled.

        Raises:
            Unavailable: "version-unloading".
        """
        self._version.leases.take()
        self._metrics.in_flight.add(1)
        held = _Held(request, self._give_back, self._by)
        try:
            self._top.submit(batch, held)
        except BaseException:
            held.done = True
            self._give_back()
            raise

    def _give_back(self) -> None:
        self._metrics.in_flight.add(-1)
        self._version.leases.give_back()


class _Held(ForwardedRequest):
    """A request that holds a lease."""

    __slots__ = ("_by", "_give_back")

    def __init__(self, outer: PendingRequest, give_back: Callable[[], None], by: object) -> None:
        super().__init__(outer)
        self._give_back = give_back
        self._by = by

    def settled(self, outcome: Outcome) -> None:
        """Release the lease, of an answer in parts at its end, and forward the outcome."""
        if isinstance(outcome, Answer) and outcome.rest is not None:
            outcome.rest.watch(lambda _: self._give_back())
        else:
            self._give_back()
        self.outer.settle(outcome.noted((), by=self._by) if isinstance(outcome, Answer) else outcome)
