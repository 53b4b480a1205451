"""G11: a gateway key is valid for its own instances only, in frames and in paths, and cannot affect others' revisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.access import keys
from roadworthy.access.principal import Principal
from roadworthy.contract.telemetry import READY, RecordFile, Telemetry, VersionState, WorkerReport
from roadworthy.control.context import ControlContext
from roadworthy.control.resources import telemetry
from roadworthy.control.wiring import build_context
from roadworthy.monitoring import gateways
from tests.control_plane import FakeGateway, serving
from tests.defaults import control_document
from tests.waiting import eventually


@pytest.fixture
def other(control: Any, admin: httpx.Client) -> Iterator[FakeGateway]:
    """A gateway with its own key."""
    made = admin.post("/api/v1/keys", json={"role": "gateway", "name": "other"}).json()
    assert made["name"] == "other"
    with control.client(made["key"]) as client:
        yield FakeGateway(client, "gw-1")


def ids(admin: httpx.Client) -> list[str]:
    """The ids of the gateways that reported."""
    return [gateway["id"] for gateway in admin.get("/api/v1/status").json()["gateways"]]


def refusals(admin: httpx.Client) -> list[tuple[str, str]]:
    """The refused keys, and the gateways that they named."""
    items = admin.get("/api/v1/audit").json()["items"]
    return [(item["actor"], item["subject"]) for item in items if item["verb"] == "gateway-refused"]


def test_g11_a_key_that_names_another_is_refused_and_audited(control: Any, admin: httpx.Client, other: Any) -> None:
    """With the other key's name, its id, or its bare name, in a frame, a path, and a frame's record files."""
    foreign = [f"{control.GATEWAY}/gw-1", f"{control.gateway_id}/gw-1", control.GATEWAY]
    for name in foreign:
        other.name = name
        put = other.client.put(f"/internal/v1/records/{name}/a.parquet", content=b"x")
        for reply in (other.report(), put):
            assert (reply.status_code, reply.json()["code"]) == (403, "gateway-not-yours"), name
    other.name = "gw-1"
    theirs = RecordFile(f"records/{control.GATEWAY}/gw-1/a.parquet", "line", 1, 1, 1, 1)
    assert other.report(record_files=(theirs,)).status_code == 403
    assert ids(admin) == []
    assert not (control.folder / "blobs" / "records").exists()
    assert sorted(refusals(admin)) == sorted(("other", name) for name in foreign)


def test_g11_an_instance_is_the_keys_name_and_its_own(control: Any, admin: httpx.Client, gateway: Any, other: Any) -> None:
    """However the gateway writes its name; instances of the same name of two keys are different."""
    key_id = next(key["id"] for key in admin.get("/api/v1/keys").json()["items"] if key["name"] == "other")
    for name in ("gw-1", "other/gw-1", f"{key_id}/gw-1"):
        other.name = name
        assert other.report().status_code == 200
        put = other.client.put(f"/internal/v1/records/{name}/a.parquet", content=b"x")
        assert put.status_code == 204
    assert gateway.report().status_code == 200
    assert ids(admin) == ["other/gw-1", f"{control.GATEWAY}/gw-1"]
    kept = [path for path in (control.folder / "blobs" / "records").rglob("*") if path.is_file()]
    assert kept == [control.folder / "blobs" / "records" / "other" / "gw-1" / "a.parquet"]


@pytest.mark.parametrize(
    "name", ["", "/", "a/b/c", "../gw-1", "other/", "/gw-1", "other/../gw", "Other/gw-1", "other/" + "x" * 65]
)
def test_g11_what_is_no_name_is_refused(admin: httpx.Client, other: Any, name: str) -> None:
    """An invalid name is refused before anything is written."""
    other.name = name
    reply = other.report()
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid-name")
    assert ids(admin) == []


def test_g11_names_of_keys(admin: httpx.Client, other: Any) -> None:
    """A key without a name uses its id; a name belongs to one key, and must not look like an id."""
    assert other.report().status_code == 200
    plain = admin.post("/api/v1/keys", json={"role": "gateway"}).json()
    assert plain["name"] == plain["id"]
    for name, status, code in (
        ("other", 409, "key-name-taken"),
        (plain["id"], 400, "invalid-name"),
        ("key-12345678", 400, "invalid-name"),
        ("a/b", 400, "invalid-name"),
    ):
        reply = admin.post("/api/v1/keys", json={"role": "gateway", "name": name})
        assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_g11_a_revision_from_the_future_raises_an_alert_and_nothing_else(admin: httpx.Client, gateway: Any, push: Any) -> None:
    """No new epoch: the alert and the audit entry name the gateway and the command, and all endpoints stay served."""
    digest = push()["digest"]
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.ready(digest)
    serving(admin, "line:1")
    seen = gateway.snapshot().json()

    def report(revision: int) -> list[dict[str, Any]]:
        worker = WorkerReport(0, 1, "w", seen["epoch"], seen["revision"], revision, (VersionState(digest, READY),))
        assert gateway.report(workers=(worker,)).status_code == 200
        return list(admin.get("/api/v1/status").json()["alerts"])

    for _ in range(2):
        (alert,) = report(seen["revision"] + 7)
        assert alert["code"] == "store-behind"
        assert "`roadworthy restore`" in alert["hint"]
    assert gateway.snapshot().json() == seen
    told = [item for item in admin.get("/api/v1/audit").json()["items"] if item["verb"] == "store-behind"]
    assert [item["actor"] for item in told] == [alert["gateway"]]
    assert told[0]["detail"] == {"reported": seen["revision"] + 7, "revision": seen["revision"]}
    assert report(seen["revision"]) == []
    assert eventually(lambda: admin.get("/api/v1/endpoints/line").json()["state"] == "serving", "it serves on")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlContext]:
    """A control plane that stores at most 250 bytes of records."""
    built = build_context(control_document(tmp_path, record_max_bytes=250))
    yield built
    built.database.close()


def keep(plane: ControlContext, name: str) -> str:
    """Receive a record file of 100 bytes; return its blob."""
    source = plane.blobs.incoming()
    source.write_bytes(bytes(100))
    telemetry.keep_records(plane, f"records/other/gw-1/{name}.parquet", source)
    source.unlink()
    return f"records/other/gw-1/{name}.parquet"


def test_g11_record_files_that_no_frame_names_are_deleted_in_their_turn(plane: ControlContext) -> None:
    """They count towards the limit from their arrival on, without belonging to an endpoint."""
    blobs = [keep(plane, str(number)) for number in range(4)]
    assert telemetry.trim_records(plane) == 2
    assert [plane.blobs.exists(blob) for blob in blobs] == [False, False, True, True]
    assert telemetry.last_predictions(plane, "line", 5, None).items == []


def test_g11_a_frame_cannot_lie_about_the_size_of_a_file(plane: ControlContext) -> None:
    """Too large a size would evict all other records, too small a one would never be trimmed; a file that was never received has
    no size."""
    for name, claimed in (("small", 0), ("large", 1 << 60), ("negative", -(1 << 40))):
        file = RecordFile(keep(plane, name), "line", 1, claimed, 1, 1)
        telemetry.take_frame(plane, Telemetry("other/gw-1", name, 1, 1, record_files=(file,)))
    assert telemetry.trim_records(plane) == 1
    key = keys.Key("key-abcdefgh", "0", keys.GATEWAY, None, 1, "me", "other")
    named = RecordFile("records/gw-1/none.parquet", "line", 1, 1 << 60, 1, 1 << 60)
    telemetry.receive(plane, Principal.of(key), Telemetry("gw-1", "b", 1, 1, record_files=(named,)))
    assert telemetry.trim_records(plane) == 0


def test_g11_a_gateway_of_an_earlier_release_goes_on_under_its_new_name(plane: ControlContext) -> None:
    """Its state from before names were bound to keys is replaced by its first report afterwards."""
    telemetry.take_frame(plane, Telemetry("gw-1", "b", 5, 1))
    telemetry.take_frame(plane, Telemetry("gw-2", "b", 5, 1))
    telemetry.take_frame(plane, Telemetry("key-abcdefgh/gw-1", "b", 6, 1))
    with plane.database.begin() as connection:
        assert [gateway.id for gateway in gateways.list_all(connection)] == ["gw-2", "key-abcdefgh/gw-1"]
