"""Callers of a gateway that stops: whatever becomes of each request is counted, and nothing is tried again."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.load.traffic import PATIENCE_S

REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks, again and again."""

    port: int
    path: str
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Caller(threading.Thread):
    """Asks until nobody listens or `enough` is set, on one connection as long as that lasts, or on a new one each time.

    Attributes:
        outcomes: how often each came: a status, the code of a refusal, or the error of a connection that broke.
    """

    def __init__(self, question: Question, *, keeps: bool, enough: threading.Event | None = None) -> None:
        super().__init__(daemon=True)
        self._question = question
        self._keeps = keeps
        self._enough = enough or threading.Event()
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        """Connect, ask, and again."""
        connection: http.client.HTTPConnection | None = None
        while not self._enough.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._question.port, timeout=PATIENCE_S)
                    connection.connect()
                ends = self._ask(connection)
            except ConnectionRefusedError:
                self.outcomes[REFUSED] += 1
                return
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[repr(error)] += 1
                ends = True
            if ends and connection is not None:
                connection.close()
                connection = None

    def _ask(self, connection: http.client.HTTPConnection) -> bool:
        """Whether the connection is at its end."""
        headers = {"Content-Type": "application/json", **self._question.headers}
        connection.request("POST", self._question.path, self._question.body, headers)
        reply = connection.getresponse()
        body = json.loads(reply.read())
        self.outcomes[str(body.get("code") or reply.status)] += 1
        return reply.will_close or not self._keeps


def start_callers(question: Question, count: int, enough: threading.Event | None = None) -> list[Caller]:
    """Half of them keep their connections."""
    callers = [Caller(question, keeps=bool(number % 2), enough=enough) for number in range(count)]
    for caller in callers:
        caller.start()
    return callers


def outcomes(callers: list[Caller]) -> Counter[str]:
    """Of all of them, once each has ended."""
    total: Counter[str] = Counter()
    for caller in callers:
        caller.join(PATIENCE_S)
        total += caller.outcomes
        total["goes on asking"] += caller.is_alive()
    return +total
