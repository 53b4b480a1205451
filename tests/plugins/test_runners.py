"""Kinds of runners of plug-ins: what a policy may ask for, what they may get to run, and what happens where one is missing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import uvloop

import roadworthy as rw
from roadworthy.contract.policy import Placement, Policy
from roadworthy.contract.runners import every_gateway_has, plugin_runners, runner_names, runs_in_worker
from roadworthy.contract.snapshot import EndpointEntry, Leave, PackageEntry, RolloutEntry, Snapshot, VariantEntry
from roadworthy.contract.telemetry import WorkerReport, decode_telemetry
from roadworthy.control.resources.policies import RUNNERS, merged
from roadworthy.foundation import plugins
from roadworthy.foundation.confine.plan import BEST_EFFORT, REQUIRED
from roadworthy.foundation.errors import InvalidRequest, PackageRefused, ProofFailed, RoadworthyError
from roadworthy.monitoring.gateways import Gateway
from roadworthy.package.archive import unpack
from roadworthy.runtime.loading import package_folder, package_loader, run_by, without_code
from roadworthy.runtime.manager import Isolation, Manager
from roadworthy.runtime.placement import Facts, decide, placer, policies_of
from roadworthy.runtime.runners.isolated.launch import confined_command
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.serving.admission import Admission
from roadworthy.serving.endpoint import Unbindable, bind
from roadworthy.serving.metrics import WorkerMetrics
from tests.agent import test_runners as agent
from tests.plugins.installed import write_distribution
from tests.runtime.runners.isolated.runners import DIGEST, SUM, StartRunner, start_runner
from tests.waiting import soon

__all__ = ["start_runner"]  # a fixture

NAME = "planted-runners"
MODULE = """
class Runner:
    interface = 1

    def __init__(self, name, isolates):
        self.name, self.isolates = name, isolates
        if isolates:
            self.processes = lambda copies: self.asked(copies)

    def asked(self, copies):
        return 2

    def runner(self, executable, threads):
        return Shifted(executable, self.by)

    by = 0.0


class Shifted:
    closed = 0

    def __init__(self, executable, by):
        self.executable, self.by, self.concurrent = executable, by, False

    def run(self, batch):
        from roadworthy.schema.batch import Batch, Block
        answer = self.executable.run(batch)
        return Batch(answer.layout, answer.rows, (Block(answer.blocks[0].values + self.by),))

    def close(self):
        Shifted.closed += 1
        self.executable.close()


