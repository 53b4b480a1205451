"""C.10: stored files are removed or damaged; and recording while the agent is stopped."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx

from bench.redteam.attack import TIMEOUT_S, Attack, Finding, Ground, answers, asked, counted, found, manager
from bench.redteam.packages import ENDPOINT, WIDTH
from bench.service import NO_TLS, Service, role_of

SERVING_S = 30.0
TOLD_S = 15.0
STILL_S = 8.0
"""Seconds for which the agent is stopped; the supervisor ends an agent that is stopped for longer."""
CALLERS = 4
BIG = json.dumps({"instances": [[0.5] * WIDTH] * 9_000}).encode()
"""A body whose record takes more than half a MiB: a few dozen of them fill a worker's buffer."""


def databases(ground: Ground) -> Iterator[Finding]:
    """The control plane's database, while nothing runs: missing, empty, damaged, another installation's; then restored."""
    other = ground.serving("other")
    other.stop()
    foreign = _database(other).read_bytes()
    service = ground.serving()
    service.stop()
    file = _database(service)
    whole, left = file.read_bytes(), list[str]()
    for state, content in (("gone", None), ("empty", b""), ("damaged", b"\0" * len(whole)), ("another's", foreign)):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        logged = service.log.stat().st_size
        service.start()
        served = found(partial(answers, service), SERVING_S) is not None
        found(partial(_codes_told, service, logged), SERVING_S)
        codes = _codes(service, logged)
        now = file.read_bytes() if file.exists() else None
        untouched = now == content
        came = f"{'answers' if served else 'NOT ANSWERING'}, {', '.join(codes) or 'says nothing'}"
        yield (
            f"the database is {state}, `up`",
            f"{came}, {'left alone' if untouched else 'CHANGED'}",
            (served and bool(codes) and untouched),
        )
        if state == "gone":
            file.write_bytes(whole)
            back = found(partial(_has_status, service), SERVING_S) is not None
            yield "and its file comes back, nothing else is done", "goes on" if back else "STAYS AWAY", back
        service.stop()
        file.write_bytes(whole)
        left += [path.name for path in file.parent.glob(f"{file.name}-*")]
    yield "other files written next to it", counted(left), not left
    service.start()
    served = found(partial(answers, service), SERVING_S) is not None
    status = found(partial(_has_status, service), SERVING_S) is not None
    came = f"{'answers' if served else 'NOT ANSWERING'}, status {'works' if status else 'FAILS'}"
    yield "control: with its own database", came, served and status


def _has_status(service: Service) -> bool:
    return service.attempt("status").returncode == 0


def _codes_told(service: Service, since: int) -> bool:
    return bool(_codes(service, since))


def _codes(service: Service, since: int) -> list[str]:
    return sorted(set(re.findall(r"database-[a-z]+", service.log.read_bytes()[since:].decode(errors="replace"))))


def _database(service: Service) -> Path:
    return service.home / "control" / "roadworthy.db"


def files(ground: Ground) -> Iterator[Finding]:
    """While it runs: removes the gateway's package folder and snapshot, the package's blob, record files."""
    service = ground.serving()
    packages = service.home / "gateway" / "packages"
    (kept,) = [path for path in packages.iterdir() if path.is_dir() and not path.name.startswith(".")]
    shutil.rmtree(kept)
    snapshot = service.home / "gateway" / "snapshot.json"
    snapshot.unlink()
    back = found(lambda: kept.is_dir() and snapshot.is_file(), SERVING_S)
    came = "NOT FETCHED AGAIN" if back is None else f"fetched again after {back:.1f} s"
    yield "the gateway's package folder and snapshot are gone", came, back is not None and answers(service)
    yield from _record_files(service)
    blobs = [path for path in (service.home / "control" / "blobs" / "packages").rglob("*") if path.is_file()]
    for blob in blobs:
        blob.unlink()
    told = service.attempt("status")
    named = "gone" in told.stderr and told.returncode == 0
    came = told.stderr.strip()[:90] if named else "SAYS NOTHING"
    yield f"the package's blob is gone ({len(blobs)} files), `status`", came, named and bool(blobs) and answers(service)


