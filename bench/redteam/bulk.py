"""C.12: one bad item among many, and integers beyond the range of a database."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

from bench.redteam.attack import Attack, Finding, Ground, counted, manager
from bench.redteam.packages import ENDPOINT
from bench.service import Service

ITEMS, BAD = 902, 451
BEYOND: tuple[int | str, ...] = (
    1 << 63,
    (1 << 63) - 1,
    -(1 << 63) - 1,
    1 << 64,
    1 << 200,
    -1,
    "9" * 5_000,
    "1e400",
    "NaN",
    "٣",
)


def feedback(ground: Ground) -> Iterator[Finding]:
    """One malformed id among 902: over HTTP, and in a file for the command line, which names the line."""
    service = ground.shared()
    good = [f"{int(time.time() * 1_000):012x}{secrets.token_hex(10)}" for _ in range(ITEMS)]
    for bad in ("no id", "x" * 100_000, None, 7, {"a": 1}):
        items = [{"prediction_id": bad if number == BAD else each, "correct": True} for number, each in enumerate(good)]
        with manager(service) as admin:
            reply = admin.post(f"/api/v1/endpoints/{ENDPOINT}/feedback", json={"items": items})
        results = [each["result"] for each in reply.json()["items"]] if reply.status_code == 200 else []
        lone = [number for number, result in enumerate(results) if result == "invalid"]
        yield (
            f"feedback, {ITEMS} items, the id of one is {str(bad)[:8]}",
            f"{reply.status_code}: {counted(results)}",
            lone == [BAD],
        )
    file = ground.folder / "feedback.jsonl"
    lines = [json.dumps({"prediction_id": each, "correct": True}) for each in good]
    lines[BAD] = lines[BAD][:-3]
    file.write_text("\n".join(lines))
    done = service.attempt("feedback", ENDPOINT, "--file", str(file))
    named = re.findall(r"line (\d+)", done.stdout + done.stderr)
    yield (
        "the same in a file, one line cut, `feedback`",
        f"names line {', '.join(named) or 'NONE'}",
        named == [str(BAD + 1)],
    )


def integers(ground: Ground) -> Iterator[Finding]:
    """Every number in paths and queries of the API's own description, and numbers in bodies."""
    service = ground.shared()
    before = service.log.stat().st_size
    with manager(service) as admin:
        described = admin.get("/openapi.json").json()
        came, tried, wrong = [], 0, []
        for method, path, name, where in _numbers(described):
            for value in BEYOND:
                url = re.sub(r"{\w+}", ENDPOINT, path.replace(f"{{{name}}}", str(value)))
                reply = admin.request(method, url, params={name: str(value)} if where == "query" else {})
                tried += 1
                came.append(reply.status_code)
                if not 400 <= reply.status_code < 500:
                    wrong.append(
                        f"{method} {path} {name}={value:.8}" if isinstance(value, str) else f"{method} {path} {name}={value}"
                    )
        text = f"{counted(came)}{': ' + ', '.join(wrong[:3]) if wrong else ''}"
        yield f"integers at and beyond 2^63, {tried} requests to all routes", text, bool(tried) and not wrong
        came = []
        for value in (1 << 63, 1 << 64, -1, 10**400):
            body = f'{{"version": "{ENDPOINT}:1", "if_generation": {value}}}'
            headers = {"Content-Type": "application/json"}
            came.append(admin.put(f"/api/v1/endpoints/{ENDPOINT}", content=body, headers=headers).status_code)
    yield "and in a body", counted(came), all(400 <= status < 500 for status in came)
    yield _log(service, before)


def _numbers(described: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(method, path, name, location) of each numeric parameter."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                if parameter["schema"].get("type") in ("integer", "number"):
                    yield method.upper(), path, parameter["name"], parameter["in"]


def _log(service: Service, before: int) -> Finding:
    with service.log.open("rb") as log:
        log.seek(before)
        text = log.read().decode(errors="replace")
    traces = text.count("Traceback")
    return "what the log says of it", f"{traces} tracebacks", not traces


ATTACKS = (Attack("C12", feedback, 60.0, quick=True), Attack("C12", integers, 60.0, quick=True))
