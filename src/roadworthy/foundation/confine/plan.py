"""Plans what stays open for a confined process, and builds the command line that confines it."""

from __future__ import annotations

import importlib.machinery
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from roadworthy.foundation.confine.grants import not_allowed, openings
from roadworthy.foundation.confine.launcher import BASELINE, FROM_STDIN, NOT_CONFINED, NOT_GRANTED, NOT_THERE, PARTS
from roadworthy.foundation.errors import PackageRefused

QUOTA_BYTES = 1 << 30
"""How many bytes a confined process may write: home, caches and shared memory together."""
REQUIRED, BEST_EFFORT = "required", "best-effort"

_LAUNCHER = Path(__file__).with_name("__main__.py")
_PROBE_S = 30.0
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/System", "/nix/store", "/gnu/store")
_ETC = (
    *(
        "alternatives",
        "ca-certificates",
        "fonts",
        "group",
        "host.conf",
        "hostname",
        "hosts",
        "ld.so.cache",
        "ld.so.conf",
    ),
    *("ld.so.conf.d", "locale.alias", "localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "passwd"),
    *("pki/tls/certs", "protocols", "resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf", "timezone"),
)
# /proc shows of other processes only what every user sees: reading their variables, memory or descriptors takes privileges that a
# confined process does not have. It is open as a whole because child processes look themselves up by ids not known in advance.
_KERNEL = ("/proc", "/sys/devices/system", "/sys/fs/cgroup", "/sys/kernel/mm")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_OF_PREFIX = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg", "Python", "Frameworks")
_PYTHON = (*importlib.machinery.all_suffixes(), ".pth", ".dist-info", ".egg-info", ".libs", ".data", ".zip", ".egg")


def confined(command: Sequence[str], plan: Mapping[str, Any] | None = None) -> list[str]:
    """The command line that confines `command` by the plan. None: the plan comes on standard input, as the member `confine` of a
    line of JSON."""
    text = FROM_STDIN if plan is None else json.dumps(plan)
    return [sys.executable, "-I", "-S", str(_LAUNCHER), text, *command]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the operator of a machine allows the code of packages.

    Attributes:
        confinement: REQUIRED, or BEST_EFFORT: code may execute even where some parts of the confinement do not hold.
        grants: the grants that packages may get (`grants.py`).
        private: folders and files that are never opened, whatever contains them or is granted.
    """

    confinement: str = REQUIRED
    grants: tuple[str, ...] = ()
    private: tuple[Path, ...] = ()


def make_plan(
    *,
    package: Path,
    write: Path,
    place: str,
    listen: Path | None = None,
    grants: Sequence[str] = (),
    bounds: Bounds = Bounds(),
) -> dict[str, Any]:
    """Plan what is open for a process of a package.

    Args:
        package: the package's folder, readable.
        write: a folder in which the process may create plain files and sockets for its parent.
        place: its private folder where it cannot have its own shared memory; `{pid}` stands for the process id.
        listen: path of its Unix socket, or None.
        grants: what the package was granted. If one is out of bounds, the process executes no code.
        bounds: of this machine.
    """
    listed, read = _readable(tuple(sorted({str(each.resolve()) for each in bounds.private} | _homes())))
    more = openings(grants, bounds.grants, bounds.private)
    return {
        "list": list(listed),
        "read": [*read, *(f"/etc/{name}" for name in _ETC), *_KERNEL, str(package), *more.pop("driver", ())],
        "use": list(_DEVICES),
        "write": [str(write)],
        "place": place,
        "listen": None if listen is None else str(listen),
        "quota_bytes": QUOTA_BYTES,
        "best_effort": bounds.confinement == BEST_EFFORT,
        **more,
    }


def parts_held(plan: Mapping[str, Any]) -> dict[str, bool]:
    """Which parts of the confinement hold on this machine; a process that confines itself finds out. Takes some 0.05 s."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            confined([], {**plan, "listen": None}),
            capture_output=True,
            timeout=_PROBE_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        held = json.loads(done.stdout)
        return {part: bool(held[part]) for part in PARTS}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return dict.fromkeys(PARTS, False)


def missing(held: Mapping[str, bool]) -> list[str]:
    """The parts that do not hold, of those without which no code is executed."""
    return [part for part in BASELINE if not held[part]]


def not_confined() -> PackageRefused:
    """The error for code that is not executed because it cannot be confined."""
    return PackageRefused(
        "this machine cannot confine the package's code, so the code is not executed",
        code="confinement-not-available",
        hint="docs/confinement.md lists the requirements; general.confinement = best-effort executes the code anyway",
    )


def refusal(arguments: Iterable[str]) -> PackageRefused | None:
    """Why this process must not execute code, by the arguments that the launcher added; None when it may."""
    for argument in arguments:
        if argument == NOT_CONFINED:
            return not_confined()
        if argument.startswith(NOT_GRANTED):
            return not_allowed(argument.removeprefix(NOT_GRANTED))
        if argument.startswith(NOT_THERE):
            grant = argument.removeprefix(NOT_THERE)
            return PackageRefused(
                f"{grant} was granted to the package, but does not exist on this machine",
                code="grant-not-available",
                hint="provide it; what has become a link, or is not a file, folder or device, counts as missing",
                facts={"grant": grant},
            )
    return None


def _homes() -> set[str]:
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises where the system knows none
    return {os.path.realpath(home)} if home.startswith("/") else set()


@cache
def _readable(private: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders to list, and the files and folders to read, with which a separate process of this interpreter finds its
    modules."""
    prefixes = dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix))
    wanted = [f"{prefix}/{name}" for prefix in prefixes for name in _OF_PREFIX]
    wanted += [sys.executable, *_SYSTEM]
    listed: list[str] = []
    read: list[str] = []
    for path in dict.fromkeys(os.path.realpath(each) for each in _places_of_modules()):
        if not _holds(path, private):
            read.append(path)
        elif os.path.isdir(path):  # noqa: PTH112 - texts throughout
            listed.append(path)
            read += [each for each in _modules_in(path) if not _holds(each, private)]
    for path in dict.fromkeys(os.path.realpath(each) for each in wanted):
        read += _around(path, private)
    return tuple(listed), tuple(read)


def _around(path: str, private: Sequence[str]) -> Iterator[str]:
    """The path itself, or its content without what is private."""
    if not _holds(path, private):
        yield path
    elif path not in private and os.path.isdir(path):  # noqa: PTH112 - texts throughout
        for name in os.listdir(path):  # noqa: PTH208 - texts throughout
            yield from _around(f"{path}/{name}", private)


def _places_of_modules() -> Iterator[str]:
    yield from (path for path in sys.path if path.startswith("/"))
    for name, module in list(sys.modules.items()):  # editable installs that use a finder instead of a folder
        mapping = getattr(module, "MAPPING", None) if name.startswith("__editable__") else None
        yield from (str(path) for path in mapping.values()) if isinstance(mapping, dict) else ()


def _modules_in(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            package = entry.is_dir() and Path(entry.path, "__init__.py").exists()
            if not entry.name.startswith(".") and (package or entry.name.endswith(_PYTHON)):
                yield os.path.realpath(entry.path)


def _holds(path: str, private: Iterable[str]) -> bool:
    """Whether `path` is private or contains something private."""
    return any(each == path or each.startswith(path.rstrip("/") + "/") for each in private)
