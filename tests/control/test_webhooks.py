"""Webhooks of a real control plane, with real receivers and real rollouts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.conftest import eventually
from tests.control.fleet import LINE, Fleet, begin, follow_until, tell, three_versions
from tests.control_plane import ControlProcess
from tests.webhooks.receiver import Receiver

HOOKS = "/api/v1/webhooks"


class Telling(ControlProcess):
    """A control plane whose webhooks may call this machine."""

    def document(self, fd: int) -> dict[str, Any]:
        """The start document, with the network allowed."""
        return {**super().document(fd), "webhook_networks": ["127.0.0.0/8"], "log_level": "debug"}


@pytest.fixture
def control(tmp_path: Path, three_lines: Path) -> Iterator[ControlProcess]:
    """A separate control plane for the test."""
    with (tmp_path / "log").open("wb") as Telling.log:
        process = Telling(tmp_path / "control", seed=three_lines)
        yield process
        process.kill()


@pytest.fixture
def fleet(gateway: Any, admin: httpx.Client, make_package: Callable[..., Path]) -> Fleet:
    """The data plane; three versions exist and the first one serves."""
    found = Fleet(gateway.client)
    three_versions(admin, found, make_package)
    return found


def hook(admin: httpx.Client, url: str, **more: Any) -> dict[str, Any]:
    """A new webhook with its secret."""
    reply = admin.post(HOOKS, json={"url": url, **more})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def state_of(admin: httpx.Client, made: dict[str, Any]) -> dict[str, Any]:
    """The webhook as it is now."""
    return dict(admin.get(f"{HOOKS}/{made['id']}").json())


def attempts(admin: httpx.Client, made: dict[str, Any]) -> list[dict[str, Any]]:
    """Deliveries, newest first."""
    return list(admin.get(f"{HOOKS}/{made['id']}/deliveries").json()["items"])


def numbers_of(receiver: Receiver) -> list[int]:
    """Numbers of the received events, in order of arrival."""
    return [each.event["number"] for each in receiver.received]


def numbers_told(admin: httpx.Client) -> list[int]:
    """Numbers of all events."""
    return [each["number"] for each in admin.get("/api/v1/events").json()["items"]]


def break_a_canary(admin: httpx.Client, fleet: Fleet) -> dict[str, Any]:
    """Start a rollout of a version that fails every request; it rolls back by itself."""
    begin(admin)
    follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
    fleet.serve(60, canary_bad=3)
    return dict(follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished"))


def test_a_rollback_is_told_with_a_signature_that_holds(admin: httpx.Client, fleet: Fleet) -> None:
    """In order, once each, with the numbers behind the verdict; a tampered message fails verification."""
    with Receiver() as receiver:
        made = hook(admin, receiver.url)
        ended = break_a_canary(admin, fleet)
        message = receiver.first("rollout.rolled-back")
        told = message.verified(made["secret"])
        assert told["subject"] == told["data"]["endpoint"] == "line"
        assert (told["data"]["rollout"], told["data"]["text"]) == (ended["id"], ended["text"])
        assert (told["data"]["findings"][0]["bad"], told["data"]["by"]) == (3, "controller")
        assert numbers_of(receiver) == numbers_told(admin)
        assert receiver.types()[:2] == ["rollout.started", "rollout.moved"]
        with pytest.raises(WebhookVerificationError):
            Webhook(made["secret"]).verify(message.body.replace(b"line:2", b"line:3"), message.headers)
        eventually(lambda: state_of(admin, made)["behind"] == 0, "it is done")
        newest, *_ = attempts(admin, made)
        assert (newest["id"], newest["outcome"], newest["status"], newest["tries"]) == (message.id, "delivered", 200, 1)


def test_only_what_is_wanted_is_told(admin: httpx.Client, fleet: Fleet) -> None:
    """By type and by endpoint; the position moves past the rest."""
    with Receiver() as wanted, Receiver() as other:
        made = hook(admin, wanted.url, events=["rollout.rolled-back"], endpoints=["line"])
        elsewhere = hook(admin, other.url, endpoints=["curve"])
        break_a_canary(admin, fleet)
        wanted.first("rollout.rolled-back")
        eventually(lambda: state_of(admin, made)["behind"] == state_of(admin, elsewhere)["behind"] == 0, "both are done")
        assert (wanted.types(), other.types()) == (["rollout.rolled-back"], [])


def test_a_receiver_that_was_down_gets_everything_later(admin: httpx.Client, fleet: Fleet) -> None:
    """No event is lost, the order is kept, and the attempts can be seen meanwhile."""
    with Receiver(down=True) as receiver:
        made = hook(admin, receiver.url)
        break_a_canary(admin, fleet)
        eventually(lambda: state_of(admin, made)["tries"] >= 2, "it was tried again")
        waiting = state_of(admin, made)
        assert (waiting["behind"], waiting["lost"]) == (len(numbers_told(admin)), 0)
        assert {(each["outcome"], each["status"]) for each in attempts(admin, made)} == {("failed", None)}
        assert attempts(admin, made)[0]["reason"].startswith("ConnectError")
        receiver.come_up()
        receiver.first("rollout.rolled-back")
        assert numbers_of(receiver) == numbers_told(admin)
        assert receiver.received[0].verified(made["secret"])["type"] == "rollout.started"


def test_a_killed_control_plane_loses_nothing_and_repeats_with_the_same_id(
    control: ControlProcess, admin: httpx.Client, fleet: Fleet
) -> None:
    """kill -9 after the receiver accepted a message and before that was written: it is sent again, unchanged, then the rest."""
    with Receiver() as receiver:
        receiver.held.clear()
        made = hook(admin, receiver.url)
        begin(admin)
        before = receiver.first("rollout.started")
        tell(admin, "abort")
        control.kill()
        receiver.received.clear()
        receiver.held.set()
        control.start()
        again = receiver.first("rollout.started")
        assert (again.id, again.body) == (before.id, before.body)
        assert again.verified(made["secret"]) == before.event
        with control.client(control.admin_key) as after:
            fleet.gateway.client.base_url = httpx.URL(control.url)
            follow_until(fleet, after, lambda rollout: rollout["phase"] == "finished")
            receiver.first("rollout.aborted")
            eventually(lambda: state_of(after, made)["behind"] == 0, "it is done")
            kinds = receiver.types()
            assert len(kinds) == len(set(kinds)), "once each in this life"


def test_a_slow_receiver_slows_nobody(admin: httpx.Client, fleet: Fleet) -> None:
    """While one receiver does not answer, another one gets its events and a rollout is decided."""
    with Receiver() as slow, Receiver() as quick:
        slow.held.clear()
        hook(admin, slow.url)
        hook(admin, quick.url)
        ended = break_a_canary(admin, fleet)
        assert ended["outcome"] == "rolled-back"
        quick.first("rollout.rolled-back")
        assert slow.types() == ["rollout.started"]


def test_a_ping_tries_a_receiver_and_ends_its_waiting(admin: httpx.Client, fleet: Fleet) -> None:
    """The reply has the delivery; a webhook that was gone becomes active once a ping arrives."""
    with Receiver(200, 500, 410, 500) as receiver:
        made = hook(admin, receiver.url)
        first = admin.post(f"{HOOKS}/{made['id']}:test").json()
        assert (first["outcome"], first["status"], first["type"], first["event"]) == ("delivered", 200, "ping", None)
        assert receiver.received[0].verified(made["secret"])["type"] == "ping"
        refused = admin.post(f"{HOOKS}/{made['id']}:test").json()
        assert (refused["outcome"], refused["status"], refused["reason"]) == ("failed", 500, "status 500")
        begin(admin)
        eventually(lambda: state_of(admin, made)["state"] == "gone", "410 ends it")
        assert admin.post(f"{HOOKS}/{made['id']}:test").json()["outcome"] == "failed"
        assert state_of(admin, made)["state"] == "gone"
        assert admin.post(f"{HOOKS}/{made['id']}:test").json()["outcome"] == "delivered"
        eventually(lambda: state_of(admin, made)["behind"] == 0, "what it missed comes now")
        assert state_of(admin, made)["state"] == "active"


def test_events_that_were_deleted_before_they_were_told_are_counted(
    control: ControlProcess, admin: httpx.Client, fleet: Fleet
) -> None:
    """The newest 10,000 are kept; a receiver that was away for longer gets the number of lost events."""
    with Receiver() as receiver:
        made = hook(admin, receiver.url)
        control.kill()
        with closing(sqlite3.connect(control.folder / "roadworthy.db")) as database, database:
            database.execute("UPDATE stores SET event = event + 5")
        database.close()
        control.start()
        with control.client(control.admin_key) as after:
            fleet.gateway.client.base_url = httpx.URL(control.url)
            fleet.follow()
            begin(after)
            receiver.first("rollout.started")
            eventually(lambda: state_of(after, made)["lost"] == 5, "they are counted")
            assert after.get("/api/v1/status").json()["webhooks"]["lost"] == 5


def test_g21_events_that_are_deleted_while_a_receiver_is_down_are_told_at_once(
    control: ControlProcess, admin: httpx.Client, fleet: Fleet
) -> None:
    """Not only at the next attempt, which may be hours later; kept events still arrive."""
    with Receiver(down=True) as receiver:
        made = hook(admin, receiver.url)
        begin(admin)
        eventually(lambda: state_of(admin, made)["tries"] >= 1, "it was tried")
        behind = state_of(admin, made)["behind"]
        control.kill()
        with closing(sqlite3.connect(control.folder / "roadworthy.db")) as database, database:
            database.execute("DELETE FROM events WHERE number = (SELECT min(number) FROM events)")
            database.execute("UPDATE webhooks SET due_us = due_us + 3600000000")
        database.close()
        control.start()
        with control.client(control.admin_key) as after:
            now = state_of(after, made)
            assert (now["lost"], now["behind"]) == (1, behind - 1)
            assert after.get("/api/v1/status").json()["webhooks"]["lost"] == 1


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"url": "hooks.example"}, "webhook-url-invalid"),
    ({"url": "https://me:secret@hooks.example/"}, "webhook-url-invalid"),
    ({"url": "https://hooks.invalid/"}, "webhook-host-unknown"),
    ({"url": "http://169.254.169.254/latest/meta-data"}, "webhook-address-refused"),
    ({"url": "https://10.0.0.1/"}, "webhook-address-refused"),
    ({"url": "http://8.8.8.8/"}, "webhook-address-refused"),
    ({"url": "http://127.0.0.1:1/", "events": ["rollout.exploded"]}, "unknown-event-type"),
    ({"url": "http://127.0.0.1:1/", "events": []}, "unknown-event-type"),
    ({"url": "http://127.0.0.1:1/", "endpoints": ["../etc"]}, "invalid-name"),
    ({"url": "http://127.0.0.1:1/", "endpoints": []}, "invalid-name"),
)


def test_what_cannot_be_a_webhook_is_refused(admin: httpx.Client) -> None:
    """With a code and a hint, and nothing is stored."""
    for body, code in REFUSED:
        reply = admin.post(HOOKS, json=body)
        assert (reply.status_code, reply.json()["code"]) == (400, code), body
        assert reply.json()["hint"]
        assert "secret" not in reply.json()["detail"]
        assert admin.get(HOOKS).json()["items"] == []


def test_what_is_not_there_is_told_as_such(admin: httpx.Client) -> None:
    """By every operation that names one."""
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", ":test"), ("GET", "/deliveries")):
        reply = admin.request(method, f"{HOOKS}/webhook-0{path}")
        assert (reply.status_code, reply.json()["code"]) == (404, "unknown-webhook")
    assert admin.get("/api/v1/audit").json()["items"][0]["verb"] != "webhook-test"


def test_there_is_an_end_to_webhooks(admin: httpx.Client) -> None:
    """Fifty are allowed; a further one is refused until one is deleted."""
    made = [hook(admin, "http://127.0.0.1:1/") for _ in range(50)]
    refused = admin.post(HOOKS, json={"url": "http://127.0.0.1:1/"})
    assert (refused.status_code, refused.json()["code"]) == (409, "too-many-webhooks")
    assert admin.delete(f"{HOOKS}/{made[0]['id']}").status_code == 204
    hook(admin, "http://127.0.0.1:1/")


def test_a_secret_is_shown_once(tmp_path: Path, admin: httpx.Client, fleet: Fleet) -> None:
    """In no list, trail or log, even at level debug; a deleted webhook leaves neither the secret nor deliveries."""
    with Receiver(500) as receiver:
        made = hook(admin, receiver.url)
        assert made["secret"].startswith("whsec_")
        admin.post(f"{HOOKS}/{made['id']}:test")
        break_a_canary(admin, fleet)
        receiver.first("rollout.rolled-back")
        pages = (HOOKS, f"{HOOKS}/{made['id']}", f"{HOOKS}/{made['id']}/deliveries", "/api/v1/audit", "/api/v1/events")
        for page in pages:
            assert made["secret"] not in admin.get(page).text
        verbs = {entry["verb"] for entry in admin.get("/api/v1/audit").json()["items"]}
        assert verbs >= {"webhook-create", "webhook-test"}
        admin.delete(f"{HOOKS}/{made['id']}")
        log = tmp_path / "log"
        eventually(lambda: '"DELETE"' in log.read_text(), "all of it is in the log")
        assert made["secret"].removeprefix("whsec_") not in log.read_text()
        assert admin.get(f"{HOOKS}/{made['id']}/deliveries").status_code == 404
        assert admin.get(LINE).status_code == 200
