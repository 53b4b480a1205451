"""The keeper of runners: what it orders, takes over, kills, replaces and stops. Supervisor and runners are simulated."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from roadworthy.agent.runners import keeper as runners
from roadworthy.agent.runners.keeper import Runners, RunnerSettings
from roadworthy.agent.runners.orders import Orders
from roadworthy.agent.runners.quarantine import Limit, Quarantine
from roadworthy.agent.runners.watch import Growth
from roadworthy.contract.local import part_of
from roadworthy.contract.policy import Fallback, Policy
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, Snapshot, VariantEntry
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.resident import resident
from roadworthy.runtime.placement import INLINE, PROCESS, Placed
from roadworthy.runtime.runners.isolated import state
from roadworthy.runtime.runners.isolated.launch import read_stem, runner_address
from tests.waiting import HandClock, soon

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


class Machine:
    """A keeper, and what surrounds it as the test says. Processes are pids of this test's own making."""

    def __init__(self, folder: Path, placed: dict[str, Placed], growth: Growth | None = None) -> None:
        self.folder = folder
        self.placed = placed
        self.held: set[str] = set()
        self.orders: list[list[dict[str, Any]]] = []
        self.kills: list[tuple[str, int, str]] = []
        self.kept_out: dict[str, str] = {}
        self.counted: list[str] = []
        self.pids: dict[str, int] = {}
        quarantine = Quarantine(Limit(crashes=3))
        self.keeper = Runners(
            RunnerSettings(folder, growth or Growth(None)),
            self._place,
            quarantine,
            cast(Orders, SimpleNamespace(order=self.orders.append, kill=self._kill)),
            held=self.held.__contains__,
            keep_out=self._keep_out,
            count_crash=self.counted.append,
        )
        self.looked = 0
        self._let_go = self.keeper._let_go
        self.keeper._let_go = self._look  # type: ignore[method-assign]

    def _look(self) -> None:
        self.looked += 1
        self._let_go()

    def _place(self, entry: PackageEntry, _policies: Any) -> Placed:
        if entry.digest not in self.placed:
            raise RoadworthyError("not here", code="not-a-package")
        return self.placed[entry.digest]

    def _kill(self, name: str, pid: int, reason: str) -> None:
        self.kills.append((name, pid, reason))

    def _keep_out(self, reasons: dict[str, str]) -> None:
        self.kept_out = reasons

    def know_rules(self, *named: str, allowed: bool = True) -> None:
        """A snapshot with A, whose endpoint falls back on these rules."""
        package = PackageEntry(A, "m", 1, 1, "me" if allowed else None, rollouts=("one",))
        policy = Policy(fallback=tuple(Fallback("rule", rule=name) for name in named))
        self.keeper.take_snapshot(Snapshot("e", 1, (package,), (EndpointEntry("e", 1, (VariantEntry(A, 10_000),), {}, policy),)))

    def rules(self) -> list[str]:
        """Those of which runners are ordered; "" for the version."""
        return sorted(child["document"]["rule"] for child in self.orders[-1]) if self.orders else []

    def take_snapshot(self, *digests: str, rollouts: tuple[str, ...] = ()) -> None:
        """A snapshot that names these; the first is tried by these rollouts."""
        tried = dict.fromkeys(digests[:1], rollouts)
        packages = tuple(
            PackageEntry(digest, "m", number, 1, rollouts=tried.get(digest, ())) for number, digest in enumerate(digests, 1)
        )
        endpoints = tuple(EndpointEntry(f"e{i}", 1, (VariantEntry(digest, 10_000),), {}) for i, digest in enumerate(digests))
        self.keeper.take_snapshot(Snapshot("e", 1, packages, endpoints))

    def names(self) -> list[str]:
        """What is ordered now."""
        return [child["name"] for child in self.orders[-1]] if self.orders else []

    async def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """The first true value."""
        return await soon(condition, what)

    async def looks(self) -> None:
        """Wait until the keeper has looked after everything some more times."""
        enough = self.looked + 3
        await soon(lambda: self.looked >= enough, "it looks")

    def start(self, name: str, pid: int, shown: int = state.READY, busy_s: float = 0.0, copy: int = 0) -> None:
        """The supervisor has started it, and it shows a state."""
        self.pids[name] = pid
        self.keeper.handle({"started": name, "pid": pid})
        self.show(name, shown, busy_s, copy)

    def show(
        self,
        name: str,
        shown: int = state.READY,
        busy_s: float = 0.0,
        copy: int = 0,
        holds: bool = True,
        still_s: float = -1e6,
    ) -> None:
        """Write a state file, and take the address. Its last step lies in the future, so that it looks alive to the end."""
        digest = next(digest for digest in (A, B) if digest[7:23] in name)
        _, rule = read_stem(name.removeprefix("runner-").rsplit("-", 2)[0])
        address = runner_address(self.folder, digest, copy, rule)
        pid = self.pids[name]
        since = time.monotonic_ns() - int(busy_s * 1e9) if busy_s else 0
        stepped = time.monotonic_ns() - int(still_s * 1e9)
        for path in [state.state_file(address, pid), *([state.state_file(address)] if holds else [])]:
            path.write_bytes(struct.pack("=5q", pid, shown, since, 0, stepped))

    def die(self, name: str, status: int, reason: str | None = None) -> None:
        """The supervisor tells of a death, and starts it again."""
        event = {"died": name, "pid": self.pids[name], "status": status, "lived_s": 1.0, "deaths": 1}
        self.keeper.handle({**event, "next_start_s": 0.0, "reason": reason})


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times."""
    monkeypatch.setattr(runners, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(runners, "LINGER_S", 0.1)
    monkeypatch.setattr(runners, "REPLACE_EVERY_S", 3_600.0)


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Runs a scene with a keeper that has greeted the supervisor."""

    def run(
        scene: Callable[[Machine], Awaitable[None]],
        *,
        running: Any = (),
        growth: Growth | None = None,
        **placed: Placed,
    ) -> None:
        async def whole() -> None:
            machine = Machine(tmp_path, {{"a": A, "b": B}[name]: place for name, place in placed.items()}, growth)
            task = asyncio.create_task(machine.keeper.run())
            machine.keeper.handle({"running": list(running)})
            try:
                await scene(machine)
                assert not task.done()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(whole())

    return run


