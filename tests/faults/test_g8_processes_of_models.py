"""G8: models that start processes answer as proved, and no process that they start outlives their runner or proof."""

from __future__ import annotations

import ctypes
import inspect
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import roadworthy as rw
from roadworthy.foundation.errors import ProofFailed
from roadworthy.foundation.pidfile import running_pid
from roadworthy.package.archive import unpack
from roadworthy.package.replay import Replay, replay_isolated
from tests.machine import FREE_PORTS, Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually

PACKER = os.getpid()
FOREVER_S = f"{100_000 + PACKER}.5"
"""The duration for which abandoned processes sleep, which no other process uses."""
CRASH, FREEZE = 98, 99
RUNNER, AGENT = "roadworthy.runtime.runners.isolated", "roadworthy.agent"
HOSTS = (RUNNER, "roadworthy.package.replay", "multiprocessing", "loky")
MARK = "PYTHON_G8_FOLDER"
"""A variable that confined processes also get."""


class Kinds:
    """Ways in which a model may double a value; each method's name is its kind."""

    kept: Any = None

    def fork_pool(self, value: float) -> float:
        return self._pooled("fork", value)

    def spawn_pool(self, value: float) -> float:
        return self._pooled("spawn", value)

    def _pooled(self, method: str, value: float) -> float:
        import multiprocessing

        with multiprocessing.get_context(method).Pool(1) as pool:
            return pool.map(math.fsum, [[value, value]])[0]

    def empty_pool(self, value: float) -> float:
        """A pool that ends before its processes have started."""
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2):
            return 2 * value

    def kept_pool(self, value: float) -> float:
        """Never closed."""
        import multiprocessing

        if self.kept is None:
            self.kept = multiprocessing.get_context("fork").Pool(1)
        return float(self.kept.map(math.fsum, [[value, value]])[0])

    def executor(self, value: float) -> float:
        with ProcessPoolExecutor(1) as pool:
            return next(iter(pool.map(math.fsum, [[value, value]])))

    def loky(self, value: float) -> float:
        from joblib import Parallel, delayed

        return float(Parallel(2)(delayed(math.fsum)([value, value]) for _ in range(2))[0])

    def joblib_multiprocessing(self, value: float) -> float:
        from joblib import Parallel, delayed

        return float(Parallel(2, backend="multiprocessing")(delayed(math.fsum)([value, value]) for _ in range(2))[0])

    def command(self, value: float) -> float:
        return float(subprocess.run(["echo", str(2 * value)], capture_output=True, check=True).stdout)

    def terminated(self, value: float) -> float:
        """A fork that handles SIGTERM like a new process."""
        import multiprocessing

        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join()
        return 2 * value if child.exitcode == -signal.SIGTERM else math.inf

    def fork_that_comes_back(self, value: float) -> float:
        child = os.fork()
        if child:
            return 2 * value if os.waitpid(child, 0)[1] == 0 else math.inf
        return -value

    def fork_that_exits(self, value: float) -> float:
        child = os.fork()
        if child:
            return 2 * value if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5 else math.inf
        sys.exit(5)

    def leaves_a_deaf_child(self, value: float) -> float:
        subprocess.Popen(["sh", "-c", f"trap '' TERM INT HUP; exec sleep {FOREVER_S}"])
        return 2 * value

    def leaves_a_session(self, value: float) -> float:
        """A child in its own session, without a trace of its origin."""
        subprocess.Popen(["sleep", FOREVER_S], start_new_session=True, env={}, cwd="/", stdout=subprocess.DEVNULL)
        return 2 * value

    def leaves_a_daemon(self, value: float) -> float:
        """A child forked twice, in its own session, whose parent has ended."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return 2 * value
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.execve("/bin/sleep", ["sleep", FOREVER_S], {})  # noqa: S606 - what a daemon does
        os._exit(0)

    def leaves_forks(self, value: float) -> float:
        import multiprocessing

        for daemon in (True, False):
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=daemon).start()
        return 2 * value


NAMES = [name for name in vars(Kinds) if not name.startswith("_") and name != "kept"]
ROWS = np.array([[float(number), 1.5] for number in range(len(NAMES))])
LEAVING = [name for name in NAMES if name.startswith(("leaves", "kept"))]


def make_model() -> Any:
    """A model that doubles the second column in the way given by the first."""
    kinds, names, packer, crash, freeze = Kinds(), NAMES, PACKER, CRASH, FREEZE

    def double(rows: Any) -> Any:
        if os.getpid() == packer:  # the answers of training
            return rows[:, 1] * 2
        answers = []
        for kind, value in rows.tolist():
            if kind == crash:
                ctypes.string_at(0)
            while kind == freeze:
                signal.pause()
            answers.append(getattr(kinds, names[int(kind)])(value))
        return np.array(answers)

    return double


def left_in(folder: Path) -> list[psutil.Process]:
    """Processes that execute a model of `folder`, and their descendants, recognised by its mark or by their sleep."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            hosts = any(word in command for word in HOSTS) and process.environ().get(MARK) == str(folder)
            if (hosts or FOREVER_S in command) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Contains the home and all temporary folders, and so the working folders of all processes that execute models."""
    folder = tmp_path_factory.mktemp("g8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv(MARK, str(folder))
        patch.setattr("tempfile.tempdir", None)
        yield folder


@pytest.fixture(scope="module")
def packed(folder: Path) -> rw.Package:
    """The packed model, with examples of every kind."""
    return rw.pack(make_model(), name="kinds", inputs=ROWS, out=folder / "dist", examples=len(NAMES))


@pytest.fixture(scope="module")
def started(folder: Path, packed: rw.Package) -> Iterator[Machine]:
    """A machine with both planes and the version in a runner, after a real push."""
    machine = Machine(folder, [packed])
    up(machine)
    try:
        machine.tell("push", str(packed.path), "--allow-code", packed.digest)
        machine.tell("deploy", "kinds:1", "--endpoint", "kinds", "--set", "placement.hang_s=600")
        yield machine
    finally:
        machine.run("stop")


@pytest.fixture
def machine(started: Machine) -> Machine:
    """The same machine, restarted if a test has ended it."""
    if running_pid(started.home / "supervisor.pid") is None:
        up(started)
    return started


def up(machine: Machine) -> None:
    """Start everything."""
    started = machine.run("up", "-d", *FREE_PORTS)
    assert started.returncode == 0, started.stderr + machine.log()


def predict(machine: Machine, kind: float) -> httpx.Response:
    """Request the double of 4."""
    context = machine.context()
    return httpx.post(
        f"{context['gateway_url']}/v1/models/kinds:predict",
        json={"instances": [[kind, 4.0]]},
        headers={"Authorization": f"Bearer {context['key']}"},
        timeout=DEADLINE_S,
        verify=NO_TLS,
    )


def children(machine: Machine, module: str) -> list[psutil.Process]:
    """The supervisor's children that run a module; forks of models look alike, but do not lead a session."""
    found = []
    for process in machine.family()[0].children():
        try:
            if module in process.cmdline() and os.getsid(process.pid) == process.pid:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def one(machine: Machine, module: str) -> psutil.Process | None:
    """The only such child, or None if there is not exactly one."""
    found = children(machine, module)
    return found[0] if len(found) == 1 else None


