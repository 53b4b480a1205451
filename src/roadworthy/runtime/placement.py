"""Decides which kind of runner executes a version: in each worker, or isolated in processes that all workers share.

`decide` is pure: workers and the agent's keeper call it with the same snapshot and the same package on disk, so they agree
without exchanging messages. docs/decisions/0004-runner-processes.md has the measurements behind the numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from roadworthy.contract.policy import Policy
from roadworthy.contract.runners import AUTO, INLINE, PROCESS, plugin_runners, runner_names
from roadworthy.contract.snapshot import PackageEntry, Snapshot
from roadworthy.foundation.confine.plan import REQUIRED
from roadworthy.runtime.loading import package_folder
from roadworthy.runtime.runners.runner import kind_named, processes_of

SLOW_S = 0.002
"""A model that takes longer than this for one row would block a worker's event loop."""
ROWS_PER_S_OF_ONE = 100.0
"""One more copy for each 1/ROWS_PER_S_OF_ONE seconds that a single row takes, up to half of the processors."""
LEAST_HANG_S = 10.0

_ISOLATED = "isolated"
"""As `placement.where`: any kind that isolates."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a package before anything of it runs.

    Attributes:
        runtime: name of the runtime that serves. framework: which framework file loads it.
        carries_code: whether running it executes code of the package.
        isolated: why its files must not run inside a worker, in words; None when they may.
        rules: names of its rules.
        one_row_s: how many seconds a single row took at pack; None when not recorded.
        withheld: why a faster runtime in the package does not serve; None when all may.
    """

    runtime: str
    framework: str
    carries_code: bool
    one_row_s: float | None = None
    withheld: str | None = None
    isolated: str | None = None
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a version executes, and why.

    Attributes:
        where: the name of the kind of runner.
        reason: in words, shown by `roadworthy status`.
        copies: number of runner processes of an isolated version. threads: bound of native thread pools in each.
        memory_mb: memory bound of each; None for no bound. hang_s: a run that lasts longer ends its process; for an
            inline version see `Version.hangs`.
        max_rows: most rows of one joined run; None learns how many pay off.
        rules: names of the package's rules; each executes in its own runner, wherever the version executes.
    """

    where: str
    reason: str
    copies: int = 1
    threads: int = 1
    memory_mb: int | None = None
    hang_s: float = 120.0
    max_rows: int | None = None
    rules: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    @property
    def isolated(self) -> bool:
        """Whether processes that the agent keeps execute the version; else each worker loads it."""
        return kind_named(self.where).isolates

    def summary(self) -> str:
        """The whole placement in one line, for reports."""
        return f"{self}; copies {self.copies}, threads {self.threads}" if self.isolated else str(self)

    def same_place(self, other: Placed) -> bool:
        """Whether a version placed so would not have to be loaded again for `other`."""
        return self.where == other.where and (not self.isolated or self.copies == other.copies)

    def of_rule(self) -> Placed:
        """Where each rule executes: in one process, within the bounds of a runner of the version."""
        return replace(self, where=PROCESS, reason="rule", copies=1, threads=1, max_rows=None, rules=())


Place = Callable[[PackageEntry, Sequence[Policy]], Placed]
"""Places one package by the policies of the endpoints that use it. Reads from disk; may raise RoadworthyError."""


def decide(policies: Sequence[Policy], facts: Facts, cpus: int = 1) -> Placed:
    """Decide where the version executes.

    Args:
        policies: of all endpoints that use it; empty counts as one policy with the defaults. Where they differ, isolation wins,
            then a kind of runner of a plug-in.
        facts: about its package.
        cpus: number of processors of this machine.

    Raises:
        RoadworthyError: "runner-missing": this process has loaded none of the kinds that the policies name. "runner-failed".
    """
    asked = [policy.placement for policy in policies or (Policy(),)]
    where, reason = _where([placement.where for placement in asked], facts)
    wanted = [placement.copies for placement in asked if placement.copies is not None]
    copies = max(wanted, default=_copies(facts, cpus))
    threads = [placement.threads for placement in asked if placement.threads is not None]
    memory = [placement.memory_mb for placement in asked]
    joined = [policy.batching.max_rows for policy in policies]
    return Placed(
        where,
        reason if facts.withheld is None else f"{reason}; {facts.withheld}",
        copies=processes_of(kind_named(where), copies) or copies,
        threads=max(threads, default=1),
        memory_mb=None if None in memory else max(mb for mb in memory if mb is not None),
        hang_s=max(_hang_s(policy) for policy in policies or (Policy(),)),
        max_rows=max((rows for rows in joined if rows is not None), default=None) if None not in joined else None,
        rules=facts.rules,
    )


def _where(asked: Sequence[str], facts: Facts) -> tuple[str, str]:
    """The name of a kind of runner, and why. Only a kind that isolates gets what must not run inside a worker."""
    named = _named(asked)
    if named and kind_named(named[0]).isolates:
        return named[0], "asked for"
    if facts.isolated is not None:
        return PROCESS, facts.isolated
    if AUTO not in asked:
        return named[0], "asked for"
    if facts.carries_code:
        return PROCESS, "carries code"
    if facts.one_row_s is not None and facts.one_row_s > SLOW_S:
        return PROCESS, f"slow, {facts.one_row_s * 1e3:.1f} ms a row"
    return next(iter(named), INLINE), "fast and native"


def _named(asked: Sequence[str]) -> list[str]:
    """The kinds that the policies name, those that isolate first, and plug-ins' before ours. A kind that is unknown here might
    isolate, so the other endpoints of the version get one that does."""
    known, foreign = set(runner_names()), plugin_runners()
    unknown = [name for name in asked if name not in known and name not in (AUTO, _ISOLATED)]
    if len(unknown) == len(asked):
        kind_named(unknown[0])  # raises
    named = known.intersection(asked) | ({PROCESS} if unknown or _ISOLATED in asked else set())
    return sorted(named, key=lambda name: (not kind_named(name).isolates, name not in foreign, name))


def _copies(facts: Facts, cpus: int) -> int:
    if facts.one_row_s is None:
        return 1
    return max(1, min(cpus // 2, math.ceil(facts.one_row_s * ROWS_PER_S_OF_ONE)))


def _hang_s(policy: Policy) -> float:
    if policy.placement.hang_s is not None:
        return policy.placement.hang_s
    return max(LEAST_HANG_S, 2 * policy.timeout_ms / 1_000)


def policies_of(snapshot: Snapshot) -> Mapping[str, tuple[Policy, ...]]:
    """For each package of the snapshot, the policies that place it: those of endpoints whose split or fallback names it, else
    those of endpoints that serve another version of its model, so that a version has its place before it gets traffic. A version
    that only gets mirrored requests is isolated, in the endpoint's own kind of runner if that isolates: no caller may wait for
    it, nor lose a worker to it."""
    models = {package.digest: package.model for package in snapshot.packages}
    direct: dict[str, list[Policy]] = {}
    of_model: dict[str, list[Policy]] = {}
    for endpoint in snapshot.endpoints:
        digests = {variant.digest for variant in endpoint.split}
        digests |= {step.digest for step in endpoint.policy.fallback if step.digest is not None}
        for digest in digests:
            direct.setdefault(digest, []).append(endpoint.policy)
        rollout = endpoint.rollout
        if rollout is not None and rollout.shadow:
            direct.setdefault(rollout.canary, []).extend((endpoint.policy, _isolated(endpoint.policy)))
        for model in {models[digest] for digest in digests if digest in models}:
            of_model.setdefault(model, []).append(endpoint.policy)
    return {digest: tuple(direct.get(digest) or of_model.get(model) or ()) for digest, model in models.items()}


def rules_of(snapshot: Snapshot) -> Mapping[str, frozenset[str]]:
    """For each package of the snapshot, the rules that the policies of endpoints name which serve any version of its model. So a
    version's rules run before it gets traffic, and when it gets traffic back."""
    models = {package.digest: package.model for package in snapshot.packages}
    of_model: dict[str, set[str]] = {}
    for endpoint in snapshot.endpoints:
        named = {step.rule for step in endpoint.policy.fallback if step.rule is not None}
        tried = () if endpoint.rollout is None else (endpoint.rollout.canary,)
        for digest in (*(variant.digest for variant in endpoint.split), *tried):
            of_model.setdefault(models.get(digest, ""), set()).update(named)
    return {digest: frozenset(of_model.get(model, ())) for digest, model in models.items()}


