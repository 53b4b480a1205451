"""The home folder: what `up`, `serve`, `gateway` and `control` keep on this machine, and who may read it.

context.json (addresses and admin key for the command line, 0600), gateway.key (0600), control.epoch, control/, gateway/, serve/,
logs/, and a pid file for each plane.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roadworthy.foundation.files import private_folder, write_atomic
from roadworthy.foundation.keys import key_id, make_key
from roadworthy.foundation.pidfile import hold_pid_file, running_pid

PRIVATE = 0o600
SUPERVISOR, GATEWAY, CONTROL = "supervisor.pid", "gateway.pid", "control.pid"
PID_FILES = (SUPERVISOR, GATEWAY, CONTROL)


@dataclass(frozen=True, slots=True)
class Context:
    """What the command line and the Python client find by themselves."""

    control_url: str
    gateway_url: str
    key: str


@dataclass(frozen=True, slots=True)
class PlaneKeys:
    """The keys that this machine's own planes begin with, and whether the admin's was made just now."""

    admin: str
    gateway: str
    new: bool

    def bootstrap(self) -> list[dict[str, str]]:
        """For the control plane's start document."""
        both = ((self.admin, "admin"), (self.gateway, "gateway"))
        return [{"id": key_id(text), "key": text, "role": role} for text, role in both]


class Home:
    """The folder at `path`, made private when it is missing."""

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
        """Where a detached process writes its log."""
        return private_folder(self.path / "logs") / "roadworthy.log"

    def served(self, endpoint: str) -> Path:
        """The folder of the private gateway that `serve` runs."""
        return private_folder(private_folder(self.path / "serve") / endpoint)

    def context(self) -> Context | None:
        """What was written last, or None."""
        try:
            document = json.loads((self.path / "context.json").read_bytes())
            return Context(**{name: str(document[name]) for name in Context.__slots__})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_context(self, context: Context) -> None:
        """Replace the context."""
        document = {name: getattr(context, name) for name in Context.__slots__}
        write_atomic(self.path / "context.json", json.dumps(document, indent=2).encode("utf-8"), mode=PRIVATE)

    @property
    def epoch_file(self) -> Path:
        """Where the control plane notes which life of its database this is: apart from the database, which may be lost."""
        return self.path / "control.epoch"

    def known_epoch(self) -> str | None:
        """Which life of the control plane's database is known here, to it or to the gateway; None before the first."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if noted := self.epoch_file.read_text(encoding="ascii").strip():
                return noted
        served = self.snapshot()
        return served[0] if served is not None and served[1] else None

    def snapshot(self) -> tuple[str, int] | None:
        """Epoch and number of endpoints of the snapshot that the gateway begins with; None when there is none."""
        try:
            document = json.loads((self.gateway / "snapshot.json").read_bytes())
            return str(document["epoch"]), len(document["endpoints"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def gateway_key(self) -> str | None:
        """The key between the planes, or None before the first start."""
        try:
            return (self.path / "gateway.key").read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def keys(self) -> PlaneKeys:
        """The keys of this home folder; the one between the planes is made and kept at the first call."""
        between = self.gateway_key()
        if between is None:
            _, between = make_key()
            write_atomic(self.path / "gateway.key", between.encode("ascii"), mode=PRIVATE)
        known = self.context()
        return PlaneKeys(known.key if known else make_key()[1], between, new=known is None)

    @contextlib.contextmanager
    def held(self, *names: str) -> Iterator[None]:
        """Be the only one to run these planes in this home folder.

        Raises:
            Conflict: code "already-running".
        """
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(hold_pid_file(self.path / name))
            yield

    def running(self) -> set[int]:
        """Processes that run planes of this home folder."""
        found = (running_pid(self.path / name) for name in PID_FILES)
        return {pid for pid in found if pid is not None}
