"""A model that crashes, hangs, holds the GIL, cannot be loaded or misbehaves ends at most its own runner process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from roadworthy.foundation.errors import Unavailable
from roadworthy.runtime.runners.isolated import state
from roadworthy.runtime.runners.isolated.launch import EXIT_LOAD_FAILED
from roadworthy.runtime.runners.isolated.state import RunnerState
from tests.runtime.runners.isolated.runners import Caller, Runner, StartRunner, play, rows, start_runner, told
from tests.waiting import DEADLINE_S, eventually

__all__ = ["start_runner"]


def is_busy(runner: Runner) -> bool:
    """Whether the model is running."""
    return runner.state is not None and runner.state.busy_since_ns != 0


@pytest.mark.parametrize(("kind", "code"), [("refused", "package-refused"), ("load-raises", "load-failed")])
def test_c1_a_load_that_raises_is_told(start_runner: StartRunner, tmp_path: Path, kind: str, code: str) -> None:
    """Workers get code and reason without internals; when asked to retry, the process ends so that a new one can start."""
    runner = start_runner(kind)

    async def scene(caller: Caller) -> None:
        pending = caller.submit(rows(1))
        await caller.until(lambda: caller.batcher.refusal)
        refusal = caller.batcher.refusal
        assert refusal is not None
        assert refusal.code == code
        assert "secret" not in str(refusal.reason)
        outcome = await pending.outcome
        assert isinstance(outcome, Unavailable)
        assert outcome.code == code
        assert runner.state is not None
        assert state.NAMES[runner.state.state] == "FAILED"
        caller.batcher.try_again()
        assert await asyncio.to_thread(runner.process.wait, 15) == EXIT_LOAD_FAILED
        start_runner("sum")
        await caller.ready()
        assert await caller.ask(rows(2)) == [[2.0]]

    play(tmp_path, scene)


def test_c1_a_load_that_hangs_is_told_in_time(start_runner: StartRunner, tmp_path: Path) -> None:
    """At its time limit the version has failed, and the process can still be stopped."""
    runner = start_runner("load-hangs", load_s=0.5)

    async def scene(caller: Caller) -> None:
        await caller.until(lambda: caller.batcher.refusal)
        refusal = caller.batcher.refusal
        assert refusal is not None
        assert refusal.code == "load-timeout"

    play(tmp_path, scene)
    assert runner.stop() == 0


def test_c1_a_failed_successor_does_not_replace_who_serves(start_runner: StartRunner, tmp_path: Path) -> None:
    """The answering runner keeps the address; the one that could not load waits behind it."""
    start_runner("sum").wait_shown()
    successor = start_runner("refused")
    eventually(lambda: successor.state and successor.state.state == state.FAILED, "the second load fails")

    async def scene(caller: Caller) -> None:
        assert await caller.ask(rows(1)) == [[1.0]]
        assert caller.batcher.refusal is None

    play(tmp_path, scene)
    assert successor.stop() == 0


@pytest.mark.parametrize(("kind", "status"), [("segfault", -11), ("abort", -6)])
def test_c2_c3_a_crash_fails_only_what_was_in_it(start_runner: StartRunner, tmp_path: Path, kind: str, status: int) -> None:
    """The request that crashed its runner gets 503; requests that had not started wait, and are answered after the restart."""
    runner = start_runner(kind)

    async def scene(caller: Caller) -> None:
        await caller.ready()
        poison = caller.submit(rows(13))
        await asyncio.sleep(0)  # its message is sent
        # Until the runner is busy: requests waiting when it starts run together.
        await caller.until(lambda: runner.process.poll() is not None or is_busy(runner))
        others = [caller.submit(rows(n)) for n in range(5)]
        outcome = await poison.outcome
        assert isinstance(outcome, Unavailable)
        assert outcome.code == "runner-died"
        assert await asyncio.to_thread(runner.process.wait, 15) == status
        start_runner(kind)
        settled = [told(await pending.outcome) for pending in others]
        assert settled == [[float(n)] for n in range(5)]
        assert await caller.ask(rows(7)) == [[7.0]]

    play(tmp_path, scene)


def test_c3_the_other_copy_goes_on(start_runner: StartRunner, tmp_path: Path) -> None:
    """When one of two runners crashes, the other one answers before a successor exists."""
    start_runner("segfault")
    start_runner("segfault", copy=1)

    async def scene(caller: Caller) -> None:
        await caller.until(lambda: all(link.is_open for link in caller.batcher._links))
        assert await caller.ask(rows(13)) == ["runner-died"]
        for n in range(20):
            assert await caller.ask(rows(n if n != 13 else 0)) == [[float(n if n != 13 else 0)]]

    play(tmp_path, scene, copies=2)


def test_c4_an_endless_run_ends_its_process(start_runner: StartRunner, tmp_path: Path) -> None:
    """A loop in the model: after hang_s its requests get 503, the process ends, and its successor answers those that waited."""
    runner = start_runner("loop", hang_s=1.0)

    async def scene(caller: Caller) -> None:
        await caller.ready()
        stuck = [caller.submit(rows(13)), caller.submit(rows(2))]
        await caller.until(lambda: is_busy(runner))
        waits = caller.submit(rows(3))
        assert [told(await pending.outcome) for pending in stuck] == ["runner-hung"] * 2
        assert await asyncio.to_thread(runner.process.wait, 15) == -9
        start_runner("loop")
        assert told(await waits.outcome) == [3.0]

    play(tmp_path, scene)
    eventually(lambda: "runner-hung" in runner.log(), "the log says why")


def test_c4_a_run_that_holds_the_gil_is_seen_from_outside(start_runner: StartRunner, tmp_path: Path) -> None:
    """No thread of the runner can act, but its state file shows since when it is busy, so that the agent can kill it."""
    runner = start_runner("hold-gil", hang_s=0.3)

    async def scene(caller: Caller) -> None:
        await caller.ready()
        stuck = caller.submit(rows(13))

        def overdue() -> bool:
            seen = RunnerState.read(runner.address)
            return seen is not None and seen.pid == runner.process.pid and seen.busy_s > 0.6

        await caller.until(overdue)
        assert runner.process.poll() is None  # its own watchdog could not act
        assert not stuck.outcome.done()
        runner.process.kill()
        assert told(await stuck.outcome) == "runner-died"

    play(tmp_path, scene)


def test_c5_progress_is_seen_on_the_line(start_runner: StartRunner, tmp_path: Path) -> None:
    """The worker shows since when the oldest message is unanswered, and nothing when all are answered."""
    runner = start_runner("loop")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        assert await caller.ask(rows(1)) == [[1.0]]
        assert caller.batcher.busy_since is None
        stuck = caller.submit(rows(13))
        await caller.until(lambda: is_busy(runner))
        since = caller.batcher.busy_since
        assert since is not None
        caller.submit(rows(2))
        assert caller.batcher.busy_since == since
        runner.process.kill()
        assert told(await stuck.outcome) == "runner-died"
        assert caller.batcher.busy_since != since

    play(tmp_path, scene)


def test_c12_threads_files_and_memory_stay(start_runner: StartRunner, tmp_path: Path) -> None:
    """After thousands of calls and a hundred connections the runner has as many descriptors and threads as before."""
    runner = start_runner("sum")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        process = psutil.Process(runner.process.pid)

        async def load() -> None:
            for _ in range(30):
                await caller.ask(*(rows(n) for n in range(100)))
            for _ in range(50):
                other = Caller(tmp_path, 1, None, caller.batcher.digest)
                assert await other.ask(rows(1)) == [[1.0]]
                other.batcher.close()

        await load()
        await caller.until(lambda: process.num_fds() < 20)
        before = (process.num_fds(), process.num_threads(), process.memory_info().rss, psutil.Process().num_fds())
        await load()
        await caller.until(lambda: process.num_fds() <= before[0])
        assert process.num_threads() == before[1]
        assert process.memory_info().rss - before[2] < 4 << 20
        await caller.until(lambda: psutil.Process().num_fds() <= before[3])

    play(tmp_path, scene)


def test_c13_what_a_model_does_to_its_process_stays_there(start_runner: StartRunner, tmp_path: Path) -> None:
    """Prints go to the log; a changed folder, environment or signal handler does no harm; its children end with it."""
    runner = start_runner("rude")
    children: list[int] = []

    async def scene(caller: Caller) -> None:
        await caller.ready()
        (told_pids,) = await caller.ask(rows(13))
        children.extend((int(told_pids[0]) // 10_000_000, int(told_pids[0]) % 10_000_000))
        assert all(psutil.pid_exists(pid) for pid in children)
        assert await caller.ask(rows(1)) == [[1.0]]

    play(tmp_path, scene)
    assert runner.stop() == 0
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in children), "its children have ended")
    assert "printed by the model" in runner.log()
    assert "complained by the model" in runner.log()
    assert sorted(path.name for path in runner.address.parent.iterdir()) == []


def test_g8_a_fork_holds_none_of_its_runners_connections(start_runner: StartRunner, tmp_path: Path) -> None:
    """Workers notice at once that a runner was killed, although a fork of it lives on."""
    runner = start_runner("fork")

    def sockets(pid: int) -> set[str]:
        held = []
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                held.append(path.readlink().name)
        return {name for name in held if name.startswith(("socket:", "anon_inode:[eventpoll]"))}

    async def scene(caller: Caller) -> None:
        await caller.ready()
        ((told_pid,),) = await caller.ask(rows(13))
        assert len(sockets(runner.process.pid)) > 3
        await caller.until(lambda: not sockets(int(told_pid)))
        assert await caller.ask(rows(1)) == [[1.0]]
        runner.process.kill()
        try:
            await caller.until(lambda: not [each for link in caller.batcher._links for each in link._connections()])
        finally:
            os.kill(int(told_pid), signal.SIGKILL)

    play(tmp_path, scene)


def test_c13_a_model_runs_in_an_empty_folder_of_its_own(start_runner: StartRunner, tmp_path: Path) -> None:
    """Its working folder is private and empty, and not searched for modules."""
    start_runner("where")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        assert await caller.ask(rows(13)) == [[0.0]]

    play(tmp_path, scene)


def test_what_a_killed_runner_left_is_swept(start_runner: StartRunner, tmp_path: Path) -> None:
    """Sockets, state files and folders of killed runners are deleted when the next runner of the address starts."""
    killed = start_runner("sum").wait_shown()
    killed.end()
    left = f"{killed.address.name}.{killed.process.pid}"
    assert [path for path in killed.address.parent.iterdir() if path.name.startswith(left)]
    start_runner("sum").wait_shown()
    eventually(lambda: not [path for path in killed.address.parent.iterdir() if path.name.startswith(left)], "it is swept")


def test_d2_a_runner_ends_with_its_parent(start_runner: StartRunner, tmp_path: Path) -> None:
    """When the pipe from its parent closes, for any reason, the runner stops by itself."""
    runner = start_runner("sum").wait_shown()
    assert runner.process.stdin is not None
    runner.process.stdin.close()
    assert runner.process.wait(DEADLINE_S) == 0


def test_d16_nothing_is_forked_after_threads(start_runner: StartRunner, tmp_path: Path) -> None:
    """The runner is started by exec and starts no process of its own."""
    runner = start_runner("sum").wait_shown()
    assert psutil.Process(runner.process.pid).children() == []
    assert os.getpgid(runner.process.pid) == runner.process.pid
