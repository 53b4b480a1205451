"""An endpoint with all its policy resolved: made when a snapshot is taken into service, so that no request looks anything up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from roadworthy.contract.local import part_of
from roadworthy.contract.policy import Fallback
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry
from roadworthy.foundation.errors import InvalidInput, PackageInvalid
from roadworthy.runtime.layers.fallback import RULE, VERSION
from roadworthy.runtime.layers.rules import Rules
from roadworthy.runtime.layers.stack import layered
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Submitter
from roadworthy.schema.batch import Layout
from roadworthy.schema.signature import Signature
from roadworthy.serving.admission import Admission
from roadworthy.serving.cache.shared import SharedCache
from roadworthy.serving.layers import BreakerCells, FallbackVersion, LayerCounts, owner_of
from roadworthy.serving.metrics import WorkerMetrics
from roadworthy.serving.rollout.assignment import Mirror, RolloutAssignment, RolloutCounters
from roadworthy.serving.split import Split
from roadworthy.serving.variant import Variant


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A public name in service.

    Attributes:
        stand_ins: for each fallback that is another version, its digest and that version where it was READY.
        rules: the parts that its fallbacks use as rules.
        trial: its rollout, while it is in one.
    """

    entry: EndpointEntry
    signature: Signature
    admission: Admission
    split: Split[Variant]
    stand_ins: tuple[tuple[str, Version | None], ...] = ()
    rules: tuple[str, ...] = ()
    trial: RolloutAssignment | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    def uses(self, entry: EndpointEntry, find: Callable[[str], Version | None]) -> bool:
        """Whether this object is what binding `entry` again would give."""
        versions = [*(arm.version for arm in self.split.arms), *self._shadowed]
        held = [*((version.digest, version) for version in versions), *self.stand_ins]
        return entry == self.entry and all(find(digest) is version for digest, version in held)

    @property
    def versions(self) -> Iterator[Version]:
        """Every version that may be asked."""
        yield from (arm.version for arm in self.split.arms)
        yield from self._shadowed
        yield from (version for _, version in self.stand_ins if version is not None)

    @property
    def _shadowed(self) -> tuple[Version, ...]:
        return () if self.trial is None or self.trial.shadow is None else (self.trial.shadow.version,)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What all endpoints of a worker have in common.

    Attributes:
        metrics: the worker's. rules: of its packages; None for none. shared: answers that it has in common with other workers
            and machines; None where it has not.
        head: makes what each answer of a version says of it, from its label and the version.
    """

    metrics: WorkerMetrics
    rules: Rules | None = None
    shared: SharedCache | None = None
    head: Callable[[str, Version], bytes] = lambda _label, _version: b""


class Unbindable(Exception):
    """An endpoint that cannot be served from what is loaded; the text says why, for the log and for readiness."""


def bind(
    entry: EndpointEntry,
    packages: Mapping[str, PackageEntry],
    find: Callable[[str], Version | None],
    admission: Admission,
    around: WorkerContext,
) -> Endpoint:
    """Resolve everything about an endpoint.

    Args:
        entry: what the snapshot says.
        packages: the snapshot's packages by digest.
        find: READY versions by digest.
        admission: the endpoint's door.
        around: this worker's.

    Raises:
        Unbindable: a version is not ready, or does not take the endpoint's requests.
    """
    try:
        signature = Signature.from_document(entry.signature)
    except PackageInvalid as error:
        raise Unbindable(error.message) from error
    binding = _Binding(entry, packages, find, around)
    arms = []
    for number, side in enumerate(entry.split):
        version, package = find(side.digest), packages.get(side.digest)
        if version is None or package is None:
            raise Unbindable("a version of its split is not loaded")
        difference = version.signature.accepts(signature)
        if difference is not None:
            raise Unbindable(f"a version of its split does not fit its signature: {difference}")
        try:
            arms.append(binding.layered(number, package, binding.arm(package, version), signature))
        except InvalidInput as error:
            raise Unbindable(f"a fallback's value does not fit its outputs: {error.message}") from error
    try:
        split = Split(arms, [side.weight for side in entry.split])
        trial = binding.trial(arms, signature)
    except ValueError as error:
        raise Unbindable(str(error)) from error
    return Endpoint(
        entry=entry,
        signature=signature,
        admission=admission,
        split=split,
        stand_ins=tuple((digest, find(digest)) for digest in binding.others),
        rules=tuple(part_of(arm.version.digest, name) for arm in arms for name in binding.rules_asked),
        trial=trial,
    )


class _Binding:
    """One endpoint while it is bound.

    Attributes:
        others: digests of the versions that fallbacks name. rules_asked: names of the rules that they name.
    """

    def __init__(
        self,
        entry: EndpointEntry,
        packages: Mapping[str, PackageEntry],
        find: Callable[[str], Version | None],
        around: WorkerContext,
    ) -> None:
        self._entry = entry
        self._packages = packages
        self._find = find
        self._metrics = around.metrics
        self._rules = around.rules
        self._shared = around.shared
        self._head = around.head
        fallbacks = entry.policy.fallback
        self.others = tuple(step.digest for step in fallbacks if step.kind == VERSION and step.digest is not None)
        self.rules_asked = tuple(step.rule for step in fallbacks if step.kind == RULE and step.rule is not None)

    def arm(self, package: PackageEntry, version: Version) -> Variant:
        """A version as the endpoint knows it, without layers."""
        label = f"{package.model}:{package.version}"
        self._metrics.time_runs(version.digest, version.batcher.times)
        return Variant(
            version=version,
            model=package.model,
            number=package.version,
            metrics=self._metrics.bind(self._entry.name, self._entry.generation, label, version.digest),
            head=self._head(label, version),
            submit=version.submit,
        )

    def layered(self, number: int, package: PackageEntry, arm: Variant, signature: Signature) -> Variant:
        """The arm with the layers of the policy around it; the same one where the policy asks for none."""
        policy, shared = self._entry.policy, self._shared
        if self._entry.rollout is not None:
            # Caches of two versions are never equally full: with them the arms would be compared on different requests.
            policy = msgspec.structs.replace(policy, cache=None)
        if policy.cache is None and policy.breaker is None and not policy.fallback:
            return arm
        top = layered(
            arm.version,
            policy,
            package.digest,
            Layout(signature.outputs),
            counts=LayerCounts(self._metrics, self._entry.name),
            cells=lambda window_s: self._cells(number, owner_of(package.digest, window_s)),
            find=partial(self._fallback, package, arm.version, signature),
            shared=None if shared is None else shared.bound(Layout(arm.version.signature.outputs)),
        )
        return replace(arm, submit=top.submit)

    def trial(self, arms: Sequence[Variant], signature: Signature) -> RolloutAssignment | None:
        """The endpoint's rollout, if it is in one."""
        entry, rollout = self._entry, self._entry.rollout
        if rollout is None:
            return None
        counting = RolloutCounters(self._metrics.evidence, rollout, entry.generation, signature)
        shadow = None
        if rollout.shadow:
            version = self._find(rollout.canary)
            if version is None:
                raise Unbindable("the version that is to be shadowed is not loaded")
            difference = version.signature.accepts(signature)
            if difference is not None:
                raise Unbindable(f"the version that is to be shadowed does not fit its signature: {difference}")
            gauge = self._metrics.shadowing(version.digest)
            self._metrics.time_runs(version.digest, version.batcher.times)
            shadow = Mirror(version, rollout, counting, gauge, entry.policy.timeout_ms / 1_000)
        return RolloutAssignment(entry, rollout, arms, counting, shadow)

    def _cells(self, number: int, owner: int) -> BreakerCells:
        return BreakerCells(self._metrics, self._entry.name, number, owner)

    def _fallback(
        self, chosen: PackageEntry, version: Version, signature: Signature, step: Fallback
    ) -> tuple[str, Submitter] | None:
        if step.kind == RULE:
            return self._rule(chosen, version, step.rule)
        return self._other_version(chosen.digest, signature, step.digest)

    def _rule(self, package: PackageEntry, version: Version, name: str | None) -> tuple[str, Submitter] | None:
        if name is None or self._rules is None or name not in version.placed.rules:
            return None
        rule = self._rules.get(package, name)
        return None if rule is None else (name, rule)

    def _other_version(
        self, chosen: str, signature: Signature, digest: str | None
    ) -> tuple[str, FallbackVersion] | None:
        if digest is None or digest == chosen:
            return None
        version, package = self._find(digest), self._packages.get(digest)
        if version is None or package is None or version.signature.accepts(signature) is not None:
            return None
        arm = self.arm(package, version)
        return f"{package.model}:{package.version}", FallbackVersion(version, arm.metrics, arm)
