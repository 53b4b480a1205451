"""Idempotency keys: a repeated request has no further effect; what a key is not for is one documented refusal each."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from sqlalchemy import event, select

from roadworthy.access.principal import Principal
from roadworthy.contract.api import endpoints, keys
from roadworthy.control.context import ControlContext, asked_with
from roadworthy.control.publish.snapshot_publisher import SnapshotPublisher
from roadworthy.control.resources import idempotency
from roadworthy.control.wiring import build_context
from roadworthy.foundation.errors import Conflict, Unavailable
from roadworthy.store.connection import Connection
from roadworthy.store.engine import Database
from roadworthy.store.tables import kept_replies
from tests.control.fleet import FAST, LINE, ROLLOUTS, Fleet, three_versions
from tests.control.in_process import Caller
from tests.control_plane import ControlProcess
from tests.defaults import control_document
from tests.waiting import eventually

ME = Principal("me", "me", "admin", frozenset())


def named(key: str) -> dict[str, str]:
    """The header."""
    return {"Idempotency-Key": key}


@pytest.fixture
def fleet(gateway: Any, admin: httpx.Client, make_package: Callable[..., Path]) -> Fleet:
    """The data plane; three versions exist and the first one serves."""
    found = Fleet(gateway.client)
    three_versions(admin, found, make_package)
    return found


def test_a_repeated_start_gets_the_first_reply(admin: httpx.Client, fleet: Fleet) -> None:
    """Without the key it would be a conflict; with it the same bytes, the same status, and a header that says so."""
    body = {"version": "line:2", "plan": FAST}
    first, again = (admin.post(ROLLOUTS, json=body, headers=named("a")) for _ in range(2))
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert admin.post(ROLLOUTS, json=body, headers=named("b")).json()["code"] == "rollout-running"
    assert len(admin.get(ROLLOUTS).json()["items"]) == 1


def test_a_key_used_with_another_body_is_refused(admin: httpx.Client, fleet: Fleet) -> None:
    """Another body, path or query; not another operation, which has keys of its own."""
    assert admin.post(ROLLOUTS, json={"version": "line:2", "plan": FAST}, headers=named("a")).status_code == 201
    for path, body in ((ROLLOUTS, {"version": "line:3"}), (f"{ROLLOUTS}?x=1", {"version": "line:2", "plan": FAST})):
        reply = admin.post(path, json=body, headers=named("a"))
        assert (reply.status_code, reply.json()["code"]) == (409, "idempotency-key-reused")
    assert admin.post(f"{ROLLOUTS}/current:abort", headers=named("a")).json()["done"] is True


def test_a_refused_request_gives_its_key_back(admin: httpx.Client, fleet: Fleet) -> None:
    """The corrected request is carried out with the same key."""
    assert admin.post(ROLLOUTS, json={"version": "line:9", "plan": FAST}, headers=named("a")).status_code == 404
    assert admin.post(ROLLOUTS, json={"version": "line:2", "plan": FAST}, headers=named("a")).status_code == 201


def test_a_secret_is_shown_once_and_stored_nowhere(admin: httpx.Client, control: ControlProcess) -> None:
    """A repetition creates no second key."""
    made = admin.post("/api/v1/keys", json={"role": "predictor"}, headers=named("a"))
    again = admin.post("/api/v1/keys", json={"role": "predictor"}, headers=named("a"))
    assert (made.status_code, again.status_code, again.json()["code"]) == (201, 409, "idempotency-key-spent")
    assert len(admin.get("/api/v1/keys").json()["items"]) == 3
    assert made.json()["key"].encode() not in b"".join(each.read_bytes() for each in control.folder.rglob("*.db*"))


def test_a_package_is_told_by_its_bytes(admin: httpx.Client, make_package: Callable[..., Path]) -> None:
    """The same file again, and another one."""
    one, other = (make_package(factor=factor).read_bytes() for factor in (2.0, 3.0))
    first, again = (admin.post("/api/v1/packages", content=one, headers=named("a")) for _ in range(2))
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    reply = admin.post("/api/v1/packages", content=other, headers=named("a"))
    assert (reply.status_code, reply.json()["code"]) == (409, "idempotency-key-reused")


def test_feedback_is_repeatable_and_no_reply_is_kept(admin: httpx.Client, fleet: Fleet) -> None:
    """A predictor's key may send it, and must not fill the database; another body is refused all the same."""
    bodies = [{"items": [{"prediction_id": digit * 32, "correct": True}]} for digit in "ab"]
    replies = [admin.post(f"{LINE}/feedback", json=body, headers=named("a")) for body in (bodies[0], bodies[0], bodies[1])]
    assert [each.status_code for each in replies] == [200, 200, 409]
    assert "idempotent-replayed" not in replies[1].headers
    assert replies[2].json()["code"] == "idempotency-key-reused"


