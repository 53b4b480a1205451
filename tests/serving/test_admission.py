"""Admission: which keys may call, and which request gives way when there is no room."""

from __future__ import annotations

import hashlib

import pytest

from roadworthy.contract.snapshot import KeyEntry
from roadworthy.foundation.errors import Forbidden, RoadworthyError, Unauthenticated, Unavailable
from roadworthy.serving import admission as admitting
from roadworthy.serving.admission import Admission, Keys


class Request:
    """A request in flight."""

    def __init__(self, caller: str, *, running: bool = False) -> None:
        self.caller = caller
        self.running = running
        self.entered = False
        self.outcome: RoadworthyError | None = None

    def settle(self, outcome: RoadworthyError, /) -> None:
        """Keep the error."""
        self.outcome = outcome


def admission(limit: int, *requests: Request, keys: Keys | None = None) -> Admission:
    """The admission of an endpoint that these requests have entered."""
    made = Admission("flights")
    made.configure(keys or Keys(None), limit)
    for request in requests:
        made.enter(request)
    return made


def key(name: str, role: str = "predictor", endpoints: tuple[str, ...] | None = None) -> KeyEntry:
    """The entry of the key whose text is its id."""
    return KeyEntry(name, hashlib.sha256(name.encode()).hexdigest(), role, endpoints)


def test_a_new_caller_gets_in_and_the_newest_waiting_request_of_the_busiest_gives_way() -> None:
    """Not one that the model has begun with. The place is the new caller's when the other has left."""
    busy = [Request("busy"), Request("busy"), Request("busy"), Request("busy", running=True)]
    full = admission(4, *busy)
    full.enter(Request("new"))
    assert [each.outcome is not None for each in busy] == [False, False, True, False]
    assert busy[2].outcome is not None
    assert busy[2].outcome.code == "overloaded"
    full.leave([busy[2]])
    assert full.inside == 4


@pytest.mark.parametrize(
    ("inside", "caller"),
    [
        ([Request("busy"), Request("busy")], "busy"),
        ([Request("busy", running=True), Request("busy", running=True)], "new"),
        ([Request("one"), Request("two")], "one"),
        ([Request("one"), Request("two")], "new"),
    ],
    ids=["has all places", "all others run", "has its share", "each has one"],
)
def test_without_a_request_that_could_give_way_the_new_one_is_refused(inside: list[Request], caller: str) -> None:
    """The error says when to try again, and the request takes no place."""
    full = admission(2, *inside)
    with pytest.raises(Unavailable) as refused:
        full.enter(Request(caller))
    assert (refused.value.code, refused.value.retry_after_s, full.inside) == ("overloaded", 1, 2)
    assert all(each.outcome is None for each in inside)


@pytest.mark.parametrize(
    ("headers", "kind", "code"),
    [
        ({}, Unauthenticated, "no-key"),
        ({b"authorization": b"Bearer "}, Unauthenticated, "no-key"),
        ({b"authorization": b"Basic YTpi"}, Unauthenticated, "no-key"),
        ({b"authorization": b"Bearer stranger"}, Unauthenticated, "unknown-key"),
        ({b"x-api-key": b"k" * 300}, Unauthenticated, "unknown-key"),
        ({b"authorization": b"Bearer reader"}, Forbidden, "role-not-allowed"),
        ({b"x-api-key": b"elsewhere"}, Forbidden, "endpoint-not-allowed"),
    ],
)
def test_a_caller_without_a_fitting_key_is_told_why(headers: dict[bytes, bytes], kind: type, code: str) -> None:
    """Each refusal has its code, and says what to do."""
    keys = Keys([key("reader", "viewer"), key("elsewhere", endpoints=("other",))])
    with pytest.raises(kind) as refused:
        admission(1, keys=keys).identify(headers)
    assert refused.value.code == code
    assert refused.value.hint


def test_callers_are_remembered_until_the_keys_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, in bounded memory; a revoked key is refused at once."""
    monkeypatch.setattr(admitting, "_MOST_REMEMBERED", 3)
    names = [f"k{number}" for number in range(7)]
    door = admission(1, keys=Keys(list(map(key, names))))
    for name in (*names, *names):
        assert door.identify({b"authorization": f"Bearer {name}".encode()}) == name
        assert len(door._remembered) <= 3
    assert door.identify({b"x-api-key": b"k1"}) == "k1"
    door.configure(Keys([key("k0")]), 1)
    with pytest.raises(Unauthenticated):
        door.identify({b"authorization": b"Bearer k6"})
    door.configure(Keys(None), 1)
    assert door.identify({}) == ""