POOL, APART = Runner("pool", False), Runner("apart", True)
"""
ENTRIES = """
[roadworthy.runners]
pool = planted_runners:POOL
apart = planted_runners:APART
"""

LIGHT = Facts("onnx-exact", "onnx", carries_code=False, one_row_s=0.0001)
SLOW = replace(LIGHT, one_row_s=0.05)
CODE = replace(LIGHT, runtime="native", framework="python", carries_code=True)
LOOPS = replace(LIGHT, isolated="it loops")


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of a distribution with two kinds, which is allowed: "pool" runs in workers, "apart" isolates."""
    write_distribution(tmp_path, NAME, ENTRIES, MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted_runners", raising=False)
    plugins.allow([NAME])
    yield __import__("planted_runners")
    plugins.allow(())


def asked(*places: str, **more: Any) -> tuple[Policy, ...]:
    """Policies with these places."""
    return tuple(Policy(placement=Placement(where=where, **more)) for where in places)


def test_a_policy_may_name_a_loaded_kind() -> None:
    """Ours are found in the same way; any other name is refused with the known ones, and a stored one stays."""
    assert (runner_names(), list(plugin_runners())) == (("inline", "process", "apart", "pool"), ["apart", "pool"])
    stored = merged(None, {"placement": {"where": "apart"}})
    assert stored["placement"]["where"] == "apart"
    with pytest.raises(InvalidRequest, match=r"placement\.where: expected auto, inline, process, apart or pool") as refused:
        merged(None, {"placement": {"where": "nowhere"}})
    assert refused.value.code == "invalid-policy"
    plugins.allow(())
    assert merged(stored, {"timeout_ms": 5})["placement"]["where"] == "apart"
    with pytest.raises(InvalidRequest, match="expected auto, inline or process, got text"):
        merged(stored, {"placement": {"where": "apart"}})


def test_gateways_of_the_release_before_report_no_kinds() -> None:
    """They read the name and would execute the version in workers: so the control plane asks what a gateway has loaded."""
    policy = msgspec.json.decode(msgspec.json.encode(*asked("apart")), type=Policy)
    assert policy.placement.where == "apart"
    document = {"gateway": "g", "boot": "b", "sequence": 1, "at_us": 1}
    worker = {"slot": 0, "pid": 1, "boot": "w", "epoch": "e", "revision": 1, "offered": 1}
    (old,) = decode_telemetry(msgspec.json.encode(document | {"workers": [worker]})).workers
    live = [
        Gateway(f"gw-{number}", "b", 1, 1, (each,), 0)
        for number, each in enumerate((WorkerReport(0, 1, "b", "e", 1, 1, runners=("apart", "pool")), old))
    ]
    assert [every_gateway_has(where) for where in ("auto", "inline", "process", "apart", "gone")] == [True] * 3 + [False] * 2
    for where, lacking in (("apart", {"apart": ["gw-1"]}), ("process", {}), ("auto", {})):
        assert RUNNERS.lacking(RUNNERS.named({"placement": {"where": where}}), live) == lacking
    assert RUNNERS.named({}) == ()


def test_a_worker_s_report_says_where_versions_execute() -> None:
    """By the kind in it; one that is unknown here counts as isolated."""
    places = ("inline: fast", "pool: asked for", "process: code; copies 1", "apart: asked for", "gone: asked for", "")
    assert [runs_in_worker(placement) for placement in places] == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("places", "facts", "told"),
    [
        (("pool",), LIGHT, "pool: asked for"),
        (("pool",), SLOW, "pool: asked for"),
        (("apart",), LIGHT, "apart: asked for"),
        (("apart",), CODE, "apart: asked for"),
        (("apart",), LOOPS, "apart: asked for"),
        (("pool",), LOOPS, "process: it loops"),
        (("pool", "auto"), LIGHT, "pool: fast and native"),
        (("pool", "auto"), CODE, "process: carries code"),
        (("pool", "inline"), LIGHT, "pool: asked for"),
        (("pool", "apart"), LIGHT, "apart: asked for"),
        (("process", "apart"), LIGHT, "apart: asked for"),
        (("gone", "auto"), LIGHT, "process: asked for"),
        (("gone", "inline"), CODE, "process: asked for"),
        (("gone", "apart"), CODE, "apart: asked for"),
    ],
)
def test_where(places: tuple[str, ...], facts: Facts, told: str) -> None:
    """Isolation wins where endpoints differ, and then the kind of a plug-in."""
    assert str(decide(asked(*places), facts)) == told


def test_a_version_of_an_unknown_kind_is_refused() -> None:
    """It never executes in another way than its only endpoints ask for."""
    with pytest.raises(RoadworthyError, match="no such runner is loaded here: gone") as refused:
        decide(asked("gone", "gone"), LIGHT)
    assert refused.value.code == "runner-missing"


def total(rows: np.ndarray) -> np.ndarray:
    """A model that carries code."""
    return rows.sum(axis=1)


@pytest.fixture
def coded(tmp_path: Path) -> PackageEntry:
    """A package that carries code, in the gateway's folder, which someone allowed."""
    packed = rw.pack(total, name="total", inputs=np.random.default_rng(0).random((20, 3)), out=tmp_path / "dist")
    assert packed.path is not None
    plugins.allow([NAME])  # `pack` reads the settings
    unpack(packed.path, package_folder(tmp_path, packed.digest))
    return PackageEntry(packed.digest, "total", 1, 1, "me")


@pytest.mark.parametrize("where", ["inline", "pool"])
def test_a_kind_that_isolates_nothing_gets_code_only_where_a_worker_would(
    tmp_path: Path, coded: PackageEntry, where: str
) -> None:
    """That is, where confinement is best effort, and the policy names the kind. A worker whose confinement is required refuses
    the code whatever the placement says."""
    policies = asked(where)
    assert str(placer(tmp_path, REQUIRED)(coded, policies)) == "process: carries code"
    assert str(placer(tmp_path, BEST_EFFORT)(coded, policies)) == f"{where}: asked for"
    granted = msgspec.structs.replace(coded, allowed_by=None, granted=Leave("me", ("network",)))
    assert str(placer(tmp_path, BEST_EFFORT)(granted, policies)) == "process: carries code, granted network"
    load = package_loader(tmp_path, 1)
    with pytest.raises(PackageRefused) as refused:
        run_by(without_code(load), where, 1)(coded)
    assert refused.value.code == "confinement-not-available"
    run_by(load, where, 1)(coded).close()


