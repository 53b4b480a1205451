"""Authenticates callers and bounds the requests in flight, by the headers alone and before a body is decoded."""

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
    """The API keys of one snapshot, by the SHA-256 of their text. With `entries` None, calls need no key."""

    def __init__(self, entries: Sequence[KeyEntry] | None) -> None:
        self.open = entries is None
        self._by_hash = {entry.sha256: entry for entry in entries or ()}

    def identify(self, headers: Mapping[bytes, bytes]) -> KeyEntry | None:
        """The entry of the key that the request presents; None when calls need no key.

        Raises:
            Unauthenticated: "no-key" or "unknown-key".
            Forbidden: "role-not-allowed": the key's role may not call endpoints.
        """
        if self.open:
            return None
        presented = _presented(headers)
        if presented is None:
            raise Unauthenticated("this call needs an API key", code="no-key", hint="send Authorization: Bearer rw_…")
        entry = self._by_hash.get(hashlib.sha256(presented).hexdigest()) if len(presented) <= _MOST_KEY_BYTES else None
        if entry is None:
            raise Unauthenticated("unknown API key", code="unknown-key", hint="it may have been revoked; ask for a new key")
        if entry.role not in _CALLING_ROLES:
            raise Forbidden(
                f"a key of the role {entry.role} may not call endpoints",
                code="role-not-allowed",
                hint="use a key of the role predictor",
            )
        return entry


def _presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return key.strip() or None
    return headers.get(b"x-api-key") or None


class InFlightRequest(Protocol):
    """A request that has been admitted.

    Attributes:
        caller: id of the caller's key, or "".
        running: whether the model has begun with it.
        entered: whether it holds a place; set by `Admission`.
    """

    caller: str
    running: bool
    entered: bool

    def settle(self, outcome: RoadworthyError, /) -> None:
        """Answer it with an error."""
        ...


class Admission:
    """Admission control of one endpoint: the keys of the newest snapshot, and a bound on requests in flight. It outlives
    rebinding.

    At the bound, a caller with less than an equal share in flight still gets in. The newest request of the caller with the most
    requests gives way, provided that its run has not begun.

    Attributes:
        inside: requests admitted and not yet answered.
    """

    __slots__ = ("_endpoint", "_in_flight", "_keys", "_limit", "_remembered", "inside")

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._keys = Keys(())
        self._limit = 0
        self._remembered: dict[bytes | None, str] = {}
        self._in_flight: dict[str, dict[InFlightRequest, None]] = {}
        self.inside = 0

    def configure(self, keys: Keys, max_in_flight: int) -> None:
        """Use the keys and the bound of a new snapshot, and forget callers identified by the old keys."""
        self._keys = keys
        self._limit = max_in_flight
        self._remembered = {}

    def identify(self, headers: Mapping[bytes, bytes]) -> str:
        """The id of the caller's key; "" when calls need no key.

        Raises:
            Unauthenticated, Forbidden: see `Keys.identify`; also "endpoint-not-allowed" for a key of other endpoints.
        """
        caller = self._remembered.get(headers.get(b"authorization"))
        return self._look_up(headers) if caller is None else caller

    def enter(self, request: InFlightRequest) -> None:
        """Take a place. `leave` must follow every call that returns.

        Raises:
            Unavailable: "overloaded".
        """
        if self.inside >= self._limit:
            self._make_room(request.caller)
        self.inside += 1
        mine = self._in_flight.get(request.caller)
        if mine is None:
            mine = self._in_flight[request.caller] = {}
        mine[request] = None
        request.entered = True

    def leave(self, requests: Sequence[InFlightRequest]) -> None:
        """Release the places of these requests."""
        self.inside -= len(requests)
        for request in requests:
            mine = self._in_flight[request.caller]
            del mine[request]
            if not mine:
                del self._in_flight[request.caller]

    def _make_room(self, caller: str) -> None:
        """Answer the newest request of the caller with the most "overloaded", or raise that error for this one."""
        mine = len(self._in_flight.get(caller, ()))
        share = self._limit // (len(self._in_flight) + (mine == 0))
        theirs = max(self._in_flight.values(), key=len, default={})
        if mine < share and len(theirs) > mine + 1:
            for request in reversed(theirs):
                if not request.running:
                    request.settle(_overloaded())
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
        hint="try again with increasing delays",
        retry_after_s=1,
    )
