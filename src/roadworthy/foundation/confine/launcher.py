"""The launcher's main: restricts this process by its plan, then becomes the command.

Parts that the system does not support are skipped. When too few parts hold, or something granted is missing, the command gets an
extra argument that says so, and executes no code of a package; with `best_effort` it continues with the parts that hold.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import stat

from roadworthy.foundation.confine import landlock, namespaces, seccomp
from roadworthy.foundation.confine.environment import filtered

TYPE_CHECKING = False  # without an import of `typing`: a runner waits for this process, so it imports little
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

LISTENER = 3
"""Descriptor of the listening socket, if the plan has one."""
NOT_CONFINED, NOT_GRANTED, NOT_THERE = "--not-confined", "--not-granted=", "--not-there="
"""Extra arguments of the command. The last two are followed by a grant: one that this machine does not allow, or does not
have."""
FROM_STDIN = "-"
"""Given instead of a plan: the plan is the member `confine` of the JSON line on the standard input socket, where it stays
unread."""
BASELINE = ("privileges", "files", "sockets", "limits")
PARTS = (*BASELINE, "signals", "user", "network", "memory")

_EXIT_REFUSED = 78
"""The same as in `foundation/child.py`, which is slow to import."""
_MOST_FILES = 4_096
_LONGEST_LINE = 1 << 20


def main(plan_text: str, command: list[str]) -> None:
    """Confine and execute; without a command, print which parts hold. A failure here exits with 78 and counts against no
    package."""
    try:
        _become(plan_text, command)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it has no valid plan"
        os.write(2, f"cannot confine this process: {reason}; Roadworthy starts it, it is not for use by hand\n".encode())
        os._exit(_EXIT_REFUSED)


def _become(plan_text: str, command: list[str]) -> None:
    plan = _plan_on_stdin() if plan_text == FROM_STDIN else json.loads(plan_text)
    listener = _listen(plan["listen"]) if plan.get("listen") else None
    lacking: list[str] = []
    held = _restrict(plan, listener, lacking)
    if not command:
        os.write(1, json.dumps(held).encode("ascii"))
        return
    why = [plan["refused"]] if "refused" in plan else lacking[:1]
    if not plan.get("best_effort") and not all(held[part] for part in BASELINE):
        why = [NOT_CONFINED]
    os.execve(command[0], [*command, *why], filtered(_places()))  # noqa: S606 - the command is Roadworthy's own


def _restrict(plan: dict[str, Any], listener: int | None, lacking: list[str]) -> dict[str, bool]:
    """Apply all restrictions in the order that the kernel needs; return which parts hold. Missing grants are added to
    `lacking`."""
    held = dict.fromkeys(PARTS, False)
    quota = int(plan["quota_bytes"])
    network = plan.get("network")
    ports = network if isinstance(network, list) else None
    held["user"] = _try(namespaces.own_user)
    held["network"] = network is None and _try(namespaces.own_network)
    held["memory"] = _try(lambda: namespaces.own_memory_files(quota))
    place = f"{namespaces.SHARED_MEMORY}/own" if held["memory"] else plan["place"].replace("{pid}", str(os.getpid()))
    _settle(place)
    _keep_descriptors(listener)
    held["limits"] = _try(lambda: _limit(quota))
    held["privileges"] = _try(namespaces.no_privileges)
    has = 0
    with contextlib.suppress(OSError):
        has = landlock.restrict([*_rules(plan, place), *_granted(plan, lacking)], ports, bind_only=network == "any")
        held["files"], held["signals"] = True, landlock.scopes(has)
    reach = seccomp.NOTHING if network is None else seccomp.ANYWHERE if ports is None else seccomp.PORTS
    held["sockets"] = _try(lambda: seccomp.restrict(reach)) and (ports is None or landlock.knows_ports(has))
    return held


def _try(part: Callable[[], object]) -> bool:
    try:
        part()
    except OSError:
        return False
    return True


def _rules(plan: dict[str, Any], place: str) -> Iterator[tuple[str, int]]:
    yield from ((path, landlock.LIST) for path in plan["list"])
    yield from ((path, landlock.READ) for path in plan["read"])
    yield from ((path, landlock.USE) for path in plan["use"])
    yield from ((path, landlock.KEEP) for path in plan["write"])
    yield from ((path, landlock.OWN) for path in (place, namespaces.SHARED_MEMORY))


def _granted(plan: dict[str, Any], lacking: list[str]) -> Iterator[tuple[str, int]]:
    """Rules for what a person has granted, which must still be what it was when the plan was made. Descriptors stay open until
    the command runs, so that nothing can replace what was checked."""
    for kind, rights in (("read", landlock.READ), ("device", landlock.DEVICE)):
        for path in plan.get("granted", {}).get(kind, ()):
            try:
                seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
                mode, here = os.fstat(seen).st_mode, f"/proc/self/fd/{seen}"
                fits = stat.S_ISCHR(mode) if kind == "device" else stat.S_ISREG(mode) or stat.S_ISDIR(mode)
                fits = fits and os.readlink(here) == path  # noqa: PTH115 - texts throughout
            except OSError:
                fits = False
            if fits:
                yield here, rights
            else:
                lacking.append(f"{NOT_THERE}{kind}:{path}")


def _places() -> dict[str, str]:
    """Variables that name the process's own folders, which are in its current folder."""
    own = os.getcwd()  # noqa: PTH109 - importing pathlib takes as long as all of the launcher
    names = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "NUMBA_CACHE_DIR": "cache/numba"}
    names |= {"JOBLIB_TEMP_FOLDER": "tmp", "XDG_CONFIG_HOME": "home/.config", "XDG_DATA_HOME": "home/.local/share"}
    return {name: f"{own}/{below}" for name, below in names.items()}


