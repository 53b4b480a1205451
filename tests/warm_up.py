"""`warm_up.py up -d …`: runs a command in a warm process (tests/warm.py). The supervisor forks its children from itself instead
of starting an interpreter for each one, and so does `up -d` with the supervisor. Runners start as usual, since a program confines
them before their interpreter starts."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

MAINS = ("roadworthy.cli.main", "roadworthy.control.__main__", "roadworthy.agent.__main__", "roadworthy.gateway.worker")
"""The main modules of a supervisor and its children."""
MODULES = (
    *MAINS,
    "roadworthy.client.client",
    "alembic.command",
    "anyio._backends._asyncio",
    "httpcore",
    "pydantic.type_adapter",
    "rich.live",
    "rich.progress",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.lifespan.off",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
)
"""What these import, at their start or later."""
UMASK = "WARM_UP_UMASK"
"""The variable with the command's umask, if it is to differ from that of the tests."""
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""The signals for which the supervisor has handlers."""


class Fork:
    """The part of `subprocess.Popen` that the supervisor needs, for a fork of this process that runs a module."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: int | IO[bytes],
        stderr: int = 2,
        pass_fds: Collection[int] = (),
        start_new_session: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)  # until the fork has handlers of its own
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if start_new_session:
                    os.setsid()
                if env is not None:
                    os.environ.clear()
                    os.environ.update(env)
                _become(command, (stdin, stdout, stderr), pass_fds, mask)
            except BaseException:  # noqa: BLE001  no error may continue as the supervisor
                traceback.print_exc()
            finally:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def poll(self) -> int | None:
        """The exit status, or None while it runs; minus the signal that killed it."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """The exit status."""
        return self._wait(0)

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


class Subprocess:
    """Python's module, with forks where a command runs one of our main modules."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, command: Sequence[str], **options: Any) -> Fork | subprocess.Popen[bytes]:  # noqa: N802  Python's name
        """Fork, or start as usual."""
        known = (*MAINS, *(name.removesuffix(".__main__") for name in MAINS))
        if list(command[:3]) == [sys.executable, "-P", "-m"] and command[3] in known:
            return Fork(command, **options)
        return subprocess.Popen(command, **options)


def _become(
    command: Sequence[str], standard: Sequence[int | IO[bytes]], passed: Collection[int], mask: Collection[int]
) -> NoReturn:
    """Run the module of a command in this fork as its own process would, and exit."""
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    gc.collect()
    gc.freeze()  # no object of the supervisor closes its descriptor later, when the number is another file's
    for place, source in enumerate(standard):
        given = source if isinstance(source, int) else source.fileno()
        os.dup2(os.open(os.devnull, os.O_RDWR) if given == subprocess.DEVNULL else given, place)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in passed:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    run(command)


def run(command: Sequence[str]) -> NoReturn:
    """Run `PYTHON -P -m MODULE …` in this process, which the system shows as that command, and exit without taking it down."""
    show_command(command)
    sys.argv = list(command[3:])
    status = 0
    try:
        run_main(command[3])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as at the interpreter's exit: pools end, then threads are joined
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_main(name: str) -> None:
    """Run a main module from the top, although it was imported."""
    for imported in (name, f"{name}.__main__"):
        if imported in MAINS:
            sys.modules.pop(imported, None)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def show_command(command: Sequence[str]) -> None:
    """Make the command the one that the system shows for this process, as far as the place of the first one suffices."""
    begin, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = b"\0".join(word.encode() for word in command) + b"\0"
    ctypes.memmove(begin, text[: end - begin - 1].ljust(end - begin, b"\0"), end - begin)


def main() -> None:
    """Run the command that the arguments name."""
    if (umask := os.environ.pop(UMASK, None)) is not None:
        os.umask(int(umask))
    from roadworthy.cli import detach
    from roadworthy.supervisor import process_group

    for module in (detach, process_group):
        module.subprocess = Subprocess()  # type: ignore[attr-defined]  # the modules use it under this name
    run([sys.executable, "-P", "-m", MAINS[0], *sys.argv[1:]])


if __name__ == "__main__":
    main()
