"""A client process of bench/neighbours.py: an attacker, or the measured callers. It reads its orders as a line of JSON from
standard input and prints its results as one.

An attacker sends its bodies, read from files, in a cycle on its own connection, and waits for each answer. Callers send one row
per request on keep-alive connections, with pauses, and report how long each answer took.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 120.0


def attack(orders: dict[str, Any]) -> dict[str, Any]:
    """Send until the time is over; return the number of answers by body and status."""
    os.nice(5)  # the server is measured, not the callers' share of a core with the attackers
    bodies = [(body, Path(body["file"]).read_bytes()) for body in orders["bodies"]]
    counts: dict[str, int] = {}
    until, number = time.monotonic() + orders["seconds"], orders["first"]
    connection = http.client.HTTPConnection("127.0.0.1", orders["port"], timeout=TIMEOUT_S)
    while time.monotonic() < until:
        body, data = bodies[number % len(bodies)]
        number += 1
        status = 0
        try:
            connection.request("POST", body["path"], data, body["headers"])
            reply = connection.getresponse()
            reply.read()
            status = reply.status
        except (OSError, http.client.HTTPException):
            connection.close()
        key = f"{body['name']} {status}"
        counts[key] = counts.get(key, 0) + 1
    connection.close()
    return counts


def call(orders: dict[str, Any]) -> dict[str, Any]:
    """Send requests until the time is over; return the seconds of each answer, and the number of wrong or missing answers."""
    times: list[float] = []
    failed: list[str] = []
    until = time.monotonic() + orders["seconds"]

    def caller() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", orders["port"], timeout=TIMEOUT_S)
        while time.monotonic() < until:
            begun = time.monotonic()
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("POST", orders["path"], orders["body"], orders["headers"])
                reply = connection.getresponse()
                if reply.read().startswith(b'{"predictions"'):
                    times.append(time.monotonic() - begun)
                    time.sleep(orders["pause_s"])
                    continue
            failed.append("no answer")
            connection.close()
        connection.close()

    threads = [threading.Thread(target=caller) for _ in range(orders["callers"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"times": times, "failed": len(failed)}


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    print(json.dumps({"attack": attack, "call": call}[told["what"]](told)))
