"""What the layers around a version need of a worker: cells in the slab, counts, and versions that stand in. `endpoints.py` puts
them together with `runtime/layers/stack.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

from roadworthy.runtime.layers.breaker import OWNER, WIDTH
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest
from roadworthy.schema.batch import Batch
from roadworthy.serving.metrics import BREAKER, CACHE, FALLBACK, BoundMetrics, WorkerMetrics


class LayerCounts:
    """What the layers of one endpoint count."""

    __slots__ = ("_endpoint", "_metrics")

    def __init__(self, metrics: WorkerMetrics, endpoint: str) -> None:
        self._metrics = metrics
        self._endpoint = endpoint

    def cached(self, result: str) -> None:
        """As in `runtime/layers/stack.py`."""
        self._metrics.count(CACHE, self._endpoint, result)

    def fell_back(self, kind: str, reason: str) -> None:
        """As in `runtime/layers/stack.py`."""
        self._metrics.count(FALLBACK, self._endpoint, kind, reason)


class BreakerCells:
    """A breaker's cells in the slab: one run for each arm of an endpoint, whichever version is there, so that many versions
    take no more room than one. The run says whose it is."""

    def __init__(self, metrics: WorkerMetrics, endpoint: str, arm: int, owner: int) -> None:
        self._run, self._read = metrics.shared(BREAKER, endpoint, str(arm))
        self._owner = owner
        self._nowhere = [0] * WIDTH
        if self._run[OWNER] != owner:
            self._run[OWNER] = 0  # until all else is gone
            for place in range(WIDTH):
                self._run[place] = 0
            self._run[OWNER] = owner

    @property
    def own(self) -> memoryview[int] | list[int]:
        """As in Cells; once another version is here, numbers that nobody reads."""
        return self._run if self._run[OWNER] == self._owner else self._nowhere

    def all_workers(self) -> Iterable[tuple[Sequence[int], bool]]:
        """As in Cells."""
        return [(run, alive) for run, alive in self._read() if run[OWNER] == self._owner]


def owner_of(digest: str, window_s: float) -> int:
    """What the cells of a version's breaker are marked with: counts over another window are of no use."""
    return int.from_bytes(blake2b(f"{digest} {window_s!r}".encode(), digest_size=7).digest(), "little") + 1


class FallbackVersion:
    """Another loaded version that answers for the chosen one. A lease is held for each request.

    Args:
        version: that version. metrics: its cells.
        by: what the gateway knows it as.
    """

    def __init__(self, version: Version, metrics: BoundMetrics, by: object) -> None:
        self._version = version
        self._metrics = metrics
        self._by = by

    def __repr__(self) -> str:
        return f"FallbackVersion({self._version!r})"

    def submit(self, batch: Batch, ticket: PendingRequest) -> None:
        """As in Submitter; `ticket` must be one that is settled in any case.

        Raises:
            Unavailable: "version-unloading".
        """
        self._version.leases.take()
        self._metrics.in_flight.add(1)
        held = _Held(ticket, self._give_back, self._by)
        try:
            self._version.submit(batch, held)
        except BaseException:
            held.done = True
            self._give_back()
            raise

    def _give_back(self) -> None:
        self._metrics.in_flight.add(-1)
        self._version.leases.give_back()


class _Held(ForwardedRequest):
    """A request for which a lease is held."""

    __slots__ = ("_by", "_give_back")

    def __init__(self, outer: PendingRequest, give_back: Callable[[], None], by: object) -> None:
        super().__init__(outer)
        self._give_back = give_back
        self._by = by

    def settled(self, outcome: Outcome) -> None:
        """Give the lease back and hand the outcome on."""
        self._give_back()
        self.outer.settle(outcome.noted((), by=self._by) if isinstance(outcome, Answer) else outcome)