def apart(**more: Any) -> Placed:
    """An isolated version."""
    return Placed(PROCESS, "asked for", **more)


def test_what_is_placed_apart_is_ordered(play: Any) -> None:
    """One child per copy, with its start document; inline versions, and packages that are not here yet, have none."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A, B)
        await machine.until(lambda: len(machine.names()) == 2)
        documents = [child["document"] for child in machine.orders[-1]]
        assert [(document["digest"], document["copy"], document["threads"]) for document in documents] == [
            (A, 0, 2),
            (A, 1, 2),
        ]
        assert len({child["name"] for child in machine.orders[-1]}) == 2
        machine.placed[B] = apart()
        machine.take_snapshot(A, B)
        await machine.until(lambda: len(machine.names()) == 3, "the package arrived")

    play(scene, a=apart(copies=2, threads=2))


def test_fewer_copies_stop_the_others(play: Any) -> None:
    """Although a worker holds the version: it has moved to the copies that are left. More copies are ordered again."""

    async def scene(machine: Machine) -> None:
        machine.held.add(A)
        machine.take_snapshot(A)
        before = await machine.until(lambda: len(machine.names()) == 3 and machine.names())
        machine.placed[A] = apart(copies=1)
        machine.take_snapshot(A)
        await machine.until(lambda: machine.names() == before[:1], "one copy is left")
        await machine.looks()
        machine.placed[A] = apart(copies=2)
        machine.take_snapshot(A)
        await machine.until(lambda: len(machine.names()) == 2, "there are two again")
        assert machine.names()[0] == before[0]

    play(scene, a=apart(copies=3))


def test_a_restarted_agent_takes_runners_over(play: Any, tmp_path: Path) -> None:
    """It orders nothing before it knows the running ones, and then the same names: no runner restarts."""
    first: list[str] = []

    async def before(machine: Machine) -> None:
        machine.take_snapshot(A)
        first.extend(await machine.until(machine.names))

    async def after(machine: Machine) -> None:
        machine.take_snapshot(A)
        await machine.until(lambda: machine.orders)
        assert machine.orders == [machine.orders[0]]
        assert machine.names() == first

    async def changed(machine: Machine) -> None:
        machine.take_snapshot(A)
        old, new = await machine.until(lambda: len(machine.names()) == 2 and machine.names())
        assert old == first[0]
        assert new != old

    play(before, a=apart())
    running = [{"name": first[0], "pid": 7}]
    play(after, running=running, a=apart())
    play(changed, running=running, a=apart(threads=4))


async def _successor(machine: Machine) -> tuple[str, str]:
    """A runner and the one that replaces it, which has just started, since the version is placed otherwise now."""
    machine.take_snapshot(A)
    (old,) = await machine.until(machine.names)
    machine.start(old, 11)
    machine.placed[A] = apart(threads=3)
    machine.take_snapshot(A)
    _, new = await machine.until(lambda: len(machine.names()) == 2 and machine.names())
    machine.pids[new] = 12
    machine.keeper.handle({"started": new, "pid": 12})
    return old, new


def test_a_version_that_is_started_otherwise_is_replaced_warm(play: Any) -> None:
    """The old runner stops only after the new one has taken the address."""

    async def scene(machine: Machine) -> None:
        old, new = await _successor(machine)
        machine.show(new, state.LOADING, holds=False)
        await machine.looks()
        assert machine.names() == [old, new]
        machine.show(new)
        await machine.until(lambda: machine.names() == [new])

    play(scene, a=apart())


def test_a_replacement_that_cannot_be_loaded_goes_itself(play: Any) -> None:
    """The old runner keeps answering."""

    async def scene(machine: Machine) -> None:
        old, new = await _successor(machine)
        machine.show(new, state.FAILED, holds=False)
        await machine.until(lambda: machine.names() == [old])

    play(scene, a=apart())


def test_a_runner_is_let_go_when_no_worker_needs_it(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the snapshot stops naming it, but some time after no worker holds it any longer."""
    clock = HandClock()
    monkeypatch.setattr(runners, "time", clock)

    async def scene(machine: Machine) -> None:
        machine.held.add(A)
        machine.take_snapshot(A, B)
        await machine.until(lambda: len(machine.names()) == 2)
        machine.take_snapshot(B)
        await machine.looks()
        clock.step(1.0)
        await machine.looks()
        assert len(machine.names()) == 2
        machine.held.clear()
        await machine.looks()
        assert len(machine.names()) == 2
        clock.step(1.0)
        await machine.until(lambda: len(machine.names()) == 1)
        assert B[7:23] in machine.names()[0]

    play(scene, a=apart(), b=apart())


