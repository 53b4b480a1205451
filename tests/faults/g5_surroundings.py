"""The surroundings of a hostile package: keys, other processes, sockets of every kind; and wrappers that remove features."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roadworthy.foundation.confine import __file__ as confine_file
from roadworthy.foundation.confine.plan import REQUIRED, Bounds, confined, make_plan
from tests.faults.g5_probe import SECRET, Target
from tests.waiting import DEADLINE_S

PROBE = Path(__file__).with_name("g5_probe.py")
WITHOUT = Path(__file__).with_name("g5_without.py")


class Surroundings:
    """The things that a hostile package would look for.

    Attributes:
        folder: holds everything, any user may enter it. target: for the probe. python: an interpreter that any user can run.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack, user: int) -> None:
        self.folder = folder
        self.user = user
        self.python = sys.executable if user == os.geteuid() else "/usr/bin/python3"
        for name in ("home", "package", "write"):
            (folder / name).mkdir()
        (folder / "package" / "own.txt").write_text("its own file")
        (folder / "home" / "context.json").write_text(SECRET)
        shutil.copy(PROBE, folder / "package" / "probe.py")
        shutil.copytree(Path(confine_file).parent, folder / "roadworthy" / "foundation" / "confine")
        name = f"roadworthy-test-{secrets.token_hex(8)}"
        shared = Path("/dev/shm") / name
        shared.write_text(SECRET)
        stack.callback(shared.unlink)
        for path in (folder, shared, *folder.rglob("*")):
            os.chown(path, user, -1)
        self.held_open = stack.enter_context((folder / "home" / "context.json").open())
        os.set_inheritable(self.held_open.fileno(), True)
        other = subprocess.Popen(
            [self.python, "-c", "import sys; print(flush=True); sys.stdin.read()"],
            env={"KEY": SECRET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **({} if user == os.geteuid() else {"user": user, "group": user, "extra_groups": ()}),
        )
        stack.callback(other.__exit__, None, None, None)
        stack.callback(other.kill)
        assert other.stdout is not None
        other.stdout.readline()
        self.target: Target = {
            "context": str(folder / "home" / "context.json"),
            "home": str(folder / "home"),
            "outside": str(folder / "home" / "written"),
            "pid": other.pid,
            "shared": str(shared),
        } | self._sockets(stack, name)

    def _sockets(self, stack: contextlib.ExitStack, name: str) -> dict[str, Any]:
        def bound(family: int, kind: int, address: Any) -> socket.socket:
            end = stack.enter_context(socket.socket(family, kind))
            end.bind(address)
            if kind == socket.SOCK_STREAM:
                end.listen(4_096)  # without accepting
            return end

        stream, datagram = str(self.folder / "s"), str(self.folder / "d")
        bound(socket.AF_UNIX, socket.SOCK_STREAM, stream)
        bound(socket.AF_UNIX, socket.SOCK_DGRAM, datagram)
        bound(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}-s")
        bound(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{name}-d")
        for path in (stream, datagram):
            os.chown(path, self.user, -1)
        return {
            "tcp": bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)).getsockname()[1],
            "udp": bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)).getsockname()[1],
            "stream": stream,
            "datagram": datagram,
            "abstract_stream": f"\0{name}-s",
            "abstract_datagram": f"\0{name}-d",
        }

    def plan(self, policy: str = REQUIRED, grants: tuple[str, ...] = ()) -> dict[str, Any]:
        """The plan of a confined hostile process with grants that the operator allows."""
        plan = make_plan(
            package=self.folder / "package",
            write=self.folder / "write",
            place=str(self.folder / "write" / "p.{pid}.cwd"),
            grants=grants,
            bounds=Bounds(policy, grants, (self.folder / "home",)),
        )
        return {**plan, "read": [*plan["read"], "/usr/bin/python3"]}

    def confined(self, command: list[str], policy: str = REQUIRED, grants: tuple[str, ...] = ()) -> list[str]:
        """The command behind a launcher that any user can read."""
        interpreter, _, _, _, *rest = confined(command, self.plan(policy, grants))
        launcher = self.folder / "roadworthy" / "foundation" / "confine" / "__main__.py"
        assert interpreter == sys.executable
        return [self.python, "-I", "-S", str(launcher), *rest]

    def run(self, command: list[str], *without: str) -> subprocess.CompletedProcess[str]:
        """Run as the user of these surroundings, on a machine without the features in `without` (`g5_without.py`)."""
        wrapped = [sys.executable, str(WITHOUT), str(self.user), ",".join(without), *command]
        return subprocess.run(
            wrapped,
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE_S,
            check=False,
            close_fds=False,
            env={"KEY": SECRET, "PATH": os.defpath},
            stdin=subprocess.DEVNULL,
        )


@contextlib.contextmanager
def surroundings(folder: Path, user: int) -> Iterator[Surroundings]:
    """The surroundings, which exist until the end of the block."""
    with contextlib.ExitStack() as stack:
        yield Surroundings(folder, stack, user)
