"""One attempt against real receivers, good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import threading
from ipaddress import ip_network
from pathlib import Path

import pytest

from roadworthy.foundation.clock import SystemClock
from roadworthy.webhooks.messages import Message
from roadworthy.webhooks.sending import Attempt, Sender
from roadworthy.webhooks.signing import make_secret
from tests.redis_servers import certificate
from tests.waiting import DEADLINE_S
from tests.webhooks.receiver import Receiver

LOOPBACK = [ip_network("127.0.0.0/8")]
MESSAGE = Message("evt_1", "ping", None, b'{"type":"ping"}')
SECRET = make_secret()


def send(url: str, timeout_s: float = DEADLINE_S, networks: object = LOOPBACK) -> Attempt:
    """One attempt."""
    sender = Sender(networks, SystemClock(), timeout_s)  # type: ignore[arg-type]
    return asyncio.run(sender.send(url, SECRET, MESSAGE))


def test_a_message_arrives_whole_and_signed() -> None:
    """As JSON, under the name in the URL, to the path in the URL."""
    with Receiver() as receiver:
        attempt = send(f"http://localhost:{receiver.port}/a?b=c")
        assert (attempt.delivered, attempt.status, attempt.reason) == (True, 200, "")
        (got,) = receiver.received
        assert got.verified(SECRET) == {"type": "ping"}
        assert (got.path, got.headers["host"]) == ("/a?b=c", f"localhost:{receiver.port}")
        assert got.headers["content-type"] == "application/json"
        assert got.headers["user-agent"].startswith("roadworthy/")


def test_a_redirect_is_not_followed() -> None:
    """A redirect would lead a message, sent from inside, to any place that a receiver chooses."""
    with Receiver() as other, Receiver(307) as receiver:
        receiver.headers = {"Location": other.url}
        attempt = send(receiver.url)
        assert (attempt.delivered, attempt.status) == (False, 307)
        assert "not followed" in attempt.reason
        assert other.received == []


def test_what_a_receiver_asks_to_wait_is_told() -> None:
    """In seconds; dates and other texts are ignored."""
    for text, seconds in (("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("9" * 30, None)):
        with Receiver(503) as receiver:
            receiver.headers = {"Retry-After": text}
            assert send(receiver.url).retry_after_s == seconds


def test_a_receiver_that_does_not_answer_is_left_after_the_timeout() -> None:
    """The whole attempt is bounded, not only each wait in it."""
    with Receiver() as receiver:
        receiver.held.clear()
        attempt = send(receiver.url, timeout_s=0.3)
        assert (attempt.status, attempt.reason) == (None, "no answer within 0.3 s")


def test_an_answer_that_drips_is_left_after_the_timeout() -> None:
    """A byte now and then resets no clock."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while not over.wait(0.05):
                        connection.sendall(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        attempt = send(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_s=2.0)
        over.set()
        listener.shutdown(socket.SHUT_RDWR)  # ends an accept that still waits: the time may have been up before the connection
        thread.join()
    assert (attempt.delivered, attempt.reason) == (False, "no answer within 2 s")


def test_an_endless_answer_is_not_read() -> None:
    """Only the status is read; a body of a gigabyte costs nothing."""
    with Receiver() as receiver:
        receiver.headers = {"Content-Length": str(1 << 30)}
        assert send(receiver.url, timeout_s=DEADLINE_S).delivered


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"])
def test_what_is_no_answer_is_a_failure_with_a_reason(answer: bytes) -> None:
    """A closed connection, a reply that is not HTTP, endless headers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                try:
                    connection.sendall(answer)
                except OSError:
                    return

        thread = threading.Thread(target=reply)
        thread.start()
        attempt = send(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()
    assert (attempt.status, attempt.delivered) == (None, False)
    assert attempt.reason.startswith(("RemoteProtocolError", "ReadError"))


def test_an_address_is_judged_at_each_attempt() -> None:
    """A name that led elsewhere when the webhook was created: refused without a connection."""
    with Receiver() as receiver:
        attempt = send(receiver.url, networks=[])
        assert "webhook-address-refused" in attempt.reason
        assert receiver.received == []


def test_nobody_there_is_a_failure_with_a_reason() -> None:
    """The port is bound and refuses."""
    with Receiver(down=True) as receiver:
        assert send(receiver.url).reason.startswith("ConnectError")


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would learn the target, and could reach addresses that webhooks may not."""
    with Receiver() as proxy, Receiver() as receiver:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert send(receiver.url).delivered
        assert (len(receiver.received), proxy.received) == (1, [])


def test_a_certificate_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the address is called: a certificate for the name passes; one for another name fails, and so does a self-signed
    one."""
    if shutil.which("openssl") is None and not os.environ.get("CI"):
        pytest.skip("needs openssl")
    for host, trusted, reason in (
        ("localhost", True, ""),
        ("localhost", False, "CERT"),
        ("other.example", True, "CERT"),
    ):
        folder = tmp_path / f"{host}-{trusted}"
        folder.mkdir()
        files = certificate(folder, host)
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", files[0])
        else:
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with Receiver(certificate=files) as receiver:
            attempt = send(f"https://localhost:{receiver.port}/")
            assert attempt.delivered == (not reason), attempt.reason
            assert reason in attempt.reason
            assert len(receiver.received) == attempt.delivered