def test_examples_are_replayed_through_the_runner(tmp_path: Path, coded: PackageEntry, planted: Any) -> None:
    """A runner that changes an answer is never READY, and it is closed."""
    planted.POOL.by = 1e-3
    with pytest.raises(ProofFailed):
        run_by(package_loader(tmp_path, 1), "pool", 1)(coded)
    assert planted.Shifted.closed == 1


def test_the_kind_says_how_many_processes_are_kept(planted: Any) -> None:
    """Whatever the policy asks for; what the plug-in raises, or cannot mean, is the version's failure."""
    placed = decide(asked("apart", copies=7), LIGHT)
    assert (placed.isolated, placed.copies, placed.summary()) == (True, 2, "apart: asked for; copies 2, threads 1")
    assert decide(asked("pool"), LIGHT).isolated is False
    for wrong, reason in ((0, "asks for 0 "), (257, "asks for 257 "), ("2", "asks for '2' "), (None, "ZeroDivisionError")):
        planted.APART.asked = lambda _copies, wrong=wrong: 1 // 0 if wrong is None else wrong
        with pytest.raises(RoadworthyError, match=reason) as refused:
            decide(asked("apart"), LIGHT)
        assert refused.value.code == "runner-failed"


def test_the_agent_keeps_the_processes_of_the_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as it says, each confined, and told which kind it is of; none for a kind that isolates nothing."""
    monkeypatch.setattr("roadworthy.agent.runners.keeper.LOOK_EVERY_S", 0.01)
    placed = {agent.A: decide(asked("apart", copies=7), CODE), agent.B: decide(asked("pool"), LIGHT)}

    async def run() -> None:
        machine = agent.Machine(tmp_path, placed)
        task = asyncio.create_task(machine.keeper.run())
        machine.keeper.handle({"running": []})
        machine.take_snapshot(agent.A, agent.B)
        await machine.until(lambda: len(machine.names()) == 2, "both are ordered")
        documents = [child["document"] for child in machine.orders[-1]]
        assert [(each["digest"], each["copy"], each["runner"]) for each in documents] == [
            (agent.A, 0, "apart"),
            (agent.A, 1, "apart"),
        ]
        assert all(each["confine"] is not None for each in documents)
        assert [child["argv"] for child in machine.orders[-1]] == [confined_command()] * 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_shadowed_version_runs_as_its_endpoint_asks_where_that_isolates() -> None:
    """Else in our own isolating kind: no caller may wait for it."""
    found = []
    for where in ("apart", "pool", "inline", "auto", "gone"):
        packages = tuple(PackageEntry(digest, "m", number, 1) for number, digest in enumerate("sc", 1))
        rollout = RolloutEntry("r", "s", "c", shadow=10_000)
        entry = EndpointEntry("e", 1, (VariantEntry("s", 10_000),), {}, *asked(where), rollout)
        found.append(decide(policies_of(Snapshot("e", 1, packages, (entry,)))["c"], LIGHT).where)
    assert found == ["apart", "process", "process", "process", "process"]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("if isolates:", "if False:", "apart: it declares isolates = True, and has no `processes` for the agent to keep"),
        ("if isolates:", "if True:", "pool: it declares isolates = False, and has `processes`, which the agent isolates"),
        ('"apart", True', '"apart", "yes"', "apart: TypeError: `isolates` must be True or False, not 'yes'"),
        ("def runner", "def other", "pool: it has no runner"),
        ("pool = ", "auto = ", "a runner's name is like my-runner"),
    ],
)
def test_a_contradiction_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, reason: str
) -> None:
    """A kind that declares what it does not do is not loaded, and the list says why."""
    module, entries = MODULE.replace(before, after), ENTRIES.replace(before, after)
    if after == "auto = ":
        module = MODULE.replace('"pool"', '"auto"')
    name = f"wrong-{abs(hash((before, after)))}"
    write_distribution(tmp_path, name, entries.replace("planted_runners", name.replace("-", "_")), module)
    plugins.allow([name])
    assert set(runner_names()) < {"inline", "process", "apart", "pool"}
    told = [f"{each.name}: {each.reason}" for each in plugins.survey() if each.state == plugins.WRONG_INTERFACE]
    assert any(reason in each.replace("ValueError: ", "") for each in told), told


def test_a_worker_without_the_kind_refuses_the_endpoint(tmp_path: Path) -> None:
    """Nothing else will help, so it is told at once, before its versions are looked for."""
    entry = EndpointEntry("e", 1, (VariantEntry("s", 10_000),), SUM.to_document(), *asked("gone"))
    with pytest.raises(Unbindable, match="asks for a runner that is not loaded here: gone") as refused:
        bind(entry, {}, lambda _digest: None, Admission("e"), cast("WorkerMetrics", None))
    assert refused.value.hopeless
    loaded = msgspec.structs.replace(entry, policy=asked("apart")[0])
    with pytest.raises(Unbindable, match="not loaded here") as waits:
        bind(loaded, {}, lambda _digest: None, Admission("e"), cast("WorkerMetrics", None))
    assert not waits.value.hopeless


class Summing:
    """A planted executable for this process."""

    runtime, concurrent, closed = "here", True, 0
    package = type("Described", (), {"signature": SUM})()

    def run(self, batch: Batch) -> Batch:
        """Answer all rows."""
        return Batch(Layout(SUM.outputs), batch.rows, (Block(batch.blocks[0].values.sum(axis=1, keepdims=True)),))

    def close(self) -> None:
        """Nothing."""


class Machine:
    """A manager that places as policies say."""

    def __init__(self, folder: Path) -> None:
        self.failures: list[str] = []
        isolation = Isolation(folder, lambda _entry, policies: decide(policies, LIGHT), ready_within_s=3_600.0)
        self.manager = Manager(
            lambda _entry: Summing(),
            lambda: None,
            lambda _digest, error: self.failures.append(getattr(error, "code", "")),
            isolation,
        )

    def want(self, where: str) -> None:
        """Hold the version at that place."""
        self.manager.want([PackageEntry(DIGEST, "m", 1, 1)], (), policies={DIGEST: asked(where)})

    def placement(self) -> str | None:
        """Where the version serves."""
        (state,) = self.manager.states()
        return state.placement if state.state == "READY" else state.state


def play(folder: Path, scene: Callable[[Machine], Awaitable[None]]) -> None:
    """Run a scene."""

    async def run() -> None:
        machine = Machine(folder)
        try:
            await scene(machine)
        finally:
            await machine.manager.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_a_version_moves_to_the_processes_of_another_kind(tmp_path: Path, start_runner: StartRunner, planted: Any) -> None:
    """It serves from the old kind's process until one of the new kind is ready at the same address, and never calls the old one
    new."""
    planted.APART.asked = lambda _copies: 1
    old = start_runner("sum")

    async def scene(machine: Machine) -> None:
        machine.want("process")
        await soon(lambda: machine.placement() == "process: asked for; copies 1, threads 1", "our process is ready")
        before = machine.manager.version(DIGEST)
        machine.want("apart")
        await soon(
            lambda: DIGEST in machine.manager._awaited and machine.manager._awaited[DIGEST].batcher.ready,
            "the old process has greeted again",
        )
        assert machine.manager.version(DIGEST) is before
        await asyncio.to_thread(start_runner("sum", runner="apart").wait_shown)
        await asyncio.to_thread(old.stop)  # as the agent's keeper does once the new one holds the address
        await soon(lambda: machine.placement() == "apart: asked for; copies 1, threads 1", "the new process is ready")

    play(tmp_path, scene)


def test_a_gateway_without_the_kind_refuses_the_version(tmp_path: Path) -> None:
    """A starting one never loads it; one that serves it leaves it where it is, and the endpoint is refused when it is bound."""

    async def starting(machine: Machine) -> None:
        machine.want("gone")
        await soon(lambda: machine.failures == ["runner-missing"], "the version is refused")
        (state,) = machine.manager.states()
        assert (state.state, state.code) == ("FAILED", "runner-missing")

    async def serving(machine: Machine) -> None:
        machine.want("inline")
        await soon(lambda: machine.placement() == "inline: asked for", "it serves")
        machine.want("gone")
        await soon(lambda: machine.failures == ["runner-missing"], "the move is refused")
        assert machine.placement() == "inline: asked for"

    play(tmp_path, starting)
    play(tmp_path, serving)
