"""`roadworthy webhook …` and `client.webhooks` against a real control plane and a real receiver."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roadworthy.client import Client
from roadworthy.foundation.errors import InvalidRequest, NotFound
from tests.cli.conftest import Run, read
from tests.control_plane import ControlProcess
from tests.webhooks.receiver import Receiver

Webhook = Callable[..., Any]


class Telling(ControlProcess):
    """A control plane whose webhooks may call this machine."""

    def document(self, fd: int) -> dict[str, Any]:
        """With the network named."""
        return {**super().document(fd), "webhook_networks": ["127.0.0.0/8"]}


@pytest.fixture
def control(tmp_path: Path, seed: Path) -> Iterator[ControlProcess]:
    """A separate control plane."""
    process = Telling(tmp_path / "control", seed=seed)
    yield process
    process.kill()


@pytest.fixture
def webhook(run: Run, control: ControlProcess) -> Webhook:
    """Runs `roadworthy webhook …` as the administrator."""

    def tell(*arguments: str) -> Any:
        return run("webhook", *arguments, ROADWORTHY_CONTROL_URL=control.url, ROADWORTHY_KEY=control.admin_key)

    return tell


def test_a_webhook_from_its_making_to_its_end(webhook: Webhook) -> None:
    """Created, listed, shown, tested, inspected and deleted; the secret is printed once, alone on standard output."""
    with Receiver() as receiver:
        made = webhook("create", receiver.url, "--event", "rollout.rolled-back", "--event", "rollout.alert")
        secret = made.stdout.strip()
        assert (made.returncode, secret[:6]) == (0, "whsec_")
        hook_id = made.stderr.partition(";")[0]
        listed = webhook("list")
        assert listed.stdout.splitlines()[1].split()[:2] == [hook_id, "active"]
        shown = webhook("show", hook_id)
        assert "rollout.rolled-back, rollout.alert" in shown.stdout
        pinged = webhook("test", hook_id)
        assert pinged.stdout.startswith("delivered (status 200, ")
        assert receiver.received[0].verified(secret)["type"] == "ping"
        assert webhook("deliveries", hook_id).stdout.splitlines()[1].split()[2:6] == ["ping", "1", "delivered", "200"]
        assert secret not in listed.stdout + shown.stdout
        assert webhook("delete", hook_id).stdout == f"{hook_id} deleted\n"
        assert read(webhook("list", "--json")) == []


def test_every_command_has_json(webhook: Webhook) -> None:
    """As the API has it."""
    with Receiver() as receiver:
        made = read(webhook("create", receiver.url, "--endpoint", "flights", "--json"))
        assert made.pop("secret").startswith("whsec_")
        assert (made["events"], made["endpoints"], made["state"]) == (None, ["flights"], "active")
        assert read(webhook("list", "--json")) == [made]
        assert read(webhook("show", made["id"], "--json")) == made
        sent = read(webhook("test", made["id"], "--json"))
        assert read(webhook("deliveries", made["id"], "--json", "--last", "1")) == [sent]
        assert read(webhook("delete", made["id"], "--json")) == {"id": made["id"], "deleted": True}


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("create", "nonsense"), 2, "webhook-url-invalid"),
        (("create", "http://169.254.169.254/"), 2, "webhook-address-refused"),
        (("create", "http://127.0.0.1:1/", "--event", "x"), 2, "unknown-event-type"),
        (("show", "webhook-0"), 3, "unknown-webhook"),
        (("delete", "webhook-0"), 3, "unknown-webhook"),
        (("test", "webhook-0"), 3, "unknown-webhook"),
        (("deliveries", "webhook-0"), 3, "unknown-webhook"),
    ],
)
def test_refusals_have_a_status_and_a_code(webhook: Webhook, arguments: tuple[str, ...], status: int, code: str) -> None:
    """As docs/cli.md says, with a hint and without a traceback."""
    refused = webhook(*arguments, "--json")
    assert (refused.returncode, refused.stdout) == (status, "")
    told = json.loads(refused.stderr)
    assert told["code"] == code
    assert told["hint"]


def test_a_ping_that_is_not_taken_fails(webhook: Webhook) -> None:
    """With the result on standard output, and status 1."""
    with Receiver(503) as receiver:
        made = read(webhook("create", receiver.url, "--json"))
        pinged = webhook("test", made["id"])
        assert pinged.returncode == 1
        assert pinged.stdout.startswith("failed (status 503, ")
        assert "Traceback" not in pinged.stderr


def test_the_client_in_python(control: ControlProcess) -> None:
    """Typed documents, typed errors."""
    with Receiver() as receiver, Client(control_url=control.url, key=control.admin_key) as client:
        made = client.webhooks.create(receiver.url, events=["rollout.promoted"], endpoints=["flights"])
        assert client.webhooks.get(made.id).events == ["rollout.promoted"]
        assert client.webhooks.test(made.id).outcome == "delivered"
        assert [each.type for each in client.webhooks.deliveries(made.id)] == ["ping"]
        client.webhooks.delete(made.id)
        with pytest.raises(NotFound):
            client.webhooks.get(made.id)
        with pytest.raises(InvalidRequest) as caught:
            client.webhooks.create("ftp://hooks.example/")
        assert caught.value.code == "webhook-url-invalid"
