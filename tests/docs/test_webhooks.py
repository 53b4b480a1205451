"""docs/webhooks.md: its receiver accepts only our messages; types and bounds are those of the code."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.audit.events import KEPT as EVENTS_KEPT
from roadworthy.foundation.clock import SystemClock
from roadworthy.webhooks import deliveries, hooks, messages, schedule, sending
from roadworthy.webhooks.messages import Message, compose
from roadworthy.webhooks.sending import Attempt, Sender
from roadworthy.webhooks.signing import make_secret, sign
from tests.waiting import DEADLINE_S, NO_TLS

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
EVENT = {
    "number": 42,
    "at_us": 1,
    "kind": "rollout-finished",
    "subject": "flights",
    "detail": {"outcome": "rolled-back", "text": "3 of 3"},
}
MESSAGE = compose(EVENT, "2026-11-21T12:00:00.000+00:00")


class Shown:
    """The page's receiver, unchanged, on a free port."""

    def __init__(self) -> None:
        (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
        self.names: dict[str, Any] = {"__name__": "receiver"}
        exec(compile(code, "docs/webhooks.md", "exec"), self.names)  # noqa: S102 - the page's own code
        self.secret: str = self.names["SECRET"]
        quiet = type("Quiet", (self.names["Receiver"],), {"log_message": lambda *_: None})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), quiet)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        """Stop it."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def shown() -> Iterator[Shown]:
    """The receiver."""
    receiver = Shown()
    yield receiver
    receiver.close()


def send(url: str, secret: str, message: Message = MESSAGE) -> Attempt:
    """As the control plane does."""
    sender = Sender([ip_network("127.0.0.0/8")], SystemClock())
    return asyncio.run(sender.send(url, secret, message))


def test_the_receiver_takes_what_is_ours_and_once(shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    """A repeated message is accepted and printed only once."""
    for _ in range(2):
        assert send(shown.url, shown.secret).status == 204
    assert capsys.readouterr().out == "rollout.rolled-back flights 3 of 3\n"
    assert shown.names["seen"] == {MESSAGE.id}


def test_the_receiver_refuses_what_is_not_ours(shown: Shown) -> None:
    """Another secret, a changed body, an old message, no signature at all."""
    assert send(shown.url, make_secret()).status == 401
    old = sign(shown.secret, MESSAGE.id, 1_600_000_000, MESSAGE.body)
    assert httpx.post(shown.url, content=MESSAGE.body, headers=old, timeout=DEADLINE_S, verify=NO_TLS).status_code == 401
    assert httpx.post(shown.url, content=MESSAGE.body, timeout=DEADLINE_S, verify=NO_TLS).status_code == 401
    assert (
        httpx.post(
            shown.url, content=MESSAGE.body, headers={"webhook-timestamp": "soon"}, timeout=DEADLINE_S, verify=NO_TLS
        ).status_code
        == 401
    )
    assert shown.names["seen"] == set()


def test_every_type_is_told_with_its_meaning() -> None:
    """The page and the code have the same types."""
    rows = dict(re.findall(r"^\| `([a-z.-]+)` \| (.+) \|$", PAGE, flags=re.MULTILINE))
    told = {name: text for name, text in rows.items() if not name.startswith("webhook-")}
    assert told.pop(messages.PING)
    assert told == messages.EVENT_TYPES


def test_the_body_that_is_shown_has_the_parts_of_a_real_one() -> None:
    """Name for name."""
    (block,) = re.findall(r"^```json\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert list(json.loads(block)) == list(json.loads(MESSAGE.body))


def test_the_bounds_that_are_told_are_those_of_the_code() -> None:
    """Seconds, tries, and how many of each are kept."""
    for text in (
        f"may take {sending.TIMEOUT_S:g} s in all",
        f"After {schedule.MOST_TRIES} tries",
        f"The newest {EVENTS_KEPT:,} events are kept",
        f"at most {hooks.MOST} webhooks",
        f"newest {deliveries.KEPT} attempts",
        f"{messages.MOST_BODY_BYTES >> 10} KiB",
    ):
        assert text in re.sub(r"\s+", " ", PAGE), text
    assert (schedule.FAILS_FROM, schedule.MOST_PAUSE_S) == (6, 3_600)
