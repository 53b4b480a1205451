"""Golden probes: examples sent to real packages in service along a request's path, and the results of the answers."""

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
from roadworthy.serving.endpoint import bind
from roadworthy.serving.health import golden_probe as probing
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
    """A gateway's folder with a package whose behaviour follows the word in a file: the folder, its entry, the file."""
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
    """Run the loop until the condition holds."""
    await soon(condition, "the version is in the expected state")


@pytest.fixture
def timeout(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long an example may take: long, except where a version must be found not to answer."""
    monkeypatch.setattr(probing, "_IDLE_WAIT_S", 0.02)

    def be(seconds: float) -> None:
        monkeypatch.setattr(probing, "TIMEOUT_S", seconds)

    be(DEADLINE_S)
    return be


class Other(PendingRequest):
    """A caller's request; `then` is called with its outcome."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        super().__init__(time.monotonic() + 3_600)
        self._then = then

    def settled(self, outcome: Any) -> None:
        """Go on."""
        self._then()


class Running:
    """One endpoint over the package, in this process's loop, and its golden probes."""

    def __init__(self, moody: tuple[Path, PackageEntry, Path], metrics: WorkerMetrics) -> None:
        folder, entry, self.mood = moody
        self.folder = folder
        self.digest = entry.digest
        executable = package_loader(folder, 1)(entry)
        batcher = Batcher(InlineRunner(executable), asyncio.get_running_loop())
        signature = executable.package.signature
        self.version = Version(entry.digest, executable.runtime, signature, Placed(INLINE, "planted"), batcher)
        at = EndpointEntry("m", 1, (VariantEntry(entry.digest, 10_000),), signature.to_document(), POLICY)
        admission = Admission("m")
        self.endpoint = bind(at, {entry.digest: entry}, lambda _: self.version, admission, metrics)
        self.changes = 0
        self.probes = GoldenProbes(folder, lambda: {"m": self.endpoint}, 0.01, metrics.probed, self._changed, JsonProbe)

    def _changed(self) -> None:
        self.changes += 1

    @contextmanager
    def feeling(self, word: str) -> Iterator[None]:
        """Set the behaviour of the model."""
        self.mood.write_text(word)
        try:
            yield
        finally:
            self.mood.write_text("right")

    async def check(self) -> tuple[str, str | None]:
        """Probe once; returns result and fault."""
        await self.probes.probe_all()
        health = self.probes.health(self.digest)
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
        assert totals.requests == {}, "a probe counts as no request"
        return dict(totals.probes)

    return go


def test_a_well_version_is_asked_one_example_after_the_other(run: Any) -> None:
    """Each probe is counted by version and result, and timed; it counts as no request, and its lease is released."""

    async def work(running: Running) -> None:
        for _ in range(MOST_EXAMPLES + 1):
            assert await running.check() == (OK, None)
        health = running.probes.health(running.digest)
        assert health is not None
        assert health.usual_s is not None
        assert health.usual_s > 0
        assert running.version.leases.held == 0
        assert running.changes == 0
        assert dict(running.probes.faults()) == {}

    assert run(work) == {("moody:3", OK): MOST_EXAMPLES + 1}


@pytest.mark.parametrize(("word", "fault"), [("wrong", WRONG_ANSWERS), ("raise", WRONG_ANSWERS), ("hang", NOT_ANSWERING)])
def test_two_failures_in_a_row_make_it_unhealthy_and_one_success_well(
    run: Any, timeout: Callable[[float], None], word: str, fault: str
) -> None:
    """Other answers than in training, an exception, and a run that never ends: reported once at the start and once at the end."""

    async def work(running: Running) -> None:
        assert await running.check() == (OK, None)
        timeout(0.1 if word == "hang" else DEADLINE_S)
        with running.feeling(word):
            assert await running.check() == (fault, None)
            assert running.changes == 0
            assert await running.check() == (fault, fault)
            assert running.changes == 1
            assert dict(running.probes.faults()) == {running.digest: fault}
            assert await running.check() == (fault, fault)
        timeout(DEADLINE_S)
        await until(lambda: running.version.batcher.busy_since is None)
        assert await running.check() == (OK, None)
        assert running.changes == 2
        assert running.version.leases.held == 0

    assert run(work)["moody:3", fault] == 3


def test_overload_is_no_fault_of_the_version(run: Any, timeout: Callable[[float], None]) -> None:
    """A probe that finds no place while other requests run has the result busy, however often."""

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
            for _ in range(100):  # a queue longer than the timeout, which stays for all probes
                another()
            timeout(1.0)
            for _ in range(3):
                assert await running.check() == (BUSY, None)
            for other in waiting:
                other.drop()
        timeout(DEADLINE_S)
        await until(lambda: not batcher.waiting and batcher.busy_since is None)
        assert await running.check() == (OK, None)

    run(work)


def test_a_version_that_is_stuck_is_found_behind_a_full_line_too(run: Any, timeout: Callable[[float], None]) -> None:
    """Probes that are refused because too many requests wait still show that the version is stuck."""

    async def work(running: Running) -> None:
        batcher = running.version.batcher
        assert isinstance(batcher, Batcher)
        batcher.configure(Batching(max_rows=1))
        inputs = read_examples(running.folder, running.digest, JsonProbe).next().inputs
        with running.feeling("slow"):
            for _ in range(3):  # gives the queue a pace by which it knows its length in time
                assert (await running.check())[1] is None
        with running.feeling("hang"):
            for _ in range(50):
                batcher.submit(inputs, Other())
            timeout(0.1)
            async with asyncio.timeout(DEADLINE_S):
                while (await running.check())[1] != NOT_ANSWERING:
                    pass
        await until(lambda: not batcher.waiting and batcher.busy_since is None)

    run(work)


def test_a_package_that_is_gone_from_disk_is_unknown_and_no_fault(run: Any, moody: Any) -> None:
    """There is no example to send: the result says so, and the version keeps its state."""
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
    """Probes run on their own, sooner after a first failure; with None they are disabled."""

    async def work(running: Running) -> None:
        task = asyncio.create_task(running.probes.run())
        with running.feeling("wrong"):
            await until(lambda: bool(running.probes.faults()))
        await until(lambda: not running.probes.faults())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        never = GoldenProbes(moody[0], dict, None, lambda *_: None, lambda: None, JsonProbe)
        await asyncio.wait_for(never.run(), DEADLINE_S)

    run(work)


def test_slow_is_reported_and_takes_nothing_out_of_service() -> None:
    """Slow means more than ten times the first ones, and more than a second."""
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
    """Each is one row, as a caller would send it."""
    folder, entry, _ = moody
    examples = read_examples(folder, entry.digest, JsonProbe)
    bodies = {examples.next().body for _ in range(3 * MOST_EXAMPLES)}
    assert len(bodies) == MOST_EXAMPLES
    assert all(body is not None and body.startswith(b'{"instances":[') for body in bodies)
    example = examples.next()
    assert (example.inputs.rows, example.expected.rows) == (1, 1)
