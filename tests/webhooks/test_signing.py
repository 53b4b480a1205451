"""Signatures against the Standard Webhooks project's own library, and against tampered messages."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from roadworthy.webhooks.signing import make_secret, sign

BODY = b'{"type":"rollout.rolled-back"}'


def test_secrets_are_long_and_never_the_same() -> None:
    """256 random bits behind the prefix that secret scanners know."""
    first, second = make_secret(), make_secret()
    assert first != second
    assert first.startswith("whsec_")
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32


def test_the_library_of_the_specification_accepts_what_is_signed() -> None:
    """And returns the body."""
    secret = make_secret()
    headers = sign(secret, "evt_1", int(time.time()), BODY)
    assert set(headers) == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert Webhook(secret).verify(BODY, headers) == {"type": "rollout.rolled-back"}


def test_the_example_of_the_specification_s_libraries() -> None:
    """The vector that the libraries of all languages are tested with."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("part", ["body", "webhook-id", "webhook-timestamp", "webhook-signature", "secret"])
def test_what_was_tampered_with_does_not_pass(part: str) -> None:
    """A changed byte anywhere, another secret, and another time are all detected."""
    secret, now = make_secret(), int(time.time())
    headers, body = sign(secret, "evt_1", now, BODY), BODY
    if part == "body":
        body = BODY.replace(b"rolled-back", b"promoted")
    elif part == "secret":
        secret = make_secret()
    else:
        changed = {
            "webhook-id": "evt_2",
            "webhook-timestamp": str(now - 1),
            "webhook-signature": sign(make_secret(), "evt_1", now, BODY)["webhook-signature"],
        }
        headers[part] = changed[part]
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(secret).verify(body, headers)


def test_an_old_message_does_not_pass() -> None:
    """A message with a valid signature from ten minutes ago is a replay."""
    secret = make_secret()
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(secret).verify(BODY, sign(secret, "evt_1", int(time.time()) - 600, BODY))