def test_refused_feedback_gives_its_key_back(admin: httpx.Client, fleet: Fleet) -> None:
    """The corrected request has the same key, which is then taken."""
    body = {"items": [{"prediction_id": "a" * 32, "correct": True}]}
    send = [("/api/v1/endpoints/nope/feedback", 404), (f"{LINE}/feedback", 200), ("/api/v1/endpoints/nope/feedback", 409)]
    assert [admin.post(path, json=body, headers=named("a")).status_code for path, _ in send] == [status for _, status in send]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e9"])
def test_what_is_no_key_is_refused(admin: httpx.Client, key: str) -> None:
    """With what a key may have."""
    reply = admin.post("/api/v1/keys", json={"role": "predictor"}, headers={"Idempotency-Key": key.encode()})  # type: ignore[dict-item]
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid-idempotency-key")


def test_two_at_once_are_carried_out_once(admin: httpx.Client, control: ControlProcess) -> None:
    """One makes the key; the others get a refusal."""
    replies: list[httpx.Response] = []

    def create() -> None:
        with control.client(control.admin_key) as client:
            replies.append(client.post("/api/v1/keys", json={"role": "predictor"}, headers=named("a")))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(each.status_code for each in replies) == [201, 409, 409, 409]
    assert {each.json()["code"] for each in replies if each.status_code == 409} <= {
        "idempotency-key-spent",
        "idempotency-key-in-use",
    }


@pytest.fixture
def context(tmp_path: Path) -> Any:
    """A control plane without its process."""
    found = build_context(control_document(tmp_path))
    yield found
    found.database.close()


def another(context: ControlContext, *, shared: bool) -> ControlContext:
    """The next control plane on the same database, or one beside it."""
    database = context.database.of(context.database.project)
    database.shared = shared
    return replace(context, database=database, boot="another", under_way=set(), projects={})


