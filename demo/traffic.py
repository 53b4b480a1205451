"""Sends real rows to an endpoint and records the answers.

No request is repeated: the demo reports each failure.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import numpy as np
import pandas as pd

PAUSE_S = 0.004
LONGEST_S = 300.0
"""Longest wait for an answer or an event, much longer than needed even on a busy machine."""
TOLERANCE = 1e-5
"""Largest difference between an answer and the pipeline's own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply.

    Attributes:
        at: when it arrived, on the monotonic clock in seconds. took_ms: how long it took.
        status: HTTP status, 0 without a reply. version, digest: of the version that answered, from the reply's headers.
        first, rows: the rows of the request. probabilities: of being late, one per row; empty after a failure.
        error: the error message of a failed request.
    """

    at: float
    took_ms: float
    status: int
    version: str
    digest: str
    first: int
    rows: int
    probabilities: tuple[float, ...]
    error: str = ""


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values by column name; missing ones become null."""
    filled = rows.astype(object).where(rows.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in filled.to_dict("records")]


@dataclass
class Endpoint:
    """Where to ask, and with which key."""

    url: str
    key: str

    def ask(self, client: httpx.Client, instances: list[dict[str, Any]], first: int = 0) -> Answer:
        """One request with these rows."""
        begun = time.perf_counter()
        try:
            reply = client.post(self.url, json={"instances": instances}, headers={"Authorization": f"Bearer {self.key}"})
        except httpx.HTTPError:
            return Answer(time.monotonic(), 0.0, 0, "", "", first, len(instances), ())
        took_ms = (time.perf_counter() - begun) * 1000
        late: tuple[float, ...] = ()
        error = ""
        if reply.status_code == 200:
            late = tuple(row["probabilities"][1] for row in reply.json()["predictions"])
        else:
            error = str(reply.json()["error"])
        version = reply.headers.get("Roadworthy-Version", "")
        digest = reply.headers.get("Roadworthy-Digest", "")
        return Answer(time.monotonic(), took_ms, reply.status_code, version, digest, first, len(instances), late, error)

    def ask_all(self, rows: pd.DataFrame, size: int) -> list[Answer]:
        """All rows, `size` a request, one request after the other."""
        instances = records(rows)
        with httpx.Client(timeout=LONGEST_S) as client:
            return [self.ask(client, instances[at : at + size], at) for at in range(0, len(instances), size)]


@dataclass
class Traffic:
    """A thread that asks one row after the other, some 200 a second, until it is stopped."""

    endpoint: Endpoint
    rows: pd.DataFrame
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._instances = records(self.rows)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, version: str, timeout_s: float = LONGEST_S) -> None:
        """Return when the newest answers come from `version`; TimeoutError when they do not."""
        deadline = time.monotonic() + timeout_s
        while not self.answers or self.answers[-1].version != version:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer from {version} within {timeout_s:g} s")
            time.sleep(0.005)

    def wait_for_more(self, count: int, timeout_s: float = LONGEST_S) -> None:
        """Return when so many more answers have come; TimeoutError when they do not."""
        wanted, deadline = len(self.answers) + count, time.monotonic() + timeout_s
        while len(self.answers) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {count} answers within {timeout_s:g} s")
            time.sleep(0.005)

    def last_from(self, version: str) -> float:
        """When the last answer of `version` arrived, on the monotonic clock."""
        return max(answer.at for answer in self.answers if answer.version == version)

    def _run(self) -> None:
        with httpx.Client(timeout=LONGEST_S) as client:
            at = 0
            while not self._stop.is_set():
                self.answers.append(self.endpoint.ask(client, [self._instances[at]], at))
                at = (at + 1) % len(self._instances)
                self._stop.wait(PAUSE_S)


def largest_difference(answers: list[Answer], right: dict[str, np.ndarray[Any, Any]]) -> float:
    """How far the answers are from the right ones of the version that gave them; `right` is by version, one value a row."""
    return max(
        float(np.max(np.abs(np.array(answer.probabilities) - right[answer.version][answer.first : answer.first + answer.rows])))
        for answer in answers
    )
