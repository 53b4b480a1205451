"""Which versions crash their processes, and since when they may not run here. Pure but for the clock that it is handed."""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.runtime.apart.launch import EXIT_LOAD_FAILED

_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
)


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


class Quarantine:
    """Counts crashes by digest."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._crashes: dict[str, deque[tuple[float, str]]] = {}
        self._kept_out: dict[str, tuple[float, str]] = {}

    def crashed(self, digest: str, reason: str, now: float) -> bool:
        """Note a crash; whether the version is kept out from now on, and was not before."""
        crashes = self._crashes.setdefault(digest, deque(maxlen=self._limit.crashes))
        crashes.append((now, reason))
        if digest in self._kept_out or len(crashes) < self._limit.crashes:
            return False
        if now - crashes[0][0] > self._limit.within_s:
            return False
        reasons = ", ".join(sorted({reason for _, reason in crashes}))
        self._kept_out[digest] = (now + self._limit.for_s, f"it crashed {len(crashes)} times ({reasons})")
        return True

    def kept_out(self, now: float) -> dict[str, str]:
        """Reasons by digest."""
        for digest in [digest for digest, (until, _) in self._kept_out.items() if until <= now]:
            del self._kept_out[digest]
            self._crashes.pop(digest, None)
        return {digest: reason for digest, (_, reason) in self._kept_out.items()}

    def forget(self, digests: set[str]) -> None:
        """Drop what is known of versions that are not in use any more; they get a new chance when they come back."""
        for known in (self._crashes, self._kept_out):
            for digest in digests & set(known):
                known.pop(digest)