def _settle(place: str) -> None:
    """Change to an empty private folder, and create the folders that `_places` names."""
    os.umask(0o077)
    if os.path.isdir(place):  # noqa: PTH112 - as above
        import shutil

        shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place, mode=0o700, exist_ok=True)  # noqa: PTH103 - as above
    os.chdir(place)
    for path in _places().values():
        os.makedirs(path, mode=0o700, exist_ok=True)  # noqa: PTH103 - as above


def _listen(address: str) -> int:
    """A socket bound next to `address`; the runner moves it there (`Server.open`)."""
    folder, _, name = address.rpartition("/")
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    temporary = f"{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{folder}/{temporary}")  # noqa: PTH108 - as above
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(folder)  # the path may be longer than a socket address can be
        os.umask(0o177)
        listener.bind(temporary)
        os.fchdir(here)
    finally:
        os.close(here)
    listener.listen(128)
    return listener.detach()


def _keep_descriptors(listener: int | None) -> None:
    """Close all descriptors but the standard ones and the listener. A terminal becomes write-only."""
    if listener is not None:
        os.dup2(listener, LISTENER)
        os.set_inheritable(LISTENER, True)  # dup2 does nothing when it has that number already
    os.closerange(LISTENER + (listener is not None), os.sysconf("SC_OPEN_MAX"))
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            writes_only = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
            if not writes_only and stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NOCTTY), descriptor)


def _limit(quota_bytes: int) -> None:
    """Set resource limits; not on address space, which would end code that maps much, nor on processes, which counts those of
    others."""
    log = os.fstat(2)
    largest = quota_bytes + (log.st_size if stat.S_ISREG(log.st_mode) else 0)
    for name, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, largest),
        (resource.RLIMIT_NOFILE, _MOST_FILES),
    ):
        hard = resource.getrlimit(name)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(name, (least, least))
        except ValueError as error:
            raise OSError(errno.EPERM, str(error)) from error


def _plan_on_stdin() -> dict[str, Any]:
    waiting = _socket.socket(fileno=0)
    line = b""
    while b"\n" not in line and len(line) < _LONGEST_LINE:
        select.select([waiting], [], [])
        before, line = len(line), waiting.recv(_LONGEST_LINE, _socket.MSG_PEEK)
        if not line:
            break
        if len(line) == before:  # the rest is on its way
            select.select([], [], [], 0.001)
    waiting.detach()
    plan: dict[str, Any] = json.loads(line)["confine"]
    return plan
