"""Deep checks: golden examples asked of real packages in service, the way that requests go, and what follows from the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.codecs.predict_json import JsonProbe
from roadworthy.contract.policy import Batching, Policy
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, VariantEntry
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.package.archive import unpack
from roadworthy.package.packing.pack import pack
from roadworthy.runtime.loading import package_loader
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import PendingRequest
from roadworthy.runtime.placement import INLINE, Placed
from roadworthy.runtime.queue.batching import Batcher
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.serving.admission import Admission
from roadworthy.serving.endpoint import WorkerContext, bind
from roadworthy.serving.health import golden_probe as deep
from roadworthy.serving.health.golden import MOST_EXAMPLES, read_examples
from roadworthy.serving.health.golden_probe import (
    BUSY,
    NOT_ANSWERING,
    OK,
    SLOW,
    UNKNOWN,
    WRONG_ANSWERS,
    GoldenProbes,
    Health,
)
from roadworthy.serving.metrics import WorkerMetrics, open_worker_metrics, read_totals
from tests.waiting import DEADLINE_S, soon

POLICY = Policy(timeout_ms=100)


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackageEntry, Path]:
    """A gateway's folder with a package whose answers follow the word in a file: the folder, its entry, the file."""
    folder = tmp_path_factory.mktemp("gateway")
    mood = folder / "mood"
    mood.write_text("right")
    file = str(mood)

    def double(x: Any) -> Any:
        import time
        from pathlib import Path

        word = Path(file).read_text()
        if word == "raise":
            raise RuntimeError("a bad day")
        while Path(file).read_text() == "hang":
            time.sleep(0.005)
        if word == "slow":
            time.sleep(0.05)
        return np.asarray(x)[:, 0] * (2.0 if word != "wrong" else 3.0)

    package = pack(double, name="moody", inputs=np.arange(1.0, 41.0).reshape(20, 2), out=folder / "dist", compile=False)
    assert package.path is not None
    unpack(package.path, folder / "packages" / package.digest.removeprefix("sha256:"))
    return folder, PackageEntry(package.digest, "moody", 3, 1, "key-test"), mood


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    await soon(condition, "the version is as wanted")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long an example may take: long, until a version is to be found that does not answer."""
    monkeypatch.setattr(deep, "_QUIET_S", 0.02)

    def be(seconds: float) -> None:
        monkeypatch.setattr(deep, "PATIENCE_S", seconds)

    be(DEADLINE_S)
    return be


class Other(PendingRequest):
    """A request of somebody else, whose outcome is of no interest; `then` is called with it."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        super().__init__(time.monotonic() + 3_600)
        self._then = then

    def settled(self, outcome: Any) -> None:
        """Go on."""
        self._then()


class Running:
    """One endpoint over the package, in this process's loop, and its checks."""

    def __init__(self, moody: tuple[Path, PackageEntry, Path], metrics: WorkerMetrics) -> None:
        folder, entry, self.mood = moody
        self.folder = folder
        self.digest = entry.digest
        executable = package_loader(folder, 1)(entry)
        batcher = Batcher(InlineRunner(executable), asyncio.get_running_loop())
        signature = executable.package.signature
        self.version = Version(entry.digest, executable.runtime, signature, Placed(INLINE, "planted"), batcher)
        at = EndpointEntry("m", 1, (VariantEntry(entry.digest, 10_000),), signature.to_document(), POLICY)
        door = Admission("m")
        self.endpoint = bind(at, {entry.digest: entry}, lambda _: self.version, door, WorkerContext(metrics))
        self.changes = 0
        self.checks = GoldenProbes(
            folder, lambda: {"m": self.endpoint}, 0.01, metrics.deep_checked, self._changed, JsonProbe
        )

    def _changed(self) -> None:
        self.changes += 1

    @contextmanager
    def feeling(self, word: str) -> Iterator[None]:
        """Answer so for a while."""
        self.mood.write_text(word)
        try:
            yield
        finally:
            self.mood.write_text("right")

    async def check(self) -> tuple[str, str | None]:
        """One check: result and fault."""
        await self.checks.check_all()
        health = self.checks.health(self.digest)
        assert health is not None
        return health.result, health.fault


@pytest.fixture
def run(moody: Any, tmp_path: Path) -> Callable[..., Any]:
    """Runs a coroutine function on a Running."""

    def go(work: Callable[[Running], Any]) -> dict[tuple[str, str], int]:
        slab = tmp_path / "slab"
        create_slab(slab, 1)
        metrics = open_worker_metrics(slab, 0)

        async def whole() -> None:
            running = Running(moody, metrics)
            try:
                await work(running)
            finally:
                running.mood.write_text("right")
                running.version.batcher.close()

        asyncio.run(whole())
        reader = SlabReader(slab)
        totals = read_totals(reader)
        reader.close()
        assert totals.requests == {}, "a check is nobody's request"
        return dict(totals.deep)

    return go


def test_a_well_version_is_asked_one_example_after_the_other(run: Any) -> None:
    """Each check is counted by version and result, and timed; nothing is anybody's request; the lease is given back."""

    async def work(running: Running) -> None:
        for _ in range(MOST_EXAMPLES + 1):
            assert await running.check() == (OK, None)
        health = running.checks.health(running.digest)
        assert health is not None
        assert health.usual_s is not None
        assert health.usual_s > 0
        assert running.version.leases.held == 0
        assert running.changes == 0
        assert dict(running.checks.faults()) == {}

    assert run(work) == {("moody:3", OK): MOST_EXAMPLES + 1}


