"""The manager with versions that execute in runner processes: states, failures, moves, and a hundred loads and unloads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from roadworthy.contract.policy import Placement, Policy
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.runtime.manager import Isolation, Manager
from roadworthy.runtime.placement import INLINE, PROCESS, Placed
from roadworthy.schema.batch import Batch, Block, Layout
from tests.runtime.runners.isolated.runners import DIGEST, SUM, StartRunner, Waiting, rows, told
from tests.waiting import DEADLINE_S, soon

OTHER = f"sha256:{'cd' * 32}"
APART = {DIGEST: (Policy(placement=Placement("process")),)}
HERE = {DIGEST: (Policy(placement=Placement("inline")),)}


class Inline:
    """A planted model for this process: sums, as the planted runners do."""

    runtime = "here"
    concurrent = True

    def __init__(self) -> None:
        self.package = type("Described", (), {"signature": SUM})()
        self.closed = 0

    def run(self, batch: Batch) -> Batch:
        """Answer all rows."""
        return Batch(Layout(SUM.outputs), batch.rows, (Block(batch.blocks[0].values.sum(axis=1, keepdims=True)),))

    def close(self) -> None:
        """Count."""
        self.closed += 1


class Scene:
    """A manager that places as the policies say."""

    def __init__(self, folder: Path, ready_within_s: float) -> None:
        self.failures: list[tuple[str, str]] = []
        self.models: list[Inline] = []
        isolation = Isolation(folder, self.place, ready_within_s)
        self.manager = Manager(self.load, lambda: None, self.failed, isolation)

    def place(self, entry: PackageEntry, policies: Sequence[Policy]) -> Placed:
        apart = any(policy.placement.where == "process" for policy in policies)
        return Placed(PROCESS if apart else INLINE, "planted", copies=max((p.placement.copies or 1 for p in policies), default=1))

    def load(self, entry: PackageEntry) -> Any:
        self.models.append(Inline())
        return self.models[-1]

    def failed(self, digest: str, error: BaseException) -> None:
        self.failures.append((digest, str(getattr(error, "code", error))))

    def want(self, policies: dict[str, tuple[Policy, ...]], *digests: str, **more: Any) -> None:
        entries = [PackageEntry(digest, "m", 1, 1) for digest in digests]
        self.manager.want(entries, (), policies=policies, **more)

    def state(self, digest: str = DIGEST) -> str | None:
        return next((state.state for state in self.manager.states() if state.digest == digest), None)

    async def until(self, condition: Callable[[], object]) -> None:
        await soon(condition, "the versions are as wanted")

    async def ask(self, value: float, digest: str = DIGEST) -> Any:
        """As a request does: with a lease."""
        version = self.manager.version(digest)
        assert version is not None
        version.leases.take()
        request = Waiting()
        version.batcher.submit(rows(value), request)
        try:
            return told(await request.outcome)
        finally:
            version.leases.give_back()


def play(folder: Path, scene: Callable[[Scene], Awaitable[None]], ready_within_s: float = DEADLINE_S) -> None:
    """Run a scene and close its manager."""

    async def run() -> None:
        stage = Scene(folder, ready_within_s)
        await scene(stage)
        async with asyncio.timeout(DEADLINE_S):
            await stage.manager.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_ready_when_a_runner_is(start_runner: StartRunner, tmp_path: Path) -> None:
    """LOADING until a runner greets; then with the greeting's runtime and signature; nothing is loaded in this process."""

    async def scene(stage: Scene) -> None:
        stage.want(APART, DIGEST)
        await stage.until(lambda: stage.state() == "LOADING")
        start_runner("sum")
        await stage.until(lambda: stage.state() == "READY")
        (state,) = stage.manager.states()
        assert (state.runtime, state.placement) == ("planted", "process: planted; copies 1, threads 1")
        version = stage.manager.version(DIGEST)
        assert version is not None
        assert version.signature == SUM
        assert await stage.ask(4) == [4.0]
        assert stage.models == []

    play(tmp_path, scene)


def test_waiting_for_a_runner_holds_up_nobody(tmp_path: Path) -> None:
    """While one version has no runner, another is loaded here; when no longer wanted, the first is forgotten."""

    async def scene(stage: Scene) -> None:
        stage.want(APART, DIGEST, OTHER)
        await stage.until(lambda: stage.state(OTHER) == "READY")
        assert stage.state() == "LOADING"
        stage.want(APART, OTHER)
        assert stage.state() is None

    play(tmp_path, scene)


