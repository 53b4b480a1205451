"""A version as one endpoint serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import PendingRequest
from roadworthy.schema.batch import Batch
from roadworthy.serving.metrics import BoundMetrics


@dataclass(frozen=True, slots=True)
class Variant:
    """One side of an endpoint's split, ready to answer.

    Attributes:
        version: the loaded package.
        model, number: its name in the registry.
        metrics: its cells.
        head: what the edge says of it in each answer.
        submit: takes a batch and its ticket, through the layers that the endpoint's policy asks for.
    """

    version: Version
    model: str
    number: int
    metrics: BoundMetrics
    head: bytes
    submit: Callable[[Batch, PendingRequest], None]
