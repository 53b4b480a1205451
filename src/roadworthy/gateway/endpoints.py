"""An endpoint with all its policy resolved: made when a snapshot is taken into service, so that no request looks anything up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from roadworthy.contract.snapshot import EndpointEntry, PackageEntry
from roadworthy.foundation.errors import PackageInvalid
from roadworthy.gateway.admission import Admission
from roadworthy.gateway.metrics import BoundMetrics, WorkerMetrics
from roadworthy.gateway.protocols.open_inference import OpenInference
from roadworthy.gateway.protocols.predict_json import PredictJson
from roadworthy.gateway.split import Split
from roadworthy.gateway.wire import lines
from roadworthy.runtime.manager import Version
from roadworthy.runtime.ticket import Ticket
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of an endpoint's split, ready to answer.

    Attributes:
        version: the loaded package.
        model, number: its name in the registry.
        metrics: its cells.
        head: the lines of a reply that tell which version answered.
        submit: takes a batch and its ticket.
    """

    version: Version
    model: str
    number: int
    metrics: BoundMetrics
    head: bytes
    submit: Callable[[Batch, Ticket], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A public name in service."""

    entry: EndpointEntry
    signature: Signature
    admission: Admission
    split: Split[Arm]
    predict_json: PredictJson
    open_inference: OpenInference

    @property
    def name(self) -> str:
        return self.entry.name

    def uses(self, entry: EndpointEntry, find: Callable[[str], Version | None]) -> bool:
        """Whether this object is what binding `entry` again would give."""
        return entry == self.entry and all(find(arm.version.digest) is arm.version for arm in self.split.arms)


class Unbindable(Exception):
    """An endpoint that cannot be served from what is loaded; the text says why, for the log and for readiness."""


def bind(
    entry: EndpointEntry,
    packages: Mapping[str, PackageEntry],
    find: Callable[[str], Version | None],
    admission: Admission,
    metrics: WorkerMetrics,
) -> Endpoint:
    """Resolve everything about an endpoint.

    Args:
        entry: what the snapshot says.
        packages: the snapshot's packages by digest.
        find: READY versions by digest.
        admission: the endpoint's door.
        metrics: this worker's.

    Raises:
        Unbindable: a version is not ready, or does not take the endpoint's requests.
    """
    try:
        signature = Signature.from_document(entry.signature)
    except PackageInvalid as error:
        raise Unbindable(error.message) from error
    arms = []
    for side in entry.split:
        version, package = find(side.digest), packages.get(side.digest)
        if version is None or package is None:
            raise Unbindable("a version of its split is not loaded")
        difference = version.signature.accepts(signature)
        if difference is not None:
            raise Unbindable(f"a version of its split does not fit its signature: {difference}")
        arms.append(_arm(entry, package, version, metrics))
    try:
        split = Split(arms, [side.weight for side in entry.split])
    except ValueError as error:
        raise Unbindable(str(error)) from error
    return Endpoint(
        entry=entry,
        signature=signature,
        admission=admission,
        split=split,
        predict_json=PredictJson(signature, entry.policy),
        open_inference=OpenInference(entry.name, signature, entry.policy),
    )


def _arm(entry: EndpointEntry, package: PackageEntry, version: Version, metrics: WorkerMetrics) -> Arm:
    label = f"{package.model}:{package.version}"
    return Arm(
        version=version,
        model=package.model,
        number=package.version,
        metrics=metrics.bind(entry.name, entry.generation, label, version.digest),
        head=lines(
            [
                (b"roadworthy-version", label.encode()),
                (b"roadworthy-digest", version.digest.encode()),
                (b"roadworthy-runtime", version.runtime.encode()),
            ]
        ),
        submit=version.submit,
    )