async def check_killed(machine: Machine, expected: tuple[str, int, str] | None) -> None:
    """Check the first ordered kill; None: no kill in several looks."""
    if expected is None:
        await machine.looks()
        assert machine.kills == []
    else:
        assert (await machine.until(lambda: machine.kills))[0] == expected


@pytest.mark.parametrize(
    ("shown", "busy_s", "killed"),
    [
        (state.READY, 5_000.0, True),
        (state.READY, 1.0, False),
        (state.LOADING, 5.0, False),
        (state.LOADING, 5_000.0, True),
    ],
)
def test_c4_a_runner_that_hangs_is_killed(play: Any, shown: int, busy_s: float, killed: bool) -> None:
    """Busy for longer than its run, or its load, may take, plus a little for its own watch."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A)
        (name,) = await machine.until(machine.names)
        machine.start(name, 11, shown, busy_s)
        await check_killed(machine, (name, 11, "hung") if killed else None)

    play(scene, a=apart(hang_s=600.0))


@pytest.mark.parametrize(("busy_s", "killed"), [(0.0, True), (1.0, False)])
def test_g7_a_runner_that_takes_no_step_is_killed(play: Any, busy_s: float, killed: bool) -> None:
    """Unless it is in a run, which may take its time; it has several looks to take a step."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A)
        (name,) = await machine.until(machine.names)
        machine.start(name, 11)
        machine.show(name, busy_s=busy_s, still_s=100.0)
        await check_killed(machine, (name, 11, "no sign of life") if killed else None)

    play(scene, a=apart(hang_s=600.0))