@pytest.mark.parametrize(
    ("word", "fault"), [("wrong", WRONG_ANSWERS), ("raise", WRONG_ANSWERS), ("hang", NOT_ANSWERING)]
)
def test_two_failures_in_a_row_make_it_unhealthy_and_one_success_well(
    run: Any, patience: Callable[[float], None], word: str, fault: str
) -> None:
    """Other answers than in training, an exception, and a run that never ends; told once when it begins and once when it ends."""

    async def work(running: Running) -> None:
        assert await running.check() == (OK, None)
        patience(0.1 if word == "hang" else DEADLINE_S)
        with running.feeling(word):
            assert await running.check() == (fault, None)
            assert running.changes == 0
            assert await running.check() == (fault, fault)
            assert running.changes == 1
            assert dict(running.checks.faults()) == {running.digest: fault}
            assert await running.check() == (fault, fault)
        patience(DEADLINE_S)
        await until(lambda: running.version.batcher.busy_since is None)
        assert await running.check() == (OK, None)
        assert running.changes == 2
        assert running.version.leases.held == 0

    assert run(work)["moody:3", fault] == 3


def test_overload_is_no_fault_of_the_version(run: Any, patience: Callable[[float], None]) -> None:
    """A check that finds no place while other requests are run says busy, however often."""

    async def work(running: Running) -> None:
        batcher = running.version.batcher
        assert isinstance(batcher, Batcher)
        batcher.configure(Batching(max_rows=1))
        assert await running.check() == (OK, None)
        inputs = read_examples(running.folder, running.digest, JsonProbe).next().inputs
        waiting: list[Other] = []

        def another() -> None:
            waiting.append(Other(another))
            batcher.submit(inputs, waiting[-1])

        with running.feeling("slow"):
            for _ in range(100):  # a line that is longer than the patience, and stays as long as the checks last
                another()
            patience(1.0)
            for _ in range(3):
                assert await running.check() == (BUSY, None)
            for other in waiting:
                other.drop()
        patience(DEADLINE_S)
        await until(lambda: not batcher.waiting and batcher.busy_since is None)
        assert await running.check() == (OK, None)

    run(work)


def test_a_version_that_is_stuck_is_found_behind_a_full_line_too(run: Any, patience: Callable[[float], None]) -> None:
    """That checks are refused at the door, because too many wait, does not hide that nothing moves."""

    async def work(running: Running) -> None:
        batcher = running.version.batcher
        assert isinstance(batcher, Batcher)
        batcher.configure(Batching(max_rows=1))
        inputs = read_examples(running.folder, running.digest, JsonProbe).next().inputs
        with running.feeling("slow"):
            for _ in range(3):  # it has a pace that tells how long the line is
                assert (await running.check())[1] is None
        with running.feeling("hang"):
            for _ in range(50):
                batcher.submit(inputs, Other())
            patience(0.1)
            async with asyncio.timeout(DEADLINE_S):
                while (await running.check())[1] != NOT_ANSWERING:
                    pass
        await until(lambda: not batcher.waiting and batcher.busy_since is None)

    run(work)


def test_a_package_that_is_gone_from_disk_is_unknown_and_no_fault(run: Any, moody: Any) -> None:
    """There is nothing to ask: that is told, and the version stays as it is."""
    folder, entry, _ = moody
    place = folder / "packages" / entry.digest.removeprefix("sha256:")

    async def work(running: Running) -> None:
        place.rename(place.with_name("elsewhere"))
        try:
            for _ in range(3):
                assert await running.check() == (UNKNOWN, None)
        finally:
            place.with_name("elsewhere").rename(place)

    assert run(work) == {("moody:3", UNKNOWN): 3}


def test_it_goes_on_by_itself_and_can_be_switched_off(run: Any, moody: Any) -> None:
    """Checks come on their own, sooner after a first failure; with None there are none."""

    async def work(running: Running) -> None:
        task = asyncio.create_task(running.checks.run())
        with running.feeling("wrong"):
            await until(lambda: bool(running.checks.faults()))
        await until(lambda: not running.checks.faults())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        never = GoldenProbes(moody[0], dict, None, lambda *_: None, lambda: None, JsonProbe)
        await asyncio.wait_for(never.run(), DEADLINE_S)

    run(work)


def test_slow_is_told_and_takes_nothing_out_of_service() -> None:
    """More than ten times as long as the first ones, and more than a second."""
    health = Health()
    for seconds in (0.2, 0.1, 0.3):
        health.take(OK, seconds)
    assert health.usual_s == 0.2
    for seconds, result in ((1.9, OK), (2.1, SLOW)):
        health.take(OK, seconds)
        assert (health.result, health.fault) == (result, None)
    health.take(OK, 2.1)
    assert health.fault == SLOW
    quick = Health()
    for seconds in (0.001, 0.001, 0.001, 0.5, 0.5):
        quick.take(OK, seconds)
    assert (quick.result, quick.fault) == (OK, None)


def test_examples_are_spread_and_have_the_form_of_a_request(moody: Any) -> None:
    """Each is one row, as a caller would write it."""
    folder, entry, _ = moody
    examples = read_examples(folder, entry.digest, JsonProbe)
    bodies = {examples.next().body for _ in range(3 * MOST_EXAMPLES)}
    assert len(bodies) == MOST_EXAMPLES
    assert all(body is not None and body.startswith(b'{"instances":[') for body in bodies)
    example = examples.next()
    assert (example.inputs.rows, example.expected.rows) == (1, 1)
