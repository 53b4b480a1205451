"""Starts processes from an interpreter that has already imported their modules, for processes that tests start by the hundred
without testing their start. Each is a separate process, forked before it has a thread, that runs its main module from the top.

Run by its path, this file is that interpreter: `warm.py DESCRIPTOR MODULE …`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

_HIGH = 500
_SIZE = 1 << 16
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}
NO_THREAD_OF_ARROW = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


class WarmProcess:
    """The part of `subprocess.Popen` that tests need, for a warm process."""

    def __init__(self, pid: int, status: int, stdin: IO[bytes]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.returncode: int | None = None
        self._status = status
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; minus the signal that killed it.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a warm process", timeout or 0.0)
            self.returncode = int(os.read(self._status, 16))
            os.close(self._status)
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """kill -15."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The test's end of the interpreter. Close it last: the processes it started are its children."""

    def __init__(self, *modules: str, flags: Sequence[str] = (), python: str = sys.executable) -> None:
        """`flags`: Python's, with which it starts, and so its processes. `python`: the interpreter of their environment."""
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [python, *flags, __file__, str(other.fileno()), *modules]
        self._process = subprocess.Popen(
            command, pass_fds=[other.fileno()], env={**os.environ, **ONE_THREAD, **NO_THREAD_OF_ARROW}
        )
        other.close()

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        descriptors: Sequence[int] = (),
        stdout: int = 1,
        stderr: int = 2,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        session: bool = False,
    ) -> WarmProcess:
        """Run `-m MODULE …`, `-c CODE` or `PATH …` with `descriptors` under their own numbers, and a pipe as standard input.
        `session`: in one of its own."""
        stdin, write_end = os.pipe()
        status, told = os.pipe()
        request = {
            "arguments": list(map(str, arguments)),
            "descriptors": list(descriptors),
            "folder": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "session": session,
        }
        given = [told, stdin, stdout, stderr, *descriptors]
        socket.send_fds(self._socket, [json.dumps(request).encode()], given)
        os.close(stdin)
        os.close(told)
        pid = int(self._socket.recv(16))
        return WarmProcess(pid, status, os.fdopen(write_end, "wb"))

    def run(
        self, arguments: Sequence[str | Path], *, timeout: float, cwd: Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end with empty standard input; return the output as text."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            process = self.start(arguments, stdout=out.fileno(), stderr=errors.fileno(), cwd=cwd, env=env)
            assert process.stdin is not None
            process.stdin.close()
            try:
                status = process.wait(timeout)
            finally:
                process.kill()
                process.wait()
            printed = []
            for file in (out, errors):
                file.seek(0)
                printed.append(file.read().decode())
        return subprocess.CompletedProcess(list(map(str, arguments)), status, *printed)

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()


@cache
def nursery(*modules: str, flags: tuple[str, ...] = (), python: str = sys.executable) -> Nursery:
    """This test process's nursery for these modules; closed when the process ends."""
    opened = Nursery(*modules, flags=flags, python=python)
    atexit.register(opened.close)
    return opened


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Serve start requests until their end, then return None. In each child, return the request to run there."""
    running: dict[int, tuple[int, int]] = {}  # process descriptor: process id, and descriptor for its exit status
    while True:
        ready, _, _ = select.select([requests, *running], [], [])
        for handle in (each for each in ready if each in running):
            pid, told = running.pop(handle)
            os.write(told, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
            os.close(handle)
            os.close(told)
        if requests not in ready:
            continue
        message, given, _, _ = socket.recv_fds(requests, _SIZE, 16)
        if not message:
            return None
        # Away from their final numbers.
        told, *high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _HIGH) for each in given]
        for each in given:
            os.close(each)
        pid = os.fork()
        if pid == 0:
            for each in (told, *(number for handle, (_, own) in running.items() for number in (handle, own))):
                os.close(each)
            requests.close()
            request: dict[str, Any] = json.loads(message)
            if request["session"]:
                os.setsid()
            for source, number in zip(high, (0, 1, 2, *request["descriptors"]), strict=True):
                os.dup2(source, number)
                os.close(source)
            return request
        for each in high:
            os.close(each)
        running[os.pidfd_open(pid)] = (pid, told)
        requests.send(str(pid).encode())


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Import, then serve; each child continues as if started normally."""
    for name in modules:
        importlib.import_module(name)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        sys.exit("a thread is already running: forks would be incomplete processes")
    gc.freeze()
    request = _serve(socket.socket(fileno=descriptor))
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for name in modules:  # a main module runs from the top, although it was imported
        if name.endswith((".__main__", ".main")) or name in request["arguments"]:
            del sys.modules[name]
    if request["arguments"][0] == "-m":
        sys.argv = request["arguments"][1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif request["arguments"][0] == "-c":
        sys.argv = ["-c", *request["arguments"][2:]]
        exec(request["arguments"][1], {"__name__": "__main__"})  # noqa: S102  as Python's own -c does
    else:
        sys.argv = request["arguments"]
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
