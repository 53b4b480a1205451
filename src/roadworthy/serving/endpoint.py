"""An endpoint with its whole policy resolved. It is bound when a snapshot goes into service, so that no request looks anything
up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from roadworthy.contract.local import part_of
from roadworthy.contract.policy import Fallback, Policy
from roadworthy.contract.runners import AUTO, runner_names
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry
from roadworthy.foundation.errors import InvalidInput, PackageInvalid
from roadworthy.runtime.layers.fallback import CACHED, RULE, VERSION
from roadworthy.runtime.layers.layer import LayerContext
from roadworthy.runtime.layers.rules import Rules
from roadworthy.runtime.layers.stack import LayerRefused, inside_fallback, layered, only_plugins
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Submitter
from roadworthy.schema.batch import Layout
from roadworthy.schema.signature import Signature
from roadworthy.serving.admission import Admission
from roadworthy.serving.cache.shared import SharedCache
from roadworthy.serving.layers import BreakerCells, FallbackVersion, LayerCounts, owner_of
from roadworthy.serving.metrics import WorkerMetrics
from roadworthy.serving.rollout.assignment import Mirror, RolloutAssignment
from roadworthy.serving.rollout.judging import RolloutCounters
from roadworthy.serving.split import Split
from roadworthy.serving.variant import Variant


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A public name in service.

    Attributes:
        fallbacks: for each fallback that is another version, its digest and that version where it was READY.
        rules: the parts that its fallbacks use as rules.
        assignment: assigns requests to versions while the endpoint is in a rollout.
    """

    entry: EndpointEntry
    signature: Signature
    admission: Admission
    split: Split[Variant]
    fallbacks: tuple[tuple[str, Version | None], ...] = ()
    rules: tuple[str, ...] = ()
    assignment: RolloutAssignment | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    def uses(self, entry: EndpointEntry, find: Callable[[str], Version | None]) -> bool:
        """Whether binding `entry` again would give the same object."""
        versions = [*(variant.version for variant in self.split.variants), *self._shadowed]
        held = [*((version.digest, version) for version in versions), *self.fallbacks]
        return entry == self.entry and all(find(digest) is version for digest, version in held)

    @property
    def versions(self) -> Iterator[Version]:
        """Every version that may run a request."""
        yield from (variant.version for variant in self.split.variants)
        yield from self._shadowed
        yield from (version for _, version in self.fallbacks if version is not None)

    @property
    def _shadowed(self) -> tuple[Version, ...]:
        return () if self.assignment is None or self.assignment.mirror is None else (self.assignment.mirror.version,)


class Unbindable(Exception):
    """An endpoint that the loaded versions cannot serve; the text says why, for the log and for readiness.

    Attributes:
        hopeless: no change of a version's state will help.
    """

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


def bind(
    entry: EndpointEntry,
    packages: Mapping[str, PackageEntry],
    find: Callable[[str], Version | None],
    admission: Admission,
    metrics: WorkerMetrics,
    *,
    rules: Rules | None = None,
    shared: SharedCache | None = None,
    head: Callable[[str, Version], bytes] = lambda _label, _version: b"",
) -> Endpoint:
    """Resolve everything about an endpoint.

    Args:
        entry: the endpoint as the snapshot describes it.
        packages: the snapshot's packages by digest.
        find: READY versions by digest.
        admission: the endpoint's admission control, which outlives rebinding.
        metrics: the worker's.
        rules: runs rules of packages; None for no rules.
        shared: the cache that workers and machines share; None without one.
        head: makes the headers that name a version in each of its answers, from its label and the version.

    Raises:
        Unbindable: a version is not ready or does not accept the endpoint's requests, or a layer or the runner of the policy is
            not available.
    """
    _check_runner(entry.policy)
    try:
        signature = Signature.from_document(entry.signature)
    except PackageInvalid as error:
        raise Unbindable(error.message) from error
    binding = _Binding(entry, packages, find, metrics, rules, shared, head)
    variants = []
    for number, share in enumerate(entry.split):
        version, package = find(share.digest), packages.get(share.digest)
        if version is None or package is None:
            raise Unbindable("a version of its split is not loaded here")
        difference = version.signature.accepts(signature)
        if difference is not None:
            raise Unbindable(f"a version of its split does not fit its signature: {difference}")
        try:
            variants.append(binding.layered(number, package, binding.variant(package, version), signature))
        except InvalidInput as error:
            raise Unbindable(f"a fallback's value does not fit its outputs: {error.message}") from error
    try:
        split = Split(variants, [share.weight for share in entry.split])
        assignment = binding.assignment(variants, signature)
    except ValueError as error:
        raise Unbindable(str(error)) from error
    return Endpoint(
        entry=entry,
        signature=signature,
        admission=admission,
        split=split,
        fallbacks=tuple((digest, find(digest)) for digest in binding.fallback_digests),
        rules=tuple(part_of(variant.version.digest, name) for variant in variants for name in binding.rule_names),
        assignment=assignment,
    )


def _check_runner(policy: Policy) -> None:
    where = policy.placement.where
    if where != AUTO and where not in runner_names():
        raise Unbindable(f"its policy asks for a runner that is not loaded here: {where}", hopeless=True)


