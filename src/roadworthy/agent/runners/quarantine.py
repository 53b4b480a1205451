"""Quarantine: keeps versions, and rules of versions, that crash their processes from executing here for a while.

A file keeps the state, so that a restarted agent knows it too; it holds for one start of the gateway. A version gets a new chance
when its time is over, when no snapshot names it any longer, and when an endpoint that serves it is changed, for example by
deploying it again. Crashes of a rule do not count against its version, nor those of a version against its rules.
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

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """When a version is quarantined.

    Attributes:
        crashes: how many crashes lead to quarantine.
        within_s: the time within which they must happen, in seconds.
        for_s: how long the quarantine lasts, in seconds.
    """

    crashes: int
    within_s: float = 600.0
    for_s: float = 3_600.0


def crash_reason(status: int) -> str | None:
    """The reason, in words, why an exit status counts against the version that ran; None when it does not count.

    Signals that only the process itself or its native code can cause count, and so does an unrequested exit. SIGKILL and SIGTERM
    come from outside: from a person, from a kernel short of memory, from a supervisor.
    """
    if status < 0:
        return signal.Signals(-status).name if -status in _CRASHES else None
    return f"exit status {status}" if status not in (0, EXIT_LOAD_FAILED, EXIT_REFUSED) else None


class _Kept(msgspec.Struct):
    """A quarantined part: until when (monotonic seconds), why, and the generations of the endpoints that served it then."""

    until: float
    reason: str
    endpoints: dict[str, int]


class _File(msgspec.Struct):
    """The content of the file. Crashes are (monotonic seconds, reason), by part."""

    boot: str = ""
    crashes: dict[str, list[tuple[float, str]]] = {}
    kept_out: dict[str, _Kept] = {}


class Quarantine:
    """Counts crashes by part.

    Args:
        limit: when a part is quarantined.
        path: of the file, or None to keep none.
        boot: of this start of the gateway; the state of another boot is ignored.
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
                _log.exception("cannot read the list of crashing versions")
            else:
                self._known = found if found.boot == boot else self._known

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Take the snapshot in force, and forget the parts to which it gives a new chance."""
        named = {entry.digest for entry in snapshot.packages}
        endpoints: dict[str, dict[str, int]] = {}
        for entry in snapshot.endpoints:
            for variant in entry.split:
                endpoints.setdefault(variant.digest, {})[entry.name] = entry.generation
        self._endpoints = endpoints
        known = self._known
        again = {part for part, kept in known.kept_out.items() if _changed(kept.endpoints, self._answering(part))}
        self._forget(again | {part for part in (*known.crashes, *known.kept_out) if read_part(part)[0] not in named})

    def crashed(self, part: str, reason: str, now: float) -> bool:
        """Count a crash; return whether the part is quarantined now and was not before."""
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
        """The reasons of quarantined parts, by part."""
        self._forget([part for part, kept in self._known.kept_out.items() if kept.until <= now])
        return {part: kept.reason for part, kept in self._known.kept_out.items()}

    def _answering(self, part: str) -> Mapping[str, int]:
        """The endpoints that serve the part's version, and their generations."""
        return self._endpoints.get(read_part(part)[0], {})

    def _forget(self, parts: Collection[str]) -> None:
        if parts:
            for part in parts:
                self._known.crashes.pop(part, None)
                if self._known.kept_out.pop(part, None) is not None:
                    _log.warning("quarantine is over: a new chance for what crashed", part=part)
            self._save()

    def _save(self) -> None:
        if self._path is not None:
            try:
                write_atomic(self._path, msgspec.json.encode(self._known), mode=0o600)
            except OSError:  # it stays in memory; only a restarted agent would lose it
                _log.exception("cannot write the list of crashing versions")


def _changed(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Whether an endpoint that serves the version is new, or was changed since."""
    return any(generation > before.get(name, 0) for name, generation in now.items())
