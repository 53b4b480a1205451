"""What a plan's signals can be measured by on an endpoint, settled once before the rollout begins, and which nobody can measure.

`resources/rollouts.py` asks. A rollout that waited for a signal nobody counts would wait for ever, so `preflight.py` refuses it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from roadworthy.contract.evidence import OUTPUT_BINS
from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.contract.telemetry import READY, WorkerReport
from roadworthy.foundation.errors import NotFound, PackageInvalid
from roadworthy.package.archive import open_profile
from roadworthy.registry.versions import Version
from roadworthy.rollout.plan.plan import Plan
from roadworthy.schema.signature import Field, Signature
from roadworthy.statistics.bins import CategoryBins, NumberBins, bins_from_document
from roadworthy.store.blobs import BlobStore, package_blob

NOBODY: Mapping[str, str] = {"guard_hits": "endpoints have no guards on inputs and outputs in this release"}
"""Signals that nothing counts on any endpoint yet, and why."""
MOST_OUTPUTS = 4
"""Outputs that drift is counted of: each takes 64 cells of a worker's slot in every generation."""
_MOST_CATEGORIES = OUTPUT_BINS - 2
_MOST_EDGES = OUTPUT_BINS - 2
_MOST_REST = 0.5
"""So large a part of the answers may be labels that are counted together."""
_MOST_IN_BIN = 0.2
"""So large a part of the answers may be in one bin that holds several values, in a profile that did not look for that."""
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
        outputs, blind = _outputs(signature, stable, blobs)
        missing |= {} if blind is None else {"drift": blind}
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


class _Profiled(NamedTuple):
    """An output as the training profile has it.

    Attributes:
        watched: how gateways count it.
        constant: the one value that training had; None when there were several.
        blind: why its bins cannot tell its answers apart; None when they can.
    """

    watched: WatchedOutput
    constant: str | None
    blind: str | None


def _outputs(signature: Signature, stable: Version, blobs: BlobStore) -> tuple[tuple[WatchedOutput, ...], str | None]:
    """The outputs that drift is counted of, and why it cannot be: those that the training profile has bins for, plain ones in the
    signature's order, then the numbers of tensors, such as probabilities beside a label."""
    try:
        with blobs.open(package_blob(stable.digest)) as stored:
            profile = open_profile(stored)
    except (NotFound, PackageInvalid):
        profile = {}
    known: dict[str, tuple[Field, int | None]] = {
        field.name: (field, None) for field in signature.outputs if not field.shape
    }
    known |= {
        f"{field.name}[{place}]": (field, place)
        for field in signature.outputs
        if len(field.shape) == 1
        for place in range(min(field.shape[0], MOST_OUTPUTS))
    }
    listed = profile.get("outputs")
    documents = {
        document["name"]: document
        for document in (listed if isinstance(listed, list) else ())
        if isinstance(document, dict) and isinstance(document.get("name"), str)
    }
    profiled = [
        _profiled(documents.get(name), field, place, profile.get("edition")) for name, (field, place) in known.items()
    ]
    found = [each for each in profiled if each is not None]
    if any(
        each.watched.place is None for each in found
    ):  # what stands beside an answer in full is left out where it says nothing
        found = [each for each in found if each.watched.place is None or each.blind is None]
    found = found[:MOST_OUTPUTS]
    if not found:
        names = ", ".join(field.name for field in signature.outputs)
        return (), f"the profile of {stable.reference} has bins for none of its outputs ({names})"
    for each in found:
        if each.blind is not None:
            return (), f"{each.blind} (by the profile of {stable.reference})"
    if all(each.constant is not None for each in found):
        told = ", ".join(f"{each.watched.label} was always {each.constant}" for each in found)
        return (), f"in training {told}, so it is not known how the answers of {stable.reference} are distributed"
    return tuple(each.watched for each in found), None


def _profiled(document: Any, field: Field, place: int | None, edition: object) -> _Profiled | None:
    """None for an output of which only presence is known. The profile is as its packer wrote it and may hold anything."""
    try:
        bins = bins_from_document(document["bins"])
        cells = tuple(int(cell) for cell in document["cells"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if isinstance(bins, CategoryBins) and len(cells) == bins.cells:
        return _labels(bins, cells, WatchedOutput(field.name, place, categories=bins.categories[:_MOST_CATEGORIES]))
    if isinstance(bins, NumberBins) and bins.edges and len(cells) == bins.cells:
        watched = WatchedOutput(field.name, place, edges=_edges(bins.edges))
        constant = repr(bins.edges[0]) if len(bins.edges) == 1 else None
        blind = None if edition is not None else _blind(bins, cells, field, watched.label)
        return _Profiled(watched, constant, blind)
    return None


def _labels(bins: CategoryBins, cells: tuple[int, ...], watched: WatchedOutput) -> _Profiled | None:
    told = watched.categories
    if not told:
        return None
    rest, whole = sum(cells[len(told) :]), sum(cells)
    blind = None
    if rest > _MOST_REST * whole:
        blind = (
            f"{watched.label} has so many different values that {rest / whole:.0%} of the answers in training are none of the"
            f" {len(told)} that can be counted apart; leave out drift, or answer a class beside it"
        )
    constant = repr(told[0]) if len(bins.categories) == 1 and not rest else None
    return _Profiled(watched, constant, blind)


def _blind(bins: NumberBins, cells: tuple[int, ...], field: Field, label: str) -> str | None:
    """Why bins of an earlier release cannot tell answers apart: they put neighbouring labels into one."""
    for number, (low, high) in enumerate(itertools.pairwise(bins.edges), start=1):
        last = number == len(bins.edges) - 1
        several = high - low > 1.0 or last if field.dtype.is_integer else True
        if several and cells[number] > _MOST_IN_BIN * sum(cells):
            return (
                f"{label} has one bin for everything from {low:g} to {high:g}, {cells[number] / sum(cells):.0%} of the answers in"
                " training, so what changes among them cannot be seen; pack it again with this release, which keeps them apart"
            )
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