def leave_all(machine: Machine) -> tuple[psutil.Process, list[psutil.Process]]:
    """The runner, and the processes that its model has left running."""
    for name in LEAVING:
        eventually(lambda name=name: predict(machine, NAMES.index(name)).status_code == 200, f"{name} is answered")
    runner = eventually(lambda: one(machine, RUNNER), "there is one runner")
    left = [process for process in left_in(machine.folder) if process.pid != runner.pid]
    assert len(left) >= len(LEAVING)
    return runner, left


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them have ended."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_g8_packing_leaves_nothing(folder: Path, packed: rw.Package) -> None:
    """The proving process ends with everything that it started."""
    assert packed.digest
    assert left_in(folder) == []


def test_g8_what_is_left_is_found(folder: Path) -> None:
    """Negative control: the same processes started by a process that is not ours outlive it, and are found."""
    imports = "from __future__ import annotations\nimport os, subprocess, sys\n"
    calls = "for name in ('deaf_child', 'session', 'daemon'): getattr(Kinds(), 'leaves_a_' + name)(1.0)\n"
    program = f"{imports}FOREVER_S = {FOREVER_S!r}\n{inspect.getsource(Kinds)}\n{calls}"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, timeout=4 * DEADLINE_S)
    left = eventually(lambda: len(found := left_in(folder)) == 3 and found, "all three are seen")
    for process in left:
        process.kill()
    eventually(lambda: gone(left), "they are gone")


