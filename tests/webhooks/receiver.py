"""A real HTTP server that keeps its requests, and verifies them with the library of the Standard Webhooks project."""

from __future__ import annotations

import json
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks import Webhook

from tests.conftest import eventually


@dataclass(frozen=True)
class Received:
    """One request, with header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The message's id."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The decoded body."""
        return dict(json.loads(self.body))

    def verified(self, secret: str) -> dict[str, Any]:
        """The body, if the signature is right and the time is now."""
        return dict(Webhook(secret).verify(self.body, self.headers))


class Receiver:
    """Answers with `answers` one after the other, then with 200.

    Args:
        down: whether its port refuses connections until `come_up`.
        certificate: files of a certificate and its key, for TLS.
    """

    def __init__(self, *answers: int, down: bool = False, certificate: tuple[str, str] | None = None) -> None:
        self.received: list[Received] = []
        self.answers = list(answers)
        self.headers: dict[str, str] = {}
        self.held = threading.Event()
        """Cleared, it takes requests and does not answer them."""
        self.held.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.server_bind()
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        if not down:
            self.come_up()

    def come_up(self) -> None:
        """Listen from now on."""
        self._server.server_activate()
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def types(self) -> list[str]:
        """Types of the received messages, in order."""
        return [each.event["type"] for each in self.received]

    def first(self, kind: str) -> Received:
        """The first message of that type, as soon as it arrives."""
        return eventually(lambda: next((each for each in self.received if each.event["type"] == kind), None), f"{kind} arrives")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                receiver.held.wait()
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