def test_c2_c3_a_crash_loop_ends_in_quarantine(play: Any) -> None:
    """Crashes, hangs and memory count, a kill from outside does not; then the version stops, and the other one continues."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A, B)
        bad, good = await machine.until(lambda: len(machine.names()) == 2 and machine.names())
        for status, reason in ((-9, None), (-15, None), (-9, "no sign of life"), (-11, None), (-9, "hung"), (-9, None)):
            machine.start(bad, 11)
            machine.die(bad, status, reason)
        await machine.looks()
        assert machine.kept_out == {}
        machine.start(bad, 11)
        machine.die(bad, -9, "memory")
        await machine.until(lambda: machine.kept_out)
        assert set(machine.kept_out) == {A}
        assert "SIGSEGV, hung, memory" in machine.kept_out[A]
        assert machine.names() == [good]
        assert sum(machine.keeper.facts().restarts.values()) == 7
        assert machine.keeper.facts().restarts[A, "killed"] == 3

    play(scene, a=apart(), b=apart())


def test_e7_crashes_are_counted_for_the_rollouts_that_try_the_version(play: Any) -> None:
    """Each crash of this version only, none from outside a rollout; a kill from outside does not count."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A, B)
        tried, other = await machine.until(lambda: len(machine.names()) == 2 and machine.names())
        machine.start(tried, 11)
        machine.die(tried, -11)
        assert machine.counted == []
        machine.take_snapshot(A, B, rollouts=("one", "two"))
        for name, status in ((tried, -11), (tried, -9), (other, -11)):
            machine.start(name, 11)
            machine.die(name, status)
        assert machine.counted == ["one", "two"]
        machine.take_snapshot(A, B)
        machine.start(tried, 11)
        machine.die(tried, -11)
        assert machine.counted == ["one", "two"]
        await machine.until(lambda: machine.kept_out)

    play(scene, a=apart(), b=apart())


def test_a_crash_while_the_agent_was_away_counts(play: Any) -> None:
    """The runner's name identifies its version."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A)
        (name,) = await machine.until(machine.names)
        old = f"{name.rpartition('.')[0]}.999"
        machine.pids[old] = 5
        for _ in range(3):
            machine.die(old, -11)
        await machine.until(lambda: machine.kept_out)

    play(scene, a=apart())


def test_a_crash_of_what_hung_by_its_own_word_counts(play: Any) -> None:
    """A runner that notices that it hangs kills itself; its last state says so."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A)
        (name,) = await machine.until(machine.names)
        for _ in range(3):
            machine.start(name, 11, state.HUNG)
            machine.die(name, -9)
        await machine.until(lambda: "hung" in machine.kept_out.get(A, ""))

    play(scene, a=apart())


def test_the_memory_of_ready_runners_is_told(play: Any) -> None:
    """That of a version's largest runner, among those that are READY."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A)
        (name,) = await machine.until(machine.names)
        assert machine.keeper.processes() == {}
        machine.start(name, os.getpid())
        ((digest, (number, size)),) = (await machine.until(machine.keeper.processes)).items()
        assert (digest, number) == (A, 1)
        assert size > 10 << 20

    play(scene, a=apart())


HOLDING = """
import sys
held = []
for line in sys.stdin:
    held.append(b"x" * (int(line) << 20))
"""


class Holder:
    """A process of nearly no memory, which holds more when told. The tests' own process also frees memory of other tests."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-c", HOLDING], stdin=subprocess.PIPE)

    def grow(self, megabytes: int) -> None:
        """Hold this much more."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % megabytes)
        self.process.stdin.flush()

    def holds(self, megabytes: int) -> bool:
        """Whether it does."""
        memory = resident(self.process.pid)
        return memory is not None and memory.private >= megabytes << 20


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    """Two of them."""
    made = [Holder(), Holder()]
    yield made
    for each in made:
        with each.process:
            each.process.kill()


def test_c11_a_runner_that_leaks_is_replaced_warm(play: Any, holders: list[Holder]) -> None:
    """Once, and not again for some time."""
    old, new = holders

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A)
        (name,) = await machine.until(machine.names)
        machine.start(name, old.process.pid)
        await machine.until(lambda: machine.keeper.facts().runners[0].resident_bytes)
        old.grow(60)
        _, newer = await machine.until(lambda: len(machine.names()) == 2 and machine.names())
        machine.start(newer, new.process.pid)
        await machine.until(lambda: machine.names() == [newer])
        new.grow(120)
        await machine.until(lambda: new.holds(120))
        await machine.looks()
        assert machine.names() == [newer]

    play(scene, a=apart(), growth=Growth(20 << 20, warm_up_s=0.0))


def test_c2_a_runner_above_its_memory_is_killed(play: Any) -> None:
    """The supervisor kills, so that no other process with that id is hit."""

    async def scene(machine: Machine) -> None:
        machine.take_snapshot(A)
        (name,) = await machine.until(machine.names)
        machine.start(name, os.getpid())
        assert (await machine.until(lambda: machine.kills))[0] == (name, os.getpid(), "memory")
        assert machine.names() == [name]

    play(scene, a=apart(memory_mb=1))


RULED = Placed(INLINE, "planted", copies=3, hang_s=600.0, rules=("a", "a-0-b", "unnamed"))


def test_a_rule_that_a_policy_names_has_a_runner_of_its_own(play: Any) -> None:
    """One, confined, wherever its version executes; as long as it is named, may run, and is in the package."""

    async def scene(machine: Machine) -> None:
        machine.know_rules("a", "a-0-b", "not-there")
        await machine.until(lambda: machine.rules() == ["a", "a-0-b"])
        (document, _) = (child["document"] for child in machine.orders[-1])
        assert (document["digest"], document["allowed_by"], document["copy"]) == (A, "me", 0)
        assert document["confine"]["best_effort"] is False
        assert len({child["document"]["address"] for child in machine.orders[-1]}) == 2
        machine.know_rules("a", "a-0-b", allowed=False)
        await machine.until(lambda: machine.rules() == [])
        machine.placed[A] = dataclasses.replace(RULED, where=PROCESS, copies=2)
        machine.know_rules("a")
        await machine.until(lambda: machine.rules() == ["", "", "a"])
        assert {child["document"]["hang_s"] for child in machine.orders[-1]} == {600.0}

    play(scene, a=RULED)


def test_the_runner_of_a_rule_goes_when_no_policy_names_it(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once no worker serves by an earlier policy; runners of other rules stay."""
    clock = HandClock()
    monkeypatch.setattr(runners, "time", clock)

    async def scene(machine: Machine) -> None:
        machine.know_rules("a", "a-0-b")
        first, second = await machine.until(lambda: len(machine.names()) == 2 and machine.names())
        machine.held.add(part_of(A, "a"))
        machine.know_rules("a-0-b")
        await machine.looks()
        clock.step(2.5)
        await machine.looks()
        assert machine.names() == [first, second]
        machine.held.clear()
        clock.step(2.5)
        await machine.until(lambda: machine.names() == [second])

    play(scene, a=RULED)


