"""Decides once, before a rollout begins, how a plan's signals are measured on an endpoint, and which cannot be measured.

A rollout that waited for a signal that nothing counts would wait forever, so `preflight.py` refuses it. Used by
`resources/rollouts.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from roadworthy.contract.evidence import OUTPUT_BINS
from roadworthy.contract.runners import runs_in_worker
from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.contract.telemetry import READY, WorkerReport
from roadworthy.foundation.errors import NotFound, PackageInvalid
from roadworthy.package.archive import open_profile
from roadworthy.registry.versions import Version
from roadworthy.rollout.plan.counting import unbindable, uncounted
from roadworthy.rollout.plan.plan import Plan
from roadworthy.rollout.words import say
from roadworthy.schema.signature import Field, Signature
from roadworthy.statistics.bins import CategoryBins, NumberBins, bins_from_document
from roadworthy.store.blobs import BlobStore, package_blob

MOST_OUTPUTS = 4
"""Outputs whose drift is counted: each takes 64 cells of a worker's slot in every generation."""
_MOST_CATEGORIES = OUTPUT_BINS - 2
_MOST_EDGES = OUTPUT_BINS - 2
_MOST_REST = 0.5
"""Largest share of answers that may be rare labels, which are counted together."""
_MOST_IN_BIN = 0.2
"""Largest share of answers in one bin of several values, in a profile whose packer did not separate such values."""
_PROBABILITIES = "probabilities"


class Measures(NamedTuple):
    """`outputs` and `probabilities` as in `RolloutEntry`; `missing`: by signal, why it cannot be measured."""

    outputs: tuple[WatchedOutput, ...]
    probabilities: str | None
    missing: dict[str, str]


def measures(
    plan: Plan, stable: Version, blobs: BlobStore, workers: Sequence[WorkerReport], slow_ms: float | None = None
) -> Measures:
    """How the plan's signals are measured against this stable. `slow_ms` is its 95th percentile of run times, None while it is
    unknown."""
    watched = {watch.signal for watch in plan.watches}
    probabilities, outputs = None, tuple[WatchedOutput, ...]()
    signature = Signature.from_document(stable.signature)
    slow_us = None if slow_ms is None else round(slow_ms * 1e3)
    missing = {name: say(why) for name, why in (*uncounted(plan, workers), *unbindable(plan, signature, slow_us))}
    if "confidence" in watched:
        probabilities = _probabilities(signature)
        if probabilities is None:
            missing["confidence"] = f"its answers have no output {_PROBABILITIES} with one number for each class"
    if "drift" in watched:
        outputs, blind = _outputs(signature, stable, blobs)
        missing |= {} if blind is None else {"drift": blind}
    if "resources" in watched and _runs_inline(stable.digest, workers):
        missing["resources"] = (
            f"{stable.reference} runs inside the workers, whose memory all versions share; set the endpoint's policy"
            " placement.where=process"
        )
    return Measures(outputs, probabilities, missing)


def _probabilities(signature: Signature) -> str | None:
    for field in signature.outputs:
        if field.name == _PROBABILITIES and field.dtype.is_float and len(field.shape) == 1 and field.shape[0] > 1:
            return field.name
    return None


class _Profiled(NamedTuple):
    """An output in the training profile.

    Attributes:
        watched: how gateways count it.
        constant: the only value in training; None when there were several.
        blind: why its bins cannot distinguish its answers; None when they can.
    """

    watched: WatchedOutput
    constant: str | None
    blind: str | None


def _outputs(signature: Signature, stable: Version, blobs: BlobStore) -> tuple[tuple[WatchedOutput, ...], str | None]:
    """The outputs whose drift is counted, or the reason why it cannot be: outputs with bins in the training profile, first plain
    ones in the signature's order, then the numbers of tensors, such as probabilities next to a label."""
    try:
        with blobs.open(package_blob(stable.digest)) as stored:
            profile = open_profile(stored)
    except (NotFound, PackageInvalid):
        profile = {}
    known: dict[str, tuple[Field, int | None]] = {field.name: (field, None) for field in signature.outputs if not field.shape}
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
    profiled = [_profiled(documents.get(name), field, place, profile.get("edition")) for name, (field, place) in known.items()]
    found = [each for each in profiled if each is not None]
    if any(each.watched.place is None for each in found):  # next to a plain output, blind numbers of a tensor are left out
        found = [each for each in found if each.watched.place is None or each.blind is None]
    found = found[:MOST_OUTPUTS]
    if not found:
        names = ", ".join(field.name for field in signature.outputs)
        return (), f"the profile of {stable.reference} has bins for none of its outputs ({names})"
    for each in found:
        if each.blind is not None:
            return (), f"{each.blind} (according to the profile of {stable.reference})"
    if all(each.constant is not None for each in found):
        constants = ", ".join(f"{each.watched.label} was always {each.constant}" for each in found)
        return (), f"in training {constants}, so the distribution of the answers of {stable.reference} is unknown"
    return tuple(each.watched for each in found), None


def _profiled(document: Any, field: Field, place: int | None, edition: object) -> _Profiled | None:
    """None for an output without usable bins. The profile is as its packer wrote it and may hold anything."""
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
    labels = watched.categories
    if not labels:
        return None
    rest, whole = sum(cells[len(labels) :]), sum(cells)
    blind = None
    if rest > _MOST_REST * whole:
        blind = (
            f"{watched.label} has so many different values that {rest / whole:.0%} of the answers in training are not among the"
            f" {len(labels)} that can be counted separately; remove drift from the plan, or add an output with a class"
        )
    constant = repr(labels[0]) if len(bins.categories) == 1 and not rest else None
    return _Profiled(watched, constant, blind)


def _blind(bins: NumberBins, cells: tuple[int, ...], field: Field, label: str) -> str | None:
    """Why the bins of an earlier release cannot distinguish answers: they merge neighbouring labels."""
    for number, (low, high) in enumerate(itertools.pairwise(bins.edges), start=1):
        last = number == len(bins.edges) - 1
        several = high - low > 1.0 or last if field.dtype.is_integer else True
        if several and cells[number] > _MOST_IN_BIN * sum(cells):
            return (
                f"{label} has one bin for everything from {low:g} to {high:g}, {cells[number] / sum(cells):.0%} of the answers in"
                " training, so changes among them are invisible; pack the model again with this release, which separates them"
            )
    return None


def _edges(edges: Sequence[float]) -> tuple[float, ...]:
    """The edges as gateways use them: the last bin includes its upper edge, and values beyond it never occurred in training."""
    beyond = math.nextafter(edges[-1], math.inf)
    inner = edges[:-1] or edges
    every = math.ceil(len(inner) / (_MOST_EDGES - 1))
    return (*inner[::every], beyond)


def _runs_inline(digest: str, workers: Iterable[WorkerReport]) -> bool:
    """Whether every worker that reports the version's placement runs it inline."""
    placements = [
        state.placement
        for worker in workers
        for state in worker.versions
        if state.digest == digest and state.state == READY and state.placement is not None
    ]
    return bool(placements) and all(map(runs_in_worker, placements))