@dataclass(frozen=True, slots=True)
class _Binding:
    """One endpoint while it is being bound; the fields are the parameters of `bind`."""

    entry: EndpointEntry
    packages: Mapping[str, PackageEntry]
    find: Callable[[str], Version | None]
    metrics: WorkerMetrics
    rules: Rules | None
    shared: SharedCache | None
    head: Callable[[str, Version], bytes]

    @property
    def fallback_digests(self) -> Iterator[str]:
        """Digests of the versions that fallbacks name."""
        return (step.digest for step in self.entry.policy.fallback if step.kind == VERSION and step.digest is not None)

    @property
    def rule_names(self) -> Iterator[str]:
        """Names of the rules that fallbacks name."""
        return (step.rule for step in self.entry.policy.fallback if step.kind == RULE and step.rule is not None)

    def variant(self, package: PackageEntry, version: Version) -> Variant:
        """A version as the endpoint serves it, without layers."""
        label = f"{package.model}:{package.version}"
        self.metrics.time_runs(version.digest, version.batcher.times)
        return Variant(
            version=version,
            model=package.model,
            number=package.version,
            metrics=self.metrics.bind(self.entry.name, self.entry.generation, label, version.digest),
            head=self.head(label, version),
            submit=version.submit,
        )

    def layered(self, number: int, package: PackageEntry, variant: Variant, signature: Signature) -> Variant:
        """The variant wrapped in the layers of the policy; the same variant where the policy needs none."""
        policy, shared = self.entry.policy, self.shared
        if self.entry.rollout is not None:
            # The caches of two versions are never equally full, so the variants would be compared on different requests.
            policy = msgspec.structs.replace(policy, cache=None)
        if signature.parts:
            steps = tuple(step for step in policy.fallback if step.kind != CACHED)
            policy = msgspec.structs.replace(policy, cache=None, fallback=steps)
        top = self._wrapped(
            variant.version,
            policy,
            number,
            signature,
            find=partial(self._fallback, package, variant.version, signature),
            shared=None if shared is None else shared.bound(Layout(variant.version.signature.outputs)),
        )
        return variant if top is variant.version else replace(variant, submit=top.submit)

    def assignment(self, variants: Sequence[Variant], signature: Signature) -> RolloutAssignment | None:
        """What assigns the endpoint's requests, while it is in a rollout."""
        entry, rollout = self.entry, self.entry.rollout
        if rollout is None:
            return None
        counters = RolloutCounters(self.metrics.evidence, rollout, entry.generation, signature)
        mirror = None
        if rollout.shadow:
            version = self.find(rollout.canary)
            if version is None:
                raise Unbindable("the shadowed version is not loaded here")
            difference = version.signature.accepts(signature)
            if difference is not None:
                raise Unbindable(f"the shadowed version does not fit its signature: {difference}")
            gauge = self.metrics.shadowing(version.digest)
            self.metrics.time_runs(version.digest, version.batcher.times)
            # Its answers are compared with those that callers get, which have passed the layers of plug-ins.
            top = self._wrapped(version, only_plugins(entry.policy), len(variants), signature)
            mirror = Mirror(version, rollout, counters, gauge, entry.policy.timeout_ms / 1_000, top.submit)
        return RolloutAssignment(entry, rollout, variants, counters, mirror)

    def _wrapped(self, version: Version, policy: Policy, number: int, signature: Signature, **more: Any) -> Submitter:
        """The version in the layers of the policy. `more` goes to `LayerContext`."""
        name, digest = self.entry.name, version.digest

        def cells(window_s: float) -> BreakerCells:
            return BreakerCells(self.metrics, name, number, owner_of(digest, window_s))

        context = LayerContext(digest, signature, LayerCounts(self.metrics, name), cells, **more)
        try:
            return layered(version, policy, context)
        except LayerRefused as error:
            raise Unbindable(f"its policy asks for a layer: {error}", hopeless=True) from error

    def _fallback(
        self, chosen: PackageEntry, version: Version, signature: Signature, step: Fallback
    ) -> tuple[str, Submitter] | None:
        if step.kind == RULE:
            return self._rule(chosen, version, step.rule)
        return self._fallback_version(chosen.digest, signature, step.digest)

    def _rule(self, package: PackageEntry, version: Version, name: str | None) -> tuple[str, Submitter] | None:
        if name is None or self.rules is None or name not in version.placed.rules:
            return None
        rule = self.rules.get(package, name)
        return None if rule is None else (name, rule)

    def _fallback_version(self, chosen: str, signature: Signature, digest: str | None) -> tuple[str, FallbackVersion] | None:
        if digest is None or digest == chosen:
            return None
        version, package = self.find(digest), self.packages.get(digest)
        if version is None or package is None or version.signature.accepts(signature) is not None:
            return None
        variant = self.variant(package, version)
        top = self._wrapped(version, inside_fallback(self.entry.policy), 0, signature)
        return f"{package.model}:{package.version}", FallbackVersion(version, variant.metrics, variant, top)