def test_a_restarted_agent_takes_the_runners_of_rules_over(play: Any) -> None:
    """Each by its own name, however similar names with numbers look."""
    first: list[str] = []

    async def before(machine: Machine) -> None:
        machine.know_rules("a", "a-0-b")
        first.extend(await machine.until(lambda: len(machine.names()) == 2 and machine.names()))

    async def after(machine: Machine) -> None:
        machine.know_rules("a", "a-0-b")
        await machine.until(lambda: machine.orders)
        assert machine.names() == first

    play(before, a=RULED)
    play(after, running=[{"name": name, "pid": 7 + number} for number, name in enumerate(first)], a=RULED)


def test_c2_c3_a_rule_and_its_version_crash_by_themselves(play: Any) -> None:
    """Only the part that crashed is quarantined; rollouts count the version's crashes only; the rule outlives its version."""

    async def scene(machine: Machine) -> None:
        machine.know_rules("a", "a-0-b")
        await machine.until(lambda: machine.rules() == ["", "a", "a-0-b"])
        of = {child["document"]["rule"]: child["name"] for child in machine.orders[-1]}
        for _ in range(3):
            machine.start(of["a-0-b"], 11)
            machine.die(of["a-0-b"], -11)
        await machine.until(lambda: machine.rules() == ["", "a"])
        assert set(machine.kept_out) == {part_of(A, "a-0-b")}
        assert machine.counted == []
        assert machine.keeper.facts().restarts == {(part_of(A, "a-0-b"), "SIGSEGV"): 3}
        for _ in range(3):
            machine.start(of[""], 12)
            machine.die(of[""], -11)
        await machine.until(lambda: machine.rules() == ["a"])
        assert set(machine.kept_out) == {part_of(A, "a-0-b"), A}
        assert machine.counted == ["one"] * 3

    play(scene, a=dataclasses.replace(RULED, where=PROCESS, copies=1))


def test_g7_the_runner_of_a_rule_that_stands_still_is_killed(play: Any) -> None:
    """Like one of a version; its memory is reported separately from the version's."""

    async def scene(machine: Machine) -> None:
        machine.know_rules("a")
        (name,) = await machine.until(machine.names)
        machine.start(name, os.getpid())
        (facts,) = await machine.until(lambda: [f for f in machine.keeper.facts().runners if f.state == "READY"])
        assert (facts.digest, facts.rule) == (A, "a")
        assert machine.keeper.processes() == {}
        machine.show(name, still_s=100.0)
        await check_killed(machine, (name, os.getpid(), "no sign of life"))

    play(scene, a=RULED)
