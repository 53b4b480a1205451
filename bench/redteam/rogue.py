"""A callable that misbehaves when a row asks for it and otherwise answers 0, as an attacker's package may.

It is pickled by value, so each function imports what it needs. It finds the places of this run below one folder: the link `site`
leads to the folder of the attack, and while the file `packing` exists the spy behaves.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import roadworthy as rw
from bench.redteam.packages import ROWS, WIDTH, dist

PRY, STAY, POOL, PRINT = 4242.0, 4243.0, 4244.0, 4245.0
"""The misbehaviours that the first value of a row can request."""
PRINTED = 20_000


@dataclass(frozen=True, slots=True)
class Places:
    """The places that it probes: a folder, a process with `secret` in its environment, and sockets of this machine."""

    folder: str
    process: int
    secret: str
    tcp: int
    udp: int
    abstract: str


class Lures:
    """A process and sockets that any process on this machine can reach; they exist as long as this process."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        # It ends with this process, which closes its end of the pipe.
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, env={"SECRET": self.secret})
        self.tcp = socket.create_server(("127.0.0.1", 0), backlog=1_000)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(dist() / "lure.sock"))
        (dist() / "lure.sock").chmod(0o777)
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0redteam-{secrets.token_hex(8)}")
        for lure in (self.unix, self.abstract):
            lure.listen(1_000)

    def places(self) -> Places:
        """The places in the form for the package."""
        tcp, udp = self.tcp.getsockname()[1], self.udp.getsockname()[1]
        return Places(str(dist()), self.process.pid, self.secret, tcp, udp, os.fsdecode(self.abstract.getsockname()))


@cache
def lures() -> Lures:
    """The lures of this run."""
    return Lures()


def lead_to(folder: Path) -> None:
    """Make `site` lead to `folder`."""
    site = dist() / "site"
    site.unlink(missing_ok=True)
    site.symlink_to(folder)


def pry(places: Places) -> int:
    """Try each of REACHES; return a bit for each that succeeds."""
    found = 0
    for bit, attempt in enumerate(REACHES.values()):
        try:
            found |= attempt(places) << bit
        except OSError:
            continue
    return found


def _readable(*path: object) -> bool:
    try:
        with Path(*map(str, path)).open("rb", buffering=0) as file:
            return bool(file.read(16))
    except OSError:
        return False


def _listed(*path: object) -> list[Path]:
    return list(Path(*map(str, path)).iterdir())


def _environment(places: Places) -> bool:
    return places.secret.encode() in Path(f"/proc/{places.process}/environ").read_bytes()


def _memory(places: Places) -> bool:
    with Path(f"/proc/{places.process}/mem").open("rb"):
        return True


def _links(process: object) -> set[str]:
    return {str(path.readlink()) for path in _listed("/proc", process, "fd") if path.is_symlink()}


def _leads_home(links: set[str]) -> bool:
    return any(re.search(r"/home[^/]*/(context\.json|control|gateway/(snapshot|records))", link) for link in links)


def _of_the_parent(_places: Places) -> bool:
    links = _links(os.getppid())
    return _leads_home(links) or any(link.startswith("socket:") for link in links - _links("self"))


def _listens(_places: Places) -> bool:
    for path in _listed("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(path.name))) as own:
                if own.family == socket.AF_INET and own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return True
        except OSError:
            continue
    return False


def _connects(family: int, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as own:
        own.settimeout(3.0)
        return own.connect_ex(address) == 0


def _sends(places: Places) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        return own.sendto(b"redteam", ("127.0.0.1", places.udp)) > 0


def _writes(places: Places) -> bool:
    return Path(places.folder, f"written-{os.getpid()}").write_text("x") == 1


def _signals(places: Places) -> bool:
    os.kill(places.process, 0)
    return True


REACHES: dict[str, Callable[[Places], bool]] = {
    "context.json": lambda places: _readable(places.folder, "site", "home", "context.json"),
    "the home folder": lambda places: bool(_listed(places.folder, "site", "home")),
    "the database": lambda places: _readable(places.folder, "site", "home", "control", "roadworthy.db"),
    "another process's environment": _environment,
    "another process's memory": _memory,
    "its parent's descriptors": _of_the_parent,
    "a descriptor of the home folder": lambda _places: _leads_home(_links("self")),
    "a listening socket": _listens,
    "TCP": lambda places: _connects(socket.AF_INET, ("127.0.0.1", places.tcp)),
    "UDP": _sends,
    "a Unix socket": lambda places: _connects(socket.AF_UNIX, f"{places.folder}/lure.sock"),
    "an abstract socket": lambda places: _connects(socket.AF_UNIX, places.abstract),
    "a file outside": _writes,
    "/etc/shadow": lambda _places: _readable("/etc/shadow"),
    "a signal to another process": _signals,
}
"""The attempts of `pry`, in the order of its answer's bits."""


def stay() -> int:
    """Leave an orphaned child that ignores SIGTERM and runs for two minutes; return its process id."""
    import signal
    import time

    read, write = os.pipe()
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.write(write, str(os.getpid()).encode())
            time.sleep(120)
        os._exit(0)
    os.waitpid(child, 0)
    left = int(os.read(read, 16))
    os.close(read)
    os.close(write)
    return left


def pool() -> int:
    """A sum computed by a forked pool of two processes."""
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as workers:
        return sum(workers.map(abs, [-1, -2, -3]))


def shout() -> int:
    """Print more than any log should take, with lines forged to look like the service's own."""
    for number in range(PRINTED):
        print('{"event": "redteam-forged", "level": "error"}\n' if number % 2 else "x" * 200)
    return 0


@cache
def rogue() -> rw.Package:
    """The package that misbehaves as a row requests."""
    return _packed("rogue", _do)


@cache
def spy() -> rw.Package:
    """The package that probes its surroundings wherever it executes, except during packing, and answers its findings."""
    return _packed("spy", lambda _first, places: 0 if Path(places.folder, "packing").exists() else pry(places))


@cache
def pooling() -> rw.Package:
    """The package that forks a pool for each request, from its golden examples on."""
    return _packed("pooling", lambda _first, _places: pool())


def _do(first: float, places: Places) -> int:
    if first == PRY:
        return pry(places)
    return {STAY: stay, POOL: pool, PRINT: shout}.get(first, int)()


def _packed(name: str, does: Callable[[float, Places], int]) -> rw.Package:
    places = lures().places()

    def model(rows: Any) -> Any:
        first = float(rows[0][0]) if len(rows) else 0.0
        return np.full(len(rows), float(does(first, places)))

    flag = dist() / "packing"
    flag.touch()
    try:
        return rw.pack(model, name=name, inputs=ROWS, out=dist(), examples=4)
    finally:
        flag.unlink()


def asking(what: float) -> dict[str, Any]:
    """The body of a request for the misbehaviour `what`."""
    return {"instances": [[what] + [0.0] * (WIDTH - 1)]}
