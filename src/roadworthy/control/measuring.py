"""What a plan's signals can be measured by on an endpoint, settled once before the rollout begins, and which nobody can measure.

`verbs/rollouts.py` asks. A rollout that waited for a signal nobody counts would wait for ever, so `preflight.py` refuses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from roadworthy.contract.evidence import OUTPUT_BINS
from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.contract.telemetry import READY, WorkerReport
from roadworthy.foundation.errors import NotFound, PackageInvalid
from roadworthy.package.archive import open_profile
from roadworthy.registry.versions import Version
from roadworthy.rollout.plan import Plan
from roadworthy.schema.signature import Signature
from roadworthy.statistics.bins import CategoryBins, NumberBins, bins_from_document
from roadworthy.store.blobs import BlobStore, package_blob

NOBODY: Mapping[str, str] = {"guard_hits": "endpoints have no guards on inputs and outputs in this release"}
"""Signals that nothing counts on any endpoint yet, and why."""
MOST_OUTPUTS = 4
"""Outputs that drift is counted of: each takes 64 cells of a worker's slot in every generation."""
_MOST_CATEGORIES = OUTPUT_BINS - 2
_MOST_EDGES = OUTPUT_BINS - 2
_PROBABILITIES = "probabilities"


class Measures(NamedTuple):
    """`outputs` and `probabilities` as in `RolloutEntry`; by signal, why it cannot be measured."""

    outputs: tuple[WatchedOutput, ...]
    probabilities: str | None
    missing: dict[str, str]


def measures(plan: Plan, stable: Version, blobs: BlobStore, workers: Sequence[WorkerReport]) -> Measures:
    """How the plan's signals are measured beside this stable."""
    watched = {watch.signal for watch in plan.watches}
    missing = dict(NOBODY)
    probabilities, outputs = None, tuple[WatchedOutput, ...]()
    signature = Signature.from_document(stable.signature)
    if "confidence" in watched:
        probabilities = _probabilities(signature)
        if probabilities is None:
            missing["confidence"] = f"its answers have no output {_PROBABILITIES} with one number for each class"
    if "drift" in watched:
        outputs = tuple(_outputs(signature, stable, blobs))
        if not outputs:
            missing["drift"] = f"the profile of {stable.reference} has bins for none of its outputs"
    if "resources" in watched and _runs_inline(stable.digest, workers):
        missing["resources"] = (
            f"{stable.reference} runs in the workers, whose memory is that of all versions; give the endpoint the policy"
            " placement.where=process"
        )
    return Measures(outputs, probabilities, missing)


def _probabilities(signature: Signature) -> str | None:
    for field in signature.outputs:
        if field.name == _PROBABILITIES and field.dtype.is_float and len(field.shape) == 1 and field.shape[0] > 1:
            return field.name
    return None


def _outputs(signature: Signature, stable: Version, blobs: BlobStore) -> Iterable[WatchedOutput]:
    """The outputs that the training profile has bins for, in the signature's order: plain ones, and the numbers of a tensor where
    nothing else is answered."""
    try:
        with blobs.open(package_blob(stable.digest)) as stored:
            documents = open_profile(stored).get("outputs", ())
    except (NotFound, PackageInvalid):
        return
    known: dict[str, tuple[str, int | None]] = {
        field.name: (field.name, None) for field in signature.outputs if not field.shape
    }
    if not known:
        known = {
            f"{field.name}[{place}]": (field.name, place)
            for field in signature.outputs
            if len(field.shape) == 1
            for place in range(min(field.shape[0], MOST_OUTPUTS))
        }
    found = [output for document in documents if (output := _watched(document, known)) is not None]
    yield from found[:MOST_OUTPUTS]


def _watched(document: Mapping[str, Any], known: Mapping[str, tuple[str, int | None]]) -> WatchedOutput | None:
    """An output as gateways count it; None for one of which only presence is known. Whoever sealed the package may have written
    anything."""
    try:
        name, place = known[document["name"]]
        bins = bins_from_document(document["bins"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if isinstance(bins, CategoryBins):
        return WatchedOutput(name, place, categories=bins.categories[:_MOST_CATEGORIES])
    if isinstance(bins, NumberBins) and bins.edges:
        return WatchedOutput(name, place, edges=_edges(bins.edges))
    return None


def _edges(edges: Sequence[float]) -> tuple[float, ...]:
    """As `NumberBins` means them: the last bin has its upper edge inside, and what is beyond was never seen in training."""
    beyond = math.nextafter(edges[-1], math.inf)
    inner = edges[:-1] or edges
    every = math.ceil(len(inner) / (_MOST_EDGES - 1))
    return (*inner[::every], beyond)


def _runs_inline(digest: str, workers: Iterable[WorkerReport]) -> bool:
    """Whether every worker that tells where it runs says that it is in itself."""
    told = [
        state.placement
        for worker in workers
        for state in worker.versions
        if state.digest == digest and state.state == READY and state.placement is not None
    ]
    return bool(told) and not any(placement.startswith("process") for placement in told)
