"""B.3: a gateway's key used under other names. B.4: a control plane with an empty home on a database in use."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import httpx

from bench.redteam.attack import TIMEOUT_S, Attack, Finding, Ground, counted, manager
from bench.service import Service, wait_for_answer

FOREIGN = ("local", "local/local", "local/other", "Local/local", "other/../local", "local%2Flocal", "../local/local")
"""Names that do not belong to the second gateway. `local` is the gateway of `roadworthy up`."""
CLAIMED = ("records/local/local/a.parquet", "records/../records/local/a.parquet", "packages/a", "/etc/passwd")


def frame(gateway: str, sequence: int = 1, **fields: Any) -> dict[str, Any]:
    """A telemetry frame in its wire format."""
    return {"gateway": gateway, "boot": "redteam", "sequence": sequence, "at_us": 1, **fields}


def names(ground: Ground) -> Iterator[Finding]:
    """Other names in frames, in the paths of record files, and in frames' file names."""
    service = ground.shared()
    with manager(service) as admin:
        made = admin.post("/api/v1/keys", json={"role": "gateway", "name": "other"}).json()
        with manager(service, made["key"]) as other:
            own = admin.get("/api/v1/keys").json()["items"]
            foreign = [*FOREIGN, *(f"{key['id']}/local" for key in own if key["name"] == "local")]
            before = _state(service, other)
            came = [_told(other.post("/internal/v1/telemetry", json=frame(name))) for name in foreign]
            yield "a second gateway's key reports as local, in 8 spellings", counted(came), _refused(came)
            paths = [path for name in foreign for path in (name, quote(name, safe=""))]
            came = [_told(other.put(f"/internal/v1/records/{path}/a.parquet", content=b"x")) for path in paths]
            yield "and stores record files under those names", counted(came), _refused(came)
            came = [_told(other.post("/internal/v1/telemetry", json=_claiming(blob))) for blob in CLAIMED]
            yield "and claims local's record files as its own", counted(came), _refused(came)
            after = _state(service, other)
            yield "local, its files and the epoch afterwards", _difference(before, after), before == after
            yield _audited(admin)
            yield from _revision(admin, other, service)
        yield _roles(service, admin)


def _claiming(blob: str) -> dict[str, Any]:
    file = {"blob": blob, "endpoint": "line", "rows": 1, "size_bytes": 1 << 50, "first_us": 1, "last_us": 1}
    return frame("mine", 1, record_files=[file])


def _told(reply: httpx.Response) -> str:
    try:
        return f"{reply.status_code} {reply.json()['code']}"
    except (ValueError, KeyError, TypeError):
        return str(reply.status_code)


def _refused(came: list[str]) -> bool:
    return all(text.startswith("4") for text in came)


def _state(service: Service, other: httpx.Client) -> dict[str, Any]:
    """The state that must not change: the epoch, the gateways' names, and the record files that the attack would store."""
    with manager(service) as admin:
        gateways = [gateway["id"] for gateway in admin.get("/api/v1/status").json()["gateways"]]
    snapshot = other.get("/internal/v1/snapshot").json()
    files = sorted(str(path) for path in (service.home / "control" / "blobs" / "records").glob("**/a.parquet"))
    return {"epoch": snapshot["epoch"], "revision": snapshot["revision"], "gateways": gateways, "files": files}


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    changed = [f"{name}: {before[name]} became {after[name]}" for name in before if before[name] != after[name]]
    return "; ".join(changed) or "as before"


def _audited(admin: httpx.Client) -> Finding:
    items = admin.get("/api/v1/audit").json()["items"]
    actors = [item["actor"] for item in items if item["verb"] == "gateway-refused"]
    return "who the audit trail names", counted(actors), set(actors) == {"other"}


def _revision(admin: httpx.Client, other: httpx.Client, service: Service) -> Iterator[Finding]:
    """A gateway under its own name cannot affect other gateways' revisions."""
    before = _state(service, other)
    snapshot = before["revision"] + 1_000_000
    worker = {"slot": 0, "pid": 1, "boot": "w", "epoch": before["epoch"], "revision": snapshot, "offered": snapshot}
    reply = other.post("/internal/v1/telemetry", json=frame("mine", 7, workers=[worker]))
    alerts = admin.get("/api/v1/status").json()["alerts"]
    after = _state(service, other)
    same = (before["epoch"], before["revision"]) == (after["epoch"], after["revision"])
    came = f"{_told(reply)}, alert: {counted(alert['code'] for alert in alerts)}, epoch {'as before' if same else 'NEW'}"
    yield (
        "under its own name it reports a revision from the future",
        came,
        same and reply.status_code == 200 and bool(alerts),
    )
    named = "other/mine" in after["gateways"]
    yield "control: it is known under its own name", counted(after["gateways"]), named


def _roles(service: Service, admin: httpx.Client) -> Finding:
    """Keys of other roles, and no key, on the routes for gateways."""
    predictor = admin.post("/api/v1/keys", json={"role": "predictor"}).json()["key"]
    came = []
    for key in (predictor, service.key, None):
        with manager(service, key) as client:
            came += [_told(client.post("/internal/v1/telemetry", json=frame("local")))]
            came += [_told(client.get("/internal/v1/snapshot"))]
    return "keys of other roles, and none, play gateway", counted(came), _refused(came)


def fresh_homes(ground: Ground) -> Iterator[Finding]:
    """Two more control planes, each with an empty home, on the database of the first."""
    first = ground.installation("first")
    database = first.home / "control" / "roadworthy.db"
    first.start()
    first.wait_ready(TIMEOUT_S)
    first.stop()
    before = _admins(str(database))
    shared = {
        "ROADWORTHY_CONTROL_DATABASE_URL": f"sqlite:///{database}",
        "ROADWORTHY_CONTROL_BLOB_FOLDER": str(first.home / "control" / "blobs"),
    }
    for number, verb in enumerate((("up",), ("control",)), start=2):
        fresh = ground.installation(f"home-{number}", environment=shared, verb=verb)
        fresh.start()
        wait_for_answer(f"http://127.0.0.1:{fresh.ports[1]}/readyz", TIMEOUT_S)
        with manager(fresh, first.key) as admin:
            known = admin.get("/api/v1/status").status_code == 200
        fresh.stop()
        printed = len(re.findall(r"\brw_[a-z0-9]{8}_", fresh.log.read_text()))
        kept = "key" in json.loads((fresh.home / "context.json").read_text())
        more = _admins(str(database)) - before
        came = f"{more} more admin keys, {printed} printed, {'one' if kept else 'none'} kept in its home"
        yield f"`{verb[0]}` with an empty home on a database in use", came, not (more or printed or kept)
        yield "control: it uses that database", "the first admin key is known" if known else "NOT KNOWN", known


def _admins(database: str) -> int:
    with closing(sqlite3.connect(database)) as connection, connection:
        return int(connection.execute("SELECT count(*) FROM keys WHERE role = 'admin'").fetchone()[0])


ATTACKS = (Attack("B3", names, 60.0, quick=True), Attack("B4", fresh_homes, 90.0))
