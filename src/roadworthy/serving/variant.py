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
    """One version of an endpoint's split, ready to answer.

    Attributes:
        version: the loaded package.
        model, number: its name and version number in the registry.
        metrics: its cells.
        head: headers that name it in each answer, as the edge writes them.
        submit: takes a batch and its pending request, through the layers of the endpoint's policy.
    """

    version: Version
    model: str
    number: int
    metrics: BoundMetrics
    head: bytes
    submit: Callable[[Batch, PendingRequest], None]