def _isolated(policy: Policy) -> Policy:
    return msgspec.structs.replace(policy, placement=msgspec.structs.replace(policy.placement, where=_ISOLATED))


def placer(folder: Path, confinement: str = REQUIRED) -> Place:
    """The `Place` of this machine, for packages below the gateway's `folder`. Workers are not confined, so they execute a
    package's code only if a policy says so, `confinement` is BEST_EFFORT, and the code has no grants."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def place(entry: PackageEntry, policies: Sequence[Policy]) -> Placed:
        facts = facts_of(package_folder(folder, entry.digest), entry.digest)
        if entry.grants:
            facts = replace(facts, isolated=f"carries code, granted {', '.join(entry.grants)}")
        elif facts.carries_code and confinement == REQUIRED:
            facts = replace(facts, isolated=facts.isolated or "carries code")
        return decide(policies, facts, cpus)

    return place


def facts_of(folder: Path, digest: str) -> Facts:
    """The facts of the package in the unpacked `folder`, judged by the bytes of the serving runtime's files, not by the package's
    own claims.

    Raises:
        PackageInvalid: the package is missing, unreadable, another package, or contradicts itself.
        PackageRefused: code "unknown-framework".
        OSError: the package was deleted meanwhile.
    """
    # Imported when used: a worker accepts connections before it imports what only loading needs.
    from roadworthy.foundation.errors import PackageInvalid
    from roadworthy.package.attestations import COMPILE, FOLDER, PROOF, read_attestation
    from roadworthy.package.files import FolderFiles, damaged
    from roadworthy.package.manifest import MANIFEST, read_manifest
    from roadworthy.package.natures import SealedFiles, examine
    from roadworthy.package.package import Package

    try:
        manifest = read_manifest((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise PackageInvalid("the package is not here yet", code="not-a-package", hint="it is being fetched") from error
    if manifest.digest != digest:
        raise damaged(MANIFEST)
    said = {}
    for kind in (COMPILE, PROOF):
        path = folder / FOLDER / f"{kind}.json"
        if path.is_file():
            said[kind] = read_attestation(path.read_bytes(), digest)
    package = Package(folder, manifest, said, FolderFiles(folder))
    serving, withheld = package.serving, "; ".join(package.withheld.values()) or None
    one_row_s = _one_row_s(said.get(PROOF, {}), serving.name)
    nature = examine(package, serving, SealedFiles(package, serving.folder))
    carries_code = nature.carries_code or serving.preprocess
    isolated = nature.isolated or ("answers in parts" if manifest.signature.parts else None)
    return Facts(serving.name, serving.framework, carries_code, one_row_s, withheld, isolated, package.rules)


def _one_row_s(proof: Mapping[str, object], runtime: str) -> float | None:
    proofs = proof.get("proofs")
    for entry in proofs if isinstance(proofs, list) else []:
        if isinstance(entry, dict) and entry.get("runtime") == runtime:
            seconds = entry.get("one_row_s")
            return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < math.inf else None
    return None
