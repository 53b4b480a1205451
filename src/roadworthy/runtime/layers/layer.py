"""The interface of layers: ours, and those of plug-ins. `stack.py` puts them around a version."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol, cast

import msgspec

from roadworthy.contract.layers import LayerDeclaration
from roadworthy.contract.policy import Fallback
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.runtime.layers.breaker import Cells
from roadworthy.runtime.layers.cache import Shared
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest, Submitter
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.signature import Signature

LAYER_FAILED = "layer-failed"
LATE_S = 1.0
"""Seconds after its deadline at which a request fails that a layer of a plug-in has not settled. A rule may take 0.1 of them."""

_log = logging.getLogger(__name__)


class Counts(Protocol):
    """Where layers count what they do."""

    def cached(self, result: str) -> None:
        """Count a request that came to a cache; `result` is one of the results in `cache.py`."""
        ...

    def fell_back(self, kind: str, reason: str) -> None:
        """Count a request that a fallback of this kind, or none, answered after the error code `reason`."""
        ...


@dataclass(frozen=True, slots=True)
class LayerContext:
    """What a layer is put around, and what a worker gives it.

    Attributes:
        digest: of the version.
        signature: of the endpoint.
        counts: where the layers count what they do.
        cells: makes the breaker's cells, for a window in seconds.
        find: the name and the submitter of a fallback of kind "version" or "rule": "flights:2", or the rule's name. None when it
            is not loaded, does not exist, or may not execute.
        shared: answers of this version from other workers and machines; None when they are not shared.
        inner: the layers that are further in, by name.
        changing: those of them that plug-ins provide, as `stack.py` names them with their parameters. Answers depend on them.
    """

    digest: str
    signature: Signature
    counts: Counts
    cells: Callable[[float], Cells]
    find: Callable[[Fallback], tuple[str, Submitter] | None] = lambda _fallback: None
    shared: Shared | None = None
    inner: dict[str, Submitter] = field(default_factory=dict)
    changing: list[bytes] = field(default_factory=list)

    @property
    def answers_by(self) -> str:
        """What answers from this place depend on besides rows and caller, the same in every process: the version, and the layers
        of plug-ins between this place and the version."""
        if not self.changing:
            return self.digest
        parts = (*self.changing, msgspec.json.encode(self.signature.to_document(), order="sorted"))
        return f"{self.digest} {blake2b(b''.join(b'%d %b' % (len(part), part) for part in parts)).hexdigest()}"

    @property
    def outputs(self) -> Layout:
        """The layout of answers."""
        return Layout(self.signature.outputs)


class Layer(LayerDeclaration, Protocol):
    """One kind of layer. Named by an entry point of the group `roadworthy.layers`."""

    def wrap(self, below: Submitter, parameters: Any, context: LayerContext) -> Submitter:
        """Put the layer around `below`. Called on the event loop, for each endpoint and version when the endpoint is bound.

        What it returns settles every request that it gets exactly once, by its deadline, and neither waits nor blocks. It never
        writes to a batch or an answer that it was given.
        """
        ...


class ChangedAnswers:
    """A layer that gives each answer to a function, which returns the same answer or another one. Errors pass.

    Args:
        change: must not write to the answer's arrays, which other requests may share. A RoadworthyError that it raises is the
            outcome; anything else that it raises becomes the error "layer-failed".
    """

    def __init__(self, below: Submitter, change: Callable[[Answer], Answer]) -> None:
        self._below = below
        self._change = change

    def __repr__(self) -> str:
        return f"ChangedAnswers({self._change!r}) -> {self._below!r}"

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        self._below.submit(batch, _Changed(request, self._change))


class _Changed(ForwardedRequest):
    __slots__ = ("_change",)

    def __init__(self, outer: PendingRequest, change: Callable[[Answer], Answer]) -> None:
        super().__init__(outer)
        self._change = change

    def settled(self, outcome: Outcome) -> None:
        """Change an answer, and pass the outcome on."""
        if isinstance(outcome, Answer):
            try:
                outcome = self._change(outcome)
            except RoadworthyError as error:
                outcome = error
        self.outer.settle(outcome)


class _Side:
    """Stands on one side of a layer of a plug-in, and passes requests on."""

    def __init__(self, below: Submitter, layer: str) -> None:
        self._below = below
        self._layer = layer

    def __repr__(self) -> str:
        return repr(self._below)


class Fence(_Side):
    """Stands below a layer of a plug-in. When the layer raises while it takes an outcome, only its own request fails: the version
    is settling others at that moment."""

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        self._below.submit(batch, _Fenced(request, self._layer))


class _Fenced(ForwardedRequest):
    __slots__ = ("_layer",)

    def __init__(self, outer: PendingRequest, layer: str) -> None:
        super().__init__(outer)
        self._layer = layer

    def settled(self, outcome: Outcome) -> None:
        """Pass the outcome on; when that fails, settle the first request of the layer that still waits."""
        try:
            self.outer.settle(outcome)
        except Exception:  # noqa: BLE001 - the layer is another distribution's, and may raise anything
            _log.exception("layer %s failed to take an outcome", self._layer)
            given = self.outer
            while given.done and isinstance(given, ForwardedRequest) and not isinstance(given, _Given):
                given = given.outer
            given.settle(layer_failed(self._layer))


class Taken(_Side):
    """Stands above a layer of a plug-in. What the layer raises while it takes a request is the outcome of that request, also of a
    mirrored one. A request that the layer does not settle by its deadline, or settles with no outcome, fails: nothing further out
    would end it."""

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        given = _Given(request, self._layer)
        try:
            self._below.submit(batch, given)
        except RoadworthyError as error:
            given.settle(error)
        except Exception:  # noqa: BLE001 - the layer is another distribution's, and may raise anything
            _log.exception("layer %s failed to take a request", self._layer)
            given.settle(layer_failed(self._layer))
        if not given.done:
            given.watch()


class _Given(ForwardedRequest):
    """The request that a layer of a plug-in is given."""

    __slots__ = ("_alarm", "_layer")

    def __init__(self, outer: PendingRequest, layer: str) -> None:
        super().__init__(outer)
        self._layer = layer
        self._alarm: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Look again soon after the deadline, which may have moved by then."""
        left_s = self.deadline + LATE_S - time.monotonic()
        self._alarm = asyncio.get_running_loop().call_later(max(left_s, 0.0), self._look)

    def settled(self, outcome: Outcome) -> None:
        """Pass the outcome on."""
        if self._alarm is not None:
            self._alarm.cancel()
        if not isinstance(cast("object", outcome), Answer | RoadworthyError):  # another distribution made it
            _log.error("layer %s settled a request with %.200r, which is no outcome", self._layer, outcome)
            outcome = layer_failed(self._layer)
        self.outer.settle(outcome)

    def _look(self) -> None:
        if self.done:
            return
        if time.monotonic() < self.deadline + LATE_S:
            self.watch()
        else:
            _log.error("layer %s did not settle a request by its deadline", self._layer)
            self.settle(layer_failed(self._layer))


def layer_failed(name: str) -> RoadworthyError:
    """The error of a request whose layer failed."""
    return RoadworthyError(
        f"the layer {name} of this endpoint failed",
        code=LAYER_FAILED,
        hint="report it with the request id; the gateway's log has the details",
    )
