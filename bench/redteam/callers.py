"""Callers of a stopping gateway: every request's outcome is counted, and no request is retried."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.load.traffic import TIMEOUT_S

REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Question:
    """The request that a caller repeats."""

    port: int
    path: str
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Caller(threading.Thread):
    """Sends requests until connections are refused or `enough` is set, on one kept connection or on a new one each time.

    Attributes:
        outcomes: number of each outcome: a status, the code of a refusal, or the error of a broken connection.
    """

    def __init__(self, question: Question, *, keeps: bool, enough: threading.Event | None = None) -> None:
        super().__init__(daemon=True)
        self._question = question
        self._keeps = keeps
        self._enough = enough or threading.Event()
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        """Connect and send requests, repeatedly."""
        connection: http.client.HTTPConnection | None = None
        while not self._enough.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._question.port, timeout=TIMEOUT_S)
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
        """Send a request; return whether the connection has ended."""
        headers = {"Content-Type": "application/json", **self._question.headers}
        connection.request("POST", self._question.path, self._question.body, headers)
        reply = connection.getresponse()
        body = json.loads(reply.read())
        self.outcomes[str(body.get("code") or reply.status)] += 1
        return reply.will_close or not self._keeps


def start_callers(question: Question, count: int, enough: threading.Event | None = None) -> list[Caller]:
    """Start callers; half of them keep their connections."""
    callers = [Caller(question, keeps=bool(number % 2), enough=enough) for number in range(count)]
    for caller in callers:
        caller.start()
    return callers


def outcomes(callers: list[Caller]) -> Counter[str]:
    """The outcomes of all callers, once each has ended."""
    total: Counter[str] = Counter()
    for caller in callers:
        caller.join(TIMEOUT_S)
        total += caller.outcomes
        total["goes on asking"] += caller.is_alive()
    return +total
