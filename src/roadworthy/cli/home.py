"""The home folder: what `up`, `serve`, `gateway` and `control` keep on this machine, with the permissions of each file.

context.json (addresses and admin key for the command line, 0600), gateway.key (0600), control.epoch, control/, gateway/, serve/,
logs/, and one pid file each for the supervisor, the gateway and the control plane.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roadworthy.foundation.files import private_folder, write_atomic
from roadworthy.foundation.keys import key_id, make_key
from roadworthy.foundation.pidfile import hold_pid_file, running_pid

PRIVATE = 0o600
LOCAL = "local"
"""Name of the key that the first start creates for the local gateway, and of that gateway."""
SUPERVISOR, GATEWAY, CONTROL = "supervisor.pid", "gateway.pid", "control.pid"
PID_FILES = (SUPERVISOR, GATEWAY, CONTROL)


@dataclass(frozen=True, slots=True)
class Context:
    """The addresses and the key that the command line and the Python client use by default. `key` is None when the database has
    not accepted an admin key of this home folder."""

    control_url: str
    gateway_url: str
    key: str | None


@dataclass(frozen=True, slots=True)
class PlaneKeys:
    """The keys that this home folder offers to the database. The control plane accepts the admin key only when the database has
    no admin key yet.

    Attributes:
        admin, gateway: the keys as text.
        admin_new, gateway_new: whether the key was created just now.
        own_gateway: whether a gateway starts with the control plane; its key is then always registered.
    """

    admin: str
    gateway: str
    admin_new: bool
    gateway_new: bool
    own_gateway: bool

    def bootstrap(self) -> list[dict[str, Any]]:
        """The keys as entries of the control plane's start document."""
        admin = {"id": key_id(self.admin), "key": self.admin, "role": "admin", "only_first": True}
        gateway = {
            "id": key_id(self.gateway),
            "key": self.gateway,
            "role": "gateway",
            "only_first": not self.own_gateway,
        }
        return [admin, {**gateway, "name": LOCAL}]


class Home:
    """The home folder at `path`, created with access for this user only when it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = private_folder(path)

    @property
    def gateway(self) -> Path:
        """The gateway's folder."""
        return private_folder(self.path / "gateway")

    @property
    def control(self) -> Path:
        """The control plane's folder."""
        return private_folder(self.path / "control")

    @property
    def log(self) -> Path:
        """The log file of a detached process."""
        return private_folder(self.path / "logs") / "roadworthy.log"

    def served(self, endpoint: str) -> Path:
        """The folder of the private gateway that `serve` runs."""
        return private_folder(private_folder(self.path / "serve") / endpoint)

    def context(self) -> Context | None:
        """The context that was written last, or None."""
        try:
            document = json.loads((self.path / "context.json").read_bytes())
            key = document.get("key")
            return Context(str(document["control_url"]), str(document["gateway_url"]), None if key is None else str(key))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write_context(self, context: Context) -> None:
        """Replace the context."""
        document = {name: value for name in Context.__slots__ if (value := getattr(context, name)) is not None}
        write_atomic(self.path / "context.json", json.dumps(document, indent=2).encode("utf-8"), mode=PRIVATE)

    @property
    def epoch_file(self) -> Path:
        """The file in which the control plane notes its database's epoch. It lies outside the database, which may be lost."""
        return self.path / "control.epoch"

    def known_epoch(self) -> str | None:
        """The epoch of the control plane's database that this home folder knows, from the control plane or the gateway; None
        before the first start."""
        from roadworthy.store.epochs import EpochFile

        served = self.snapshot()
        return EpochFile(self.epoch_file, known=served[0] if served is not None and served[1] else None).expected()

    def note_epoch(self, epoch: str) -> None:
        """Record this epoch as the known one.

        Raises:
            OSError: the file cannot be written. Without it, the next start would refuse the database.
        """
        write_atomic(self.epoch_file, epoch.encode("ascii"), mode=PRIVATE)

    def snapshot(self) -> tuple[str, int] | None:
        """Epoch and number of endpoints of the snapshot on the gateway's disk; None without a readable snapshot."""
        try:
            document = json.loads((self.gateway / "snapshot.json").read_bytes())
            return str(document["epoch"]), len(document["endpoints"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def gateway_key(self) -> str | None:
        """The gateway's key for its control plane, or None before the first start."""
        try:
            return (self.path / "gateway.key").read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def keys(self, *, own_gateway: bool) -> PlaneKeys:
        """The keys of this home folder. The first call creates and stores the gateway's key."""
        between, known = self.gateway_key(), self.context()
        admin = None if known is None else known.key
        gateway = between or make_key()[1]
        if between is None:
            write_atomic(self.path / "gateway.key", gateway.encode("ascii"), mode=PRIVATE)
        return PlaneKeys(admin or make_key()[1], gateway, admin is None, between is None, own_gateway)

    def forget_admin_key(self) -> None:
        """Remove the admin key from the context, because the control plane does not accept it; keep the addresses."""
        known = self.context()
        if known is not None:
            self.write_context(replace(known, key=None))

    def forget_gateway_key(self) -> None:
        """Delete the gateway's key, because the control plane does not accept it; the next start creates another."""
        (self.path / "gateway.key").unlink(missing_ok=True)

    @contextlib.contextmanager
    def held(self, *names: str) -> Iterator[None]:
        """Hold the pid files `names`, so that no second process runs the same plane in this home folder.

        Raises:
            Conflict: code "already-running".
        """
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(hold_pid_file(self.path / name))
            yield

    def running(self) -> set[int]:
        """The ids of the processes that run in this home folder."""
        found = (running_pid(self.path / name) for name in PID_FILES)
        return {pid for pid in found if pid is not None}
