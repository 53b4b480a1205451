"""Which versions, and which of their rules, crash their processes, and so may not execute here for a while.

What is known is kept in a file, so that a restarted agent knows it too; it holds for one start of the gateway. A version gets a
new chance when its time is over, when nothing names it any more, and when somebody changes an endpoint that answers with it:
deploying it again is such a change. A rule that crashes says nothing of its version, nor a version of its rules.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from roadworthy.contract.local import read_part
from roadworthy.contract.snapshot import Snapshot
from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.files import write_atomic
from roadworthy.runtime.runners.isolated.launch import EXIT_LOAD_FAILED

_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """When a version is kept out.

    Attributes:
        crashes: so many of them
        within_s: in so many seconds put it into quarantine,
        for_s: for so long.
    """

    crashes: int = 3
    within_s: float = 600.0
    for_s: float = 3_600.0


def crash_reason(status: int) -> str | None:
    """What an exit status tells against the version that ran, in words; None when it tells nothing.

    A signal that only the process itself or its native code can cause counts, and so does an exit that nobody asked for. SIGKILL
    and SIGTERM come from outside: from a person, from the kernel short of memory, from a supervisor.
    """
    if status < 0:
        return signal.Signals(-status).name if -status in _CRASHES else None
    return f"exit status {status}" if status not in (0, EXIT_LOAD_FAILED, EXIT_REFUSED) else None


class _Kept(msgspec.Struct):
    """A version that may not execute: until when (monotonic seconds), why, and the endpoints that answered with it then."""

    until: float
    reason: str
    endpoints: dict[str, int]


class _File(msgspec.Struct):
    """What is on disk. Crashes are (monotonic seconds, reason), by part."""

    boot: str = ""
    crashes: dict[str, list[tuple[float, str]]] = {}
    kept_out: dict[str, _Kept] = {}


class Quarantine:
    """Counts crashes by part.

    Args:
        limit: when a version is kept out.
        path: where it is kept, or None.
        boot: of this start of the gateway; what another one left is not taken over.
    """

    def __init__(self, limit: Limit, path: Path | None = None, boot: str = "") -> None:
        self._limit = limit
        self._path = path
        self._known = _File(boot)
        self._endpoints: dict[str, dict[str, int]] = {}
        if path is not None and path.is_file():
            try:
                found = msgspec.json.decode(path.read_bytes(), type=_File)
            except (OSError, msgspec.DecodeError):
                _log.exception("the list of crashing versions cannot be read")
            else:
                self._known = found if found.boot == boot else self._known

    def know(self, snapshot: Snapshot) -> None:
        """Take the snapshot in force; whoever it gives a new chance is forgotten."""
        named = {entry.digest for entry in snapshot.packages}
        endpoints: dict[str, dict[str, int]] = {}
        for entry in snapshot.endpoints:
            for arm in entry.split:
                endpoints.setdefault(arm.digest, {})[entry.name] = entry.generation
        self._endpoints = endpoints
        known = self._known
        again = {part for part, kept in known.kept_out.items() if _changed(kept.endpoints, self._answering(part))}
        self._forget(again | {part for part in (*known.crashes, *known.kept_out) if read_part(part)[0] not in named})

    def crashed(self, part: str, reason: str, now: float) -> bool:
        """Note a crash; whether the part is kept out from now on, and was not before."""
        limit, known = self._limit, self._known
        crashes = [crash for crash in known.crashes.get(part, []) if now - crash[0] <= limit.within_s]
        known.crashes[part] = crashes = [*crashes, (now, reason)][-limit.crashes :]
        new = part not in known.kept_out and len(crashes) >= limit.crashes
        if new:
            reasons = ", ".join(sorted({why for _, why in crashes}))
            text = f"it crashed {len(crashes)} times within {limit.within_s / 60:g} minutes ({reasons})"
            known.kept_out[part] = _Kept(now + limit.for_s, text, dict(self._answering(part)))
        self._save()
        return new

    def kept_out(self, now: float) -> Mapping[str, str]:
        """Reasons by part."""
        self._forget([part for part, kept in self._known.kept_out.items() if kept.until <= now])
        return {part: kept.reason for part, kept in self._known.kept_out.items()}

    def _answering(self, part: str) -> Mapping[str, int]:
        """The endpoints that answer with the version, and their generations."""
        return self._endpoints.get(read_part(part)[0], {})

    def _forget(self, parts: Collection[str]) -> None:
        if parts:
            for part in parts:
                self._known.crashes.pop(part, None)
                if self._known.kept_out.pop(part, None) is not None:
                    _log.warning("what crashed gets a new chance", part=part)
            self._save()

    def _save(self) -> None:
        if self._path is not None:
            try:
                write_atomic(self._path, msgspec.json.encode(self._known), mode=0o600)
            except OSError:  # it is known in memory; a restarted agent would have to find out again
                _log.exception("the list of crashing versions could not be written")


def _changed(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Whether an endpoint answers with the version that did not, or was changed since."""
    return any(generation > before.get(name, 0) for name, generation in now.items())