def _record_files(service: Service) -> Iterator[Finding]:
    """Four record files: one truncated, one empty, one missing, one intact."""
    folder = service.home / "control" / "blobs" / "records"
    for number in range(4):
        asked(service)
        if found(partial(_holds_over, folder, number), SERVING_S) is None:
            yield "record files", f"only {number} came", False
            return
    cut, empty, gone, *_ = sorted(folder.rglob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-7])
    empty.write_bytes(b"")
    gone.unlink()
    shown = service.attempt("logs", ENDPOINT, "--last", "50")
    many = json.loads(service.run("logs", ENDPOINT, "--last", "50", "--json"))
    text = " ".join(shown.stderr.split())
    came = f"{len(many['items'])} predictions shown, {text[:80] or 'NOTHING SAID'}"
    yield (
        "record files are cut, empty, gone, `logs`",
        came,
        shown.returncode == 0 and "3" in text and bool(many["items"]),
    )


def _holds_over(folder: Path, number: int) -> bool:
    return sum(1 for _ in folder.rglob("*.parquet")) > number


def recording(ground: Ground) -> Iterator[Finding]:
    """The agent is stopped until records are lost; then it continues."""
    service = ground.serving()
    (agent,) = [member for member in service.members() if role_of(member) == "agent"]
    asked(service)
    agent.send_signal(signal.SIGSTOP)
    enough = threading.Event()
    for _ in range(CALLERS):
        threading.Thread(target=_ask_much, args=(service, enough), daemon=True).start()
    full = found(lambda: "records-dropped" in service.log.read_text(), STILL_S)
    enough.set()
    agent.send_signal(signal.SIGCONT)
    yield "the agent stands still under load: predictions", "answered", answers(service)
    if full is None:
        yield "records that were lost meanwhile", f"none: {STILL_S:g} s did not fill the buffer", None
    else:
        lost = found(lambda: _lost(service) > 0, TOLD_S)
        came = "NOT TOLD" if lost is None else f"{_lost(service):,.0f} on /metrics after {lost:.1f} s"
        yield "records that were lost meanwhile", came, lost is not None
        shown = found(lambda: any(gateway["lost_records"] for gateway in _gateways(service)), TOLD_S)
        yield "and in `status`", "told" if shown is not None else "NOT TOLD", shown is not None
    before = _lost(service)
    ids = [asked(service).headers["Roadworthy-Prediction-Id"] for _ in range(20)]
    arrived = found(lambda: all(_recorded(service, number) for number in (ids[0], ids[-1])), TIMEOUT_S)
    more = _lost(service) - before
    came = f"{'all recorded' if arrived is not None else 'NOT RECORDED'}, {more:.0f} more lost"
    yield "20 predictions afterwards", came, arrived is not None and not more


def _ask_much(service: Service, enough: threading.Event) -> None:
    headers = {"Authorization": f"Bearer {service.key}", "Content-Type": "application/json"}
    with httpx.Client(timeout=TIMEOUT_S, headers=headers, verify=NO_TLS) as client:
        while not enough.is_set():
            with suppress(httpx.HTTPError):
                client.post(f"http://127.0.0.1:{service.ports[0]}/v1/models/{ENDPOINT}:predict", content=BIG)


def _lost(service: Service) -> float:
    text = httpx.get(f"http://127.0.0.1:{service.ports[2]}/metrics", timeout=TIMEOUT_S, verify=NO_TLS).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("roadworthy_records_lost_total"))


def _gateways(service: Service) -> list[dict[str, object]]:
    with manager(service) as admin:
        return list(admin.get("/api/v1/status").json()["gateways"])


def _recorded(service: Service, prediction: str) -> bool:
    return bool(json.loads(service.run("logs", ENDPOINT, "--id", prediction, "--json"))["items"])


ATTACKS = (Attack("C10", databases, 150.0), Attack("C10", files, 90.0), Attack("C10", recording, 180.0))