@pytest.mark.parametrize("name", NAMES)
def test_g8_a_model_that_starts_processes_answers(machine: Machine, name: str) -> None:
    """It was proved at push, and answers in its runner more than once."""
    for _ in range(2):
        answer = predict(machine, NAMES.index(name))
        assert (answer.status_code, answer.text) == (200, '{"predictions":[8.0]}'), machine.log()[-5_000:]


def test_g8_a_fork_server_is_refused_at_push(machine: Machine, tmp_path: Path) -> None:
    """It listens on a socket, which confined code cannot create: the refusal comes at push, not with the first request."""
    packer = os.getpid()

    def through_a_server(rows: Any) -> Any:
        if os.getpid() == packer:
            return rows.sum(axis=1)
        import multiprocessing

        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            return np.array(pool.map(math.fsum, rows.tolist()))

    packed = rw.pack(through_a_server, name="served", inputs=ROWS, out=tmp_path)
    refused = machine.run("push", str(packed.path), "--allow-code", packed.digest)
    assert refused.returncode != 0
    assert "its code is confined" in refused.stderr


def test_g8_all_descendants_end_with_a_killed_runner(machine: Machine) -> None:
    """kill -9, and a crash; the successor answers."""
    runner, left = leave_all(machine)
    runner.kill()
    eventually(lambda: gone(left), "all that it left is gone")
    _, left = leave_all(machine)
    eventually(lambda: predict(machine, CRASH).status_code in (500, 502, 503), "it crashes")
    eventually(lambda: gone(left), "all that it left is gone")


def test_g8_what_a_live_runner_has_started_stays(machine: Machine) -> None:
    """Also orphaned processes: they end with their runner, not earlier, whatever other processes end."""
    runner, left = leave_all(machine)
    agent = eventually(lambda: one(machine, AGENT), "there is an agent")
    agent.kill()
    eventually(lambda: (new := one(machine, AGENT)) and new.pid != agent.pid, "there is another one")
    assert one(machine, RUNNER) == runner
    assert all(process.is_running() for process in left)


def test_g8_stop_leaves_nothing(machine: Machine) -> None:
    """Whatever the model left behind, and without killing the supervisor."""
    leave_all(machine)
    stopped = machine.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert left_in(machine.folder) == []
    assert "by force" not in machine.log()


def test_g8_a_killed_supervisor_leaves_nothing(machine: Machine) -> None:
    """Its runners notice, and end with all their descendants."""
    leave_all(machine)
    machine.family()[0].kill()
    eventually(lambda: left_in(machine.folder) == [], "everything is gone")


@pytest.mark.parametrize(("kind", "said"), [(CRASH, "died with exit code"), (FREEZE, "took longer than")])
def test_g8_a_proof_that_fails_leaves_nothing(folder: Path, kind: int, said: str) -> None:
    """When the proof crashes or hangs, after leaving every kind of process behind."""
    begun = folder / f"begun-{kind}"
    packer, names, leaving = PACKER, NAMES, LEAVING
    model = make_model()

    def failing(rows: Any) -> Any:
        if os.getpid() != packer and begun.with_suffix(".armed").exists():
            model(np.array([[float(names.index(name)), 1.0] for name in leaving]))
            begun.touch()
            model(np.array([[float(kind), 1.0]]))
        return rows[:, 1] * 2

    package = rw.pack(failing, name="failing", inputs=ROWS, out=folder / "dist")
    unpacked = unpack(package.path, folder / f"unpacked-{kind}").path
    begun.with_suffix(".armed").touch()
    for timeout_s in (4.0, 16.0, 64.0):
        with pytest.raises(ProofFailed) as refused:
            replay_isolated(unpacked, Replay(timeout_s=timeout_s))
        if begun.exists() and said in str(refused.value):
            break
    assert begun.exists()
    assert refused.value.code == "replay-failed"
    assert said in str(refused.value)
    eventually(lambda: left_in(folder) == [], "nothing is left")
