"""Decides whether a version may take traffic, from the reports of live workers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roadworthy.contract.telemetry import FAILED, READY, VersionState, WorkerReport
from roadworthy.rollout.facts import Why, fact

KEPT_OUT = "version-quarantined"


@dataclass(frozen=True, slots=True)
class Switch:
    """Every live worker has the version READY: move the traffic."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """A worker could not load or prove the version: the traffic stays where it is."""

    code: str
    reason: Why


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet, and why."""

    reason: str


def decide(digest: str, workers: Sequence[WorkerReport]) -> Switch | Refuse | Wait:
    """Decide about a package, given every worker of every live gateway."""
    if not workers:
        return Wait("no gateway is connected")
    states = [_state(worker, digest) for worker in workers]
    for state in states:
        if state is not None and state.state == FAILED:
            return Refuse(state.code or "load-failed", state.reason or fact("worker-cannot-load"))
    ready = sum(1 for state in states if state is not None and state.state == READY)
    if ready == len(workers):
        return Switch()
    return Wait(f"ready on {ready} of {len(workers)} workers")


def all_kept_out(workers: Sequence[WorkerReport]) -> set[str]:
    """The packages that a gateway has in quarantine."""
    return {state.digest for worker in workers for state in worker.versions if state.code == KEPT_OUT}


def kept_out(digest: str, workers: Sequence[WorkerReport]) -> Why | None:
    """Why a live gateway has the package in quarantine, because it crashes its processes there; None if no gateway has."""
    states = (_state(worker, digest) for worker in workers)
    return next((state.reason or fact("it-crashes") for state in states if state is not None and state.code == KEPT_OUT), None)


def _state(worker: WorkerReport, digest: str) -> VersionState | None:
    return next((state for state in worker.versions if state.digest == digest), None)
