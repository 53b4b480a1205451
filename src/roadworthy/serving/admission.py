"""Who may call, and whether there is room: decided from the headers alone, before anything of a body is read or decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from roadworthy.contract.snapshot import KeyEntry
from roadworthy.foundation.errors import Forbidden, RoadworthyError, Unauthenticated, Unavailable

_CALLING_ROLES = frozenset({"admin", "predictor"})
_MOST_REMEMBERED = 1_024
_MOST_KEY_BYTES = 256


class Keys:
    """The keys of one snapshot, by SHA-256 of their text. `entries` None admits everybody."""

    def __init__(self, entries: Sequence[KeyEntry] | None) -> None:
        self.open = entries is None
        self._by_hash = {entry.sha256: entry for entry in entries or ()}

    def identify(self, headers: Mapping[bytes, bytes]) -> KeyEntry | None:
        """Whose key the request presents; None when calls need no key.

        Raises:
            Unauthenticated: "no-key" or "unknown-key".
            Forbidden: "role-not-allowed": a key that may not call endpoints.
        """
        if self.open:
            return None
        presented = _presented(headers)
        if presented is None:
            raise Unauthenticated("this call needs a key", code="no-key", hint="send Authorization: Bearer rw_…")
        entry = self._by_hash.get(hashlib.sha256(presented).hexdigest()) if len(presented) <= _MOST_KEY_BYTES else None
        if entry is None:
            raise Unauthenticated(
                "this key is not known", code="unknown-key", hint="it may have been revoked; ask for another"
            )
        if entry.role not in _CALLING_ROLES:
            raise Forbidden(
                "this key may not call endpoints", code="role-not-allowed", hint="use a key of the role predictor"
            )
        return entry


def _presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return key.strip() or None
    return headers.get(b"x-api-key") or None


class InFlightRequest(Protocol):
    """A request inside. `running` when the model has begun with it; `settle` answers it."""

    caller: str
    running: bool

    def settle(self, outcome: RoadworthyError, /) -> None:
        """Take an error instead of an answer."""
        ...


class Admission:
    """The door of one endpoint: keys of the newest snapshot, and a bound on the requests inside. It outlives rebinding.

    When the bound is reached, a caller who has less than an equal share inside is let in all the same: the newest request of
    the caller with the most, if its run has not begun, has to go in its place.

    Attributes:
        inside: requests admitted and not yet answered.
    """

    __slots__ = ("_endpoint", "_guests", "_keys", "_limit", "_remembered", "inside")

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._keys = Keys(())
        self._limit = 0
        self._remembered: dict[bytes | None, str] = {}
        self._guests: dict[str, dict[InFlightRequest, None]] = {}
        self.inside = 0

    def configure(self, keys: Keys, max_in_flight: int) -> None:
        """Take the keys and the bound of a new snapshot; what was remembered of the old keys is forgotten."""
        self._keys = keys
        self._limit = max_in_flight
        self._remembered = {}

    def identify(self, headers: Mapping[bytes, bytes]) -> str:
        """Id of the caller's key, "" when none is needed.

        Raises:
            Unauthenticated, Forbidden: see `Keys.identify`; also "endpoint-not-allowed" for a key of other endpoints.
        """
        caller = self._remembered.get(headers.get(b"authorization"))
        return self._look_up(headers) if caller is None else caller

    def enter(self, guest: InFlightRequest) -> None:
        """Take a place; every call that returns is followed by one `leave`.

        Raises:
            Unavailable: "overloaded".
        """
        if self.inside >= self._limit:
            self._make_room(guest.caller)
        self.inside += 1
        mine = self._guests.get(guest.caller)
        if mine is None:
            mine = self._guests[guest.caller] = {}
        mine[guest] = None

    def leave(self, guest: InFlightRequest) -> None:
        """Give the place back."""
        self.inside -= 1
        mine = self._guests[guest.caller]
        del mine[guest]
        if not mine:
            del self._guests[guest.caller]

    def _make_room(self, caller: str) -> None:
        """Have the newest request of the greediest caller answered "overloaded", or raise that for this one."""
        mine = len(self._guests.get(caller, ()))
        share = self._limit // (len(self._guests) + (mine == 0))
        theirs = max(self._guests.values(), key=len, default={})
        if mine < share and len(theirs) > mine + 1:
            for guest in reversed(theirs):
                if not guest.running:
                    guest.settle(_overloaded())
                    return
        raise _overloaded()

    def _look_up(self, headers: Mapping[bytes, bytes]) -> str:
        entry = self._keys.identify(headers)
        if entry is None:
            return ""
        if entry.endpoints is not None and self._endpoint not in entry.endpoints:
            raise Forbidden(
                "this key may not call this endpoint",
                code="endpoint-not-allowed",
                hint="ask for a key that includes it",
            )
        authorization = headers.get(b"authorization")
        if authorization is not None and authorization.lower().startswith(b"bearer "):
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[authorization] = entry.id
        return entry.id


def _overloaded() -> Unavailable:
    return Unavailable(
        "too many requests are waiting for this endpoint",
        code="overloaded",
        hint="try again, with growing pauses",
        retry_after_s=1,
    )
