"""A fork of a model starts like a fresh process and does not continue its parent's work; leaving a process takes bounded time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.waiting import DEADLINE_S

HEAD = """
import asyncio, atexit, os, signal, socket, sys, threading
from roadworthy.foundation import host
said = []
"""


def run(code: str) -> tuple[int, str]:
    """A process that runs `code`: its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], stdout=subprocess.PIPE, text=True, timeout=4 * DEADLINE_S, check=False
    )
    return done.returncode, done.stdout.strip()


FORK = """
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, b"x")
    while not said:
        threading.Event().wait(0.01)
    os._exit(7)  # a handler was called, and the process went on
os.read(read, 1)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(said))
"""


@pytest.mark.parametrize(("begin", "status"), [("host.begin_hosting()", -15), ("", 7)])
def test_g8_a_fork_does_not_hear_its_parents_signals(begin: str, status: int) -> None:
    """SIGTERM ends it at once. Negative control: without the setup it calls the parent's handler and continues."""
    code = f"{begin}\nhost.hear_stop(lambda: said.append(1))\n{FORK}"
    assert run(code) == (0, f"{status} 0")


GRANDCHILD = """
read, write = os.pipe()
host.begin_hosting()
host.forget_in_forks(lambda: os.close(read))
child = os.fork()
if child == 0:
    os.dup2(write, read)  # its own descriptor has the number that it was to forget
    grandchild = os.fork()
    if grandchild == 0:
        os.fstat(read)
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_g8_what_a_fork_forks_keeps_its_descriptors() -> None:
    """Only the first fork releases what its parent had."""
    assert run(GRANDCHILD) == (0, "0")


LOOP = """
async def main(set_up):
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, said.append, 1)
    host.keep_handlers()
    child = os.fork()
    if child == 0:
        threading.Event().wait()
    os.kill(child, signal.SIGTERM)
    if set_up:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end=" ")
    for _ in range(100 if set_up or sys.version_info >= (3, 12) else 10_000):
        await asyncio.sleep(0.001)
        if said:
            break
    os.kill(child, signal.SIGKILL) if not set_up else None
    print(bool(said))
"""


def test_g8_a_signal_to_a_fork_does_not_reach_its_parents_loop() -> None:
    """A fork shares the descriptor that wakes an event loop. Negative control: without the setup the loop wakes, except on
    Python 3.12 and later, whose asyncio releases the descriptor in forks."""
    assert run(f"{LOOP}\nhost.begin_hosting()\nasyncio.run(main(True))") == (0, "-15 False")
    wakes = sys.version_info < (3, 12)
    assert run(f"{LOOP}\nasyncio.run(main(False))") == (0, str(wakes))


def test_g8_a_model_keeps_its_own_handlers_in_its_forks() -> None:
    """Only the handlers of this process are reset."""
    code = "host.begin_hosting()\nhost.hear_stop(print)\nsignal.signal(signal.SIGTERM, lambda *_: said.append(1))\n" + FORK
    assert run(code) == (0, "7 0")


@pytest.mark.parametrize(
    ("statement", "status"), [("pass", 0), ("sys.exit(5)", 5), ("sys.exit('why')", 1), ("sys.exit()", 0), ("1 / 0", 1)]
)
def test_g8_a_fork_that_comes_back_ends(statement: str, status: int) -> None:
    """With the status that a script would have; the parent continues."""
    code = f"""
here = os.getpid()
child = os.fork()
try:
    if child == 0:
        {statement}
finally:
    host.end_fork(here)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == (0, str(status))


def test_g8_exit_handlers_run_and_may_hang() -> None:
    """A model's exit handlers run; a handler or a thread that never returns does not keep the process."""
    code = """
host.begin_hosting()
atexit.register(threading.Event().wait)
atexit.register(print, "handled", flush=True)
host.leave(3)
"""
    assert run(code) == (3, "handled")
    assert run("host.begin_hosting()\nthreading.Thread(target=threading.Event().wait).start()\nhost.leave(3)") == (
        3,
        "",
    )


def test_g8_exit_handlers_that_wait_for_a_deaf_process_come_back() -> None:
    """They wait for a process that ignores SIGTERM: it is killed, and they continue."""
    code = """
host.begin_hosting()
import multiprocessing
def deaf(ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    signal.pause()
context = multiprocessing.get_context("fork")
ready = context.Event()
atexit.register(print, "over", flush=True)  # runs after those of multiprocessing, which were registered later
child = context.Process(target=deaf, args=(ready,), daemon=True)
child.start()
ready.wait()
host.leave(4)
"""
    status, printed = run(code)
    assert status == 4
    assert printed in ("over", "")  # on a machine that is slow enough the process has had its time