def test_c1_failed_in_time_and_healed_later(start_runner: StartRunner, tmp_path: Path) -> None:
    """Without a runner in time the version is FAILED with its own code; READY when one comes later."""

    async def scene(stage: Scene) -> None:
        stage.want(APART, DIGEST)
        await stage.until(lambda: stage.state() == "FAILED")
        assert stage.failures == [(DIGEST, "runner-not-ready")]
        start_runner("sum")
        await stage.until(lambda: stage.state() == "READY")

    play(tmp_path, scene, ready_within_s=0.1)


def test_c1_the_runner_s_reason_is_told_and_tried_again(start_runner: StartRunner, tmp_path: Path) -> None:
    """FAILED with the runner's reason; a retry makes the runner exit, and its successor makes the version READY."""
    runner = start_runner("refused")

    async def scene(stage: Scene) -> None:
        stage.want(APART, DIGEST)
        await stage.until(lambda: stage.state() == "FAILED")
        assert stage.failures == [(DIGEST, "package-refused")]
        stage.want(APART, DIGEST, retry=True)
        await asyncio.to_thread(runner.process.wait, DEADLINE_S)
        start_runner("sum")
        await stage.until(lambda: stage.state() == "READY")

    play(tmp_path, scene)


def test_a_version_moves_when_its_policy_changes(start_runner: StartRunner, tmp_path: Path) -> None:
    """From here to a runner and back, answering all the time; the old place closes after its last lease."""

    async def scene(stage: Scene) -> None:
        stage.want(HERE, DIGEST)
        await stage.until(lambda: stage.state() == "READY")
        here = stage.manager.version(DIGEST)
        assert here is not None
        here.leases.take()
        stage.want(APART, DIGEST)
        assert await stage.ask(1) == [1.0]
        start_runner("sum")
        await stage.until(lambda: stage.manager.version(DIGEST) is not here)
        assert stage.state() == "READY"
        assert await stage.ask(2) == [2.0]
        assert stage.models[0].closed == 0
        here.leases.give_back()
        await stage.until(lambda: stage.models[0].closed == 1)
        stage.want(HERE, DIGEST)
        await stage.until(lambda: len(stage.models) == 2 and stage.manager.version(DIGEST).runtime == "here")  # type: ignore[union-attr]
        assert await stage.ask(3) == [3.0]

    play(tmp_path, scene)


def test_a_move_that_fails_leaves_it_where_it_is(start_runner: StartRunner, tmp_path: Path) -> None:
    """The runner cannot load the version: it stays READY here."""
    start_runner("refused")

    async def scene(stage: Scene) -> None:
        stage.want(HERE, DIGEST)
        await stage.until(lambda: stage.state() == "READY")
        stage.want(APART, DIGEST)
        await stage.until(lambda: stage.failures)
        assert stage.state() == "READY"
        assert await stage.ask(1) == [1.0]
        stage.want(APART)
        await stage.until(lambda: stage.state() is None)

    play(tmp_path, scene)


@pytest.mark.parametrize("seed", [0, 1])
def test_c14_a_hundred_loads_and_unloads(start_runner: StartRunner, tmp_path: Path, seed: int) -> None:
    """Wanted, unwanted and moved a hundred times under requests: nothing fails, and the last decision holds."""
    start_runner("sum")
    chance = random.Random(seed)

    async def scene(stage: Scene) -> None:
        asked: list[asyncio.Task[Any]] = []
        for _ in range(100):
            policies = chance.choice((APART, HERE))
            stage.want(policies, *chance.choice(((), (DIGEST,), (DIGEST, OTHER))))
            for _ in range(chance.randrange(4)):
                for _ in range(chance.choice((1, 1, 20, 100))):
                    await asyncio.sleep(0)
                if stage.manager.version(DIGEST) is not None:
                    asked.append(asyncio.ensure_future(stage.ask(5)))
                    await asyncio.sleep(0)
        stage.want(APART, DIGEST)
        outcomes = await asyncio.gather(*asked)
        assert outcomes == [[5.0]] * len(asked)
        await stage.until(lambda: stage.state() == "READY" and stage.state(OTHER) is None)
        await stage.until(lambda: stage.manager.version(DIGEST).runtime == "planted")  # type: ignore[union-attr]
        assert await stage.ask(6) == [6.0]
        assert np.all([model.closed <= 1 for model in stage.models])

    play(tmp_path, scene)