def test_keys_are_of_their_caller_and_operation(context: ControlContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their replies are deleted after a day."""
    taken = idempotency.key_id(ME, endpoints.ROLL_BACK, "k")
    assert taken != idempotency.key_id(ME, keys.CREATE, "k")
    assert taken != idempotency.key_id(Principal("you", "you", "admin", frozenset()), endpoints.ROLL_BACK, "k")
    now_us = context.clock.now_us()
    assert idempotency.take(context, taken, LINE) is None
    idempotency.keep(context, taken, 200, "{}")
    assert idempotency.take(context, taken, LINE) == idempotency.KeptReply(200, "{}")
    monkeypatch.setattr(type(context.clock), "now_us", lambda _: now_us + 2 * 24 * 3_600 * 10**6)
    assert idempotency.take(context, taken, "other") is None


def test_a_successor_frees_the_keys_of_its_predecessor(context: ControlContext) -> None:
    """At once. If the predecessor lives after all, it can neither commit nor give the key back."""
    taken = idempotency.key_id(ME, endpoints.ROLL_BACK, "k")
    assert idempotency.take(context, taken, LINE) is None
    with pytest.raises(Conflict, match="still being carried out"):
        idempotency.take(context, taken, LINE)
    successor = another(context, shared=False)
    assert idempotency.take(successor, taken, LINE) is None
    asking = asked_with.set(taken)
    with context.database.begin() as connection, pytest.raises(Conflict, match="another control plane"):
        context.audit(connection, "me", "rollback", "line")
    asked_with.reset(asking)
    idempotency.give_back(context, taken)
    with pytest.raises(Conflict, match="still being carried out"):
        idempotency.take(successor, taken, LINE)


def test_of_several_control_planes_each_renews_its_keys(context: ControlContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not renewed for the time of a lease is free; one whose request is over needs no lease."""
    one, other = another(context, shared=True), replace(another(context, shared=True), boot="third", under_way=set(), projects={})
    taken = idempotency.key_id(ME, endpoints.ROLL_BACK, "k")
    now_us = context.clock.now_us()
    assert idempotency.take(one, taken, LINE) is None
    for at_us, renews in ((idempotency.LEASE_US - 1, True), (2 * idempotency.LEASE_US - 2, False)):
        monkeypatch.setattr(type(context.clock), "now_us", lambda _, at_us=at_us: now_us + at_us)
        with pytest.raises(Conflict, match="still being carried out"):
            idempotency.take(other, taken, LINE)
        if renews:
            idempotency.renew(one)
    monkeypatch.setattr(type(context.clock), "now_us", lambda _: now_us + 2 * idempotency.LEASE_US)
    assert idempotency.take(other, taken, LINE) is None
    other.under_way.discard(taken)
    assert idempotency.take(other, taken, LINE) is None


def test_a_commit_that_fails_keeps_no_key(context: ControlContext) -> None:
    """Whether it was stored or not, the repetition is carried out."""
    taken, begin = idempotency.key_id(ME, endpoints.ROLL_BACK, "k"), Database.begin

    @contextmanager
    def lost(database: Database) -> Iterator[Connection]:
        with begin(database) as connection:
            yield connection
        raise Unavailable("the database is busy or unavailable", code="database-busy")

    with patch.object(Database, "begin", lost), pytest.raises(Unavailable):
        idempotency.take(context, taken, LINE)
    assert idempotency.take(context, taken, LINE) is None
    with pytest.raises(Conflict, match="still being carried out"):
        idempotency.take(context, taken, LINE)


def test_a_push_that_was_killed_is_repeated_at_once(control: ControlProcess, make_package: Callable[..., Path]) -> None:
    """With the same key, as soon as the control plane runs again."""
    content = make_package().read_bytes()

    def push() -> int:
        with control.client(control.admin_key) as client:
            return client.post("/api/v1/packages", content=content, headers=named("a")).status_code

    def is_taken() -> bool:
        with closing(sqlite3.connect(control.folder / "roadworthy.db")) as database:
            return bool(database.execute("SELECT count(*) FROM kept_replies").fetchone()[0])

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(push)
        eventually(is_taken, "the first push has taken the key")
        control.kill()
        assert isinstance(first.exception(), httpx.HTTPError)
    control.start()
    assert push() == 201


def test_a_caller_forgets_its_own_keys_only(context: ControlContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its oldest ones, when it has many; and no look-up reads more than the rows of a caller."""
    mine = [idempotency.key_id(ME, keys.CREATE, str(number)) for number in range(12)]
    yours = idempotency.key_id(Principal("you", "you", "admin", frozenset()), keys.CREATE, "0")
    monkeypatch.setattr(idempotency, "MOST_KEPT", 10)
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if "kept_replies" in statement and not statement.startswith(("EXPLAIN", "INSERT")):
            plans.extend(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given))

    with context.database.begin() as connection:
        engine = connection.everywhere.engine
    event.listen(engine, "before_cursor_execute", explain)
    for number, taken in enumerate([yours, *mine]):
        monkeypatch.setattr(type(context.clock), "now_us", lambda _, number=number: 10**15 + number)
        assert idempotency.take(context, taken, LINE) is None
        idempotency.keep(context, taken, 200, taken)
    idempotency.give_back(context, "none")
    assert plans
    assert not [plan for plan in plans if plan.startswith("SCAN")]
    with context.database.begin() as connection:
        left = set(connection.execute(select(kept_replies.c.id)).scalars())
    assert left == {yours, *mine[-10:]}


CREATE = ("POST", "/api/v1/keys", {"role": "admin"})


def made(caller: Caller) -> int:
    """How many keys there are besides the caller's."""
    return len(caller.send("GET", "/api/v1/keys").json()["items"]) - 1


def test_an_error_after_the_commit_does_not_give_the_key_back(context: ControlContext) -> None:
    """The repetition is told so and creates no second key; an error before the commit gives the key back."""
    caller = Caller(context)
    busy = Unavailable("busy", code="database-busy")
    with patch.object(SnapshotPublisher, "refresh", side_effect=busy):
        assert caller.send(*CREATE, named("a")).status_code == 503
    again = caller.send(*CREATE, named("a"))
    assert (again.status_code, again.json()["code"]) == (409, "idempotency-key-spent")
    assert made(caller) == 1
    with patch.object(ControlContext, "audit", side_effect=busy):
        assert caller.send(*CREATE, named("b")).status_code == 503
    assert caller.send(*CREATE, named("b")).status_code == 201
    assert made(caller) == 2


def test_a_reply_that_cannot_be_kept_is_still_sent(context: ControlContext) -> None:
    """A secret would be lost; the repetition creates nothing. So it is with a refusal, whose key is free again."""
    caller = Caller(context)
    with patch.object(idempotency, "keep", side_effect=Unavailable("busy", code="database-busy")):
        assert caller.send(*CREATE, named("a")).json()["key"]
    assert caller.send(*CREATE, named("a")).json()["code"] == "idempotency-key-spent"
    assert made(caller) == 1
    with patch.object(idempotency, "give_back", side_effect=Unavailable("busy", code="database-busy")):
        assert caller.send("POST", "/api/v1/endpoints/line:rollback", None, named("a")).json()["code"] == "unknown-endpoint"
    assert caller.send("POST", "/api/v1/endpoints/line:rollback", None, named("a")).json()["code"] == "unknown-endpoint"
