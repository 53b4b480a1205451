"""A simulated data plane that follows snapshots as gateways do, and counts for rollouts as a test orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from roadworthy.contract.evidence import CANARY, STABLE, RolloutCounts, VariantCount
from roadworthy.contract.snapshot import FULL_SHARE, Snapshot, decode_snapshot
from roadworthy.contract.telemetry import READY, RUN_TIME_BOUNDS_US, RunTimes, VersionState, WorkerReport
from tests.conftest import eventually
from tests.control_plane import LINES, FakeGateway

LINE = "/api/v1/endpoints/line"
ROLLOUTS = f"{LINE}/rollouts"
FAST = {"strategy": "canary", "steps": [5, 50, 100], "hold": 0, "evidence": 10, "criteria": ["errors"]}
"""A plan that waits for nothing but evidence."""


class Fleet:
    """One gateway with one worker, which serves the newest snapshot as soon as a test lets it follow."""

    def __init__(self, client: httpx.Client, name: str = "gw-1") -> None:
        self.gateway = FakeGateway(client, name)
        self.states: dict[str, VersionState] = {}
        self.bad: set[str] = set()
        self.served: dict[str, dict[tuple[int, str], list[int]]] = {}
        self.crashes: Counter[str] = Counter()
        self.run_times: tuple[RunTimes, ...] = ()
        self.memory_free_bytes: int | None = None
        self.signals: tuple[str, ...] | None = None
        self.refused: tuple[str, ...] = ()
        self.frozen: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return decode_snapshot(self.gateway.snapshot().content)

    def entry(self) -> Any:
        """The endpoint in the newest snapshot."""
        return self.snapshot().endpoints[0]

    def follow(self) -> Snapshot:
        """Take the newest snapshot, load everything, serve by it, and report with all counts."""
        snapshot = self.frozen or self.snapshot()
        workers = self.workers(snapshot)
        reply = self.gateway.report(workers=workers, rollouts=self.counts(), run_times=self.run_times)
        assert reply.status_code == 200, reply.text
        return snapshot

    def workers(self, snapshot: Snapshot | None = None) -> tuple[WorkerReport]:
        """The one worker, which has taken that snapshot, or the newest."""
        taken = snapshot or self.frozen or self.snapshot()
        states = [self.states.get(package.digest, VersionState(package.digest, READY)) for package in taken.packages]
        at = (taken.epoch, taken.revision, taken.revision)
        free, refused = self.memory_free_bytes, self.refused
        return (WorkerReport(0, 1, "w", *at, tuple(states), memory_free_bytes=free, signals=self.signals, refused=refused),)

    def counts(self) -> tuple[RolloutCounts, ...]:
        """Counts of every rollout that it served, or whose version crashed."""
        return tuple(
            RolloutCounts(
                rollout,
                tuple(
                    VariantCount(generation, "errors", variant, *cell)
                    for (generation, variant), cell in self.served.get(rollout, {}).items()
                ),
                crashes=self.crashes[rollout],
            )
            for rollout in sorted({*self.served, *self.crashes})
        )

    def crash(self, digest: str) -> None:
        """Let a process crash because of this version, and count it for the rollouts that try the version."""
        for package in self.snapshot().packages:
            if package.digest == digest:
                self.crashes.update(package.rollouts)

    def serve(self, requests: int, stable_bad: int = 0, canary_bad: int | None = None) -> None:
        """Assign that many requests by the present split, exactly in proportion, and report them. None: the canary fails all of
        its requests if it is in `bad`, otherwise none."""
        entry = (self.frozen or self.snapshot()).endpoints[0]
        weights = {variant.digest: variant.weight for variant in entry.split}
        if entry.rollout is not None:
            cells = self.served.setdefault(entry.rollout.id, {})
            canary = round(requests * weights.get(entry.rollout.canary, 0) / FULL_SHARE)
            failing = canary if entry.rollout.canary in self.bad else 0
            for variant, samples, bad in (
                (STABLE, requests - canary, stable_bad),
                (CANARY, canary, failing if canary_bad is None else canary_bad),
            ):
                cell = cells.setdefault((entry.generation, variant), [0, 0])
                cell[0] += samples
                cell[1] += min(bad, samples)
        self.follow()

    def measured(self, digest: str, runs: int = 1_000) -> None:
        """Report that many runs of this version, each of about a millisecond."""
        counts = [0] * (len(RUN_TIME_BOUNDS_US) + 1)
        counts[next(n for n, bound in enumerate(RUN_TIME_BOUNDS_US) if bound >= 1_000)] = runs
        self.run_times = (RunTimes(digest, tuple(counts)),)


def three_versions(admin: httpx.Client, fleet: Fleet, make_package: Callable[..., Path]) -> list[str]:
    """Push three versions and let the first one serve; return their digests."""
    digests = []
    for factor in LINES:
        reply = admin.post("/api/v1/packages", content=make_package(factor=factor).read_bytes())
        digests.append(str(reply.json()["digest"]))
    admin.put(LINE, json={"version": "line:1"})
    eventually(lambda: fleet.follow() and admin.get(LINE).json()["state"] == "serving", "the first version serves")
    return digests


def begin(admin: httpx.Client, version: str = "line:2", **more: Any) -> dict[str, Any]:
    """Start a rollout; return its document."""
    reply = admin.post(ROLLOUTS, json={"version": version, "plan": FAST, **more})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def current(admin: httpx.Client) -> dict[str, Any]:
    """The running rollout, or the last one."""
    reply = admin.get(f"{ROLLOUTS}/current")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def follow_until(fleet: Fleet, admin: httpx.Client, true: Callable[[dict[str, Any]], bool], requests: int = 0) -> Any:
    """Follow, and serve, until the current rollout satisfies the condition; return its document."""

    def look() -> bool:
        fleet.serve(requests) if requests else fleet.follow()
        return true(current(admin))

    eventually(look, "the rollout gets there")
    fleet.gateway.published(admin)
    return current(admin)


def tell(admin: httpx.Client, command: str, rollout: str = "current") -> httpx.Response:
    """Give a rollout a person's command."""
    return admin.post(f"{ROLLOUTS}/{rollout}:{command}")
