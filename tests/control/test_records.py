"""Record files from gateways, and queries over them."""

from __future__ import annotations

import io
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roadworthy.contract.record import PredictionRecord
from roadworthy.contract.telemetry import RecordFile
from roadworthy.control.http.auth_middleware import MOST_BODY_BYTES
from tests.control_plane import ControlProcess


def record(number: int, **changes: Any) -> PredictionRecord:
    """A plausible record."""
    fields: dict[str, Any] = {
        "id": f"{number:032x}",
        "at_us": 1_000_000 * number,
        "endpoint": "line",
        "generation": 1,
        "model": "line",
        "version": 1,
        "digest": "sha256:" + "0" * 64,
        "runtime": "native",
        "caller": "key-a",
        "request_id": f"req-{number}",
        "status": 200,
        "code": "ok",
        "latency_us": 1500,
        "rows": 1,
        "input_format": "json",
        "json_bytes": -1,
        "inputs": b'{"instances":[[1,2,3]]}',
        "outputs": b'{"predictions":[6]}',
        "output_json_bytes": -1,
    }
    return PredictionRecord(**{**fields, **changes})


def parquet(records: list[PredictionRecord]) -> bytes:
    """A record file."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([msgspec.structs.asdict(r) for r in records]), sink)
    return sink.getvalue()


def test_a_long_record_file_is_taken_however_its_gateway_is_named(gateway: Any) -> None:
    """A busy second makes files of megabytes; the bound of ordinary bodies does not apply."""
    numbers = np.random.default_rng(1)
    noise = [record(n, inputs=numbers.bytes(1 << 10)) for n in range(1, 3_001)]
    content = parquet(noise)
    assert len(content) > 2 * MOST_BODY_BYTES
    for place in ("gw-1", f"{ControlProcess.GATEWAY}/gw-1"):
        name = f"line-{place.count('/')}.parquet"
        reply = gateway.client.put(f"/internal/v1/records/{place}/{name}", content=content)
        assert reply.status_code == 204, (place, reply.text)
        reply = gateway.client.put(f"/internal/v1/records/{place}/{name}", content=(content for _ in range(1)))
        assert reply.status_code == 204, (place, reply.text)
        manifest = RecordFile(f"records/{place}/{name}", "line", 3_000, len(content), 1_000_000, 3_000_000_000)
        assert gateway.report(record_files=(manifest,)).status_code == 200
    many = tuple(msgspec.structs.replace(manifest, blob=f"records/gw-1/line-{'9' * 90}{n}.parquet") for n in range(10_000))
    assert gateway.report(record_files=many).status_code == 200


def test_shipped_records_can_be_asked_for(admin: httpx.Client, gateway: Any) -> None:
    """The newest of several files, newest last; by id; with notes of binary bodies, and of text that no reply can hold."""
    for start in (1, 4):
        records = [record(n) for n in range(start, start + 3)]
        if start == 4:
            records[0] = record(4, status=400, inputs=b'{"a":"\\ud800"}', outputs=b'{"a":"\xed\xa0\x80"}')
            records[2] = record(6, json_bytes=2, inputs=b"{}\0\0\0", output_json_bytes=-1, outputs=b"oops")
        name = f"line-{start}.parquet"
        put = gateway.client.put(f"/internal/v1/records/gw-1/{name}", content=parquet(records))
        assert put.status_code == 204
        again = gateway.client.put(f"/internal/v1/records/gw-1/{name}", content=b"other bytes")
        assert again.status_code == 204
        manifest = RecordFile(f"records/gw-1/{name}", "line", 3, 100, records[0].at_us, records[-1].at_us)
        gateway.report(record_files=(manifest,))
    reply = admin.get("/api/v1/endpoints/line/predictions", params={"last": 4}).json()
    assert [item["request_id"] for item in reply["items"]] == ["req-3", "req-4", "req-5", "req-6"]
    assert reply["items"][0]["inputs"] == {"instances": [[1, 2, 3]]}
    assert reply["items"][0]["latency_ms"] == 1.5
    assert reply["items"][3]["inputs"] == {"json": {}, "binary_bytes": 3}
    assert reply["items"][3]["outputs"] == {"unreadable_bytes": 4}
    assert reply["items"][1]["inputs"] == {"unreadable_bytes": 14}
    assert reply["items"][1]["outputs"] == {"unreadable_bytes": 11}
    one = admin.get("/api/v1/endpoints/line/predictions", params={"id": f"{2:032x}:0"}).json()
    assert [item["request_id"] for item in one["items"]] == ["req-2"]


def test_the_newest_of_several_gateways_that_overlap_in_time(admin: httpx.Client, control: Any, gateway: Any) -> None:
    """A file that ends later may begin before another file's newest predictions."""
    for name, numbers in (("gw-1", (1, 9)), ("gw-2", (7, 8))):
        gateway.name = name
        put = gateway.client.put(f"/internal/v1/records/{name}/a.parquet", content=parquet([record(n) for n in numbers]))
        assert put.status_code == 204
        times = [1_000_000 * n for n in numbers]
        gateway.report(record_files=(RecordFile(f"records/{name}/a.parquet", "line", 2, 100, times[0], times[-1]),))
    reply = admin.get("/api/v1/endpoints/line/predictions", params={"last": 2}).json()
    assert [item["request_id"] for item in reply["items"]] == ["req-8", "req-9"]


def test_a_file_that_is_no_record_file_or_is_gone_hides_no_other(
    admin: httpx.Client, gateway: Any, control: ControlProcess
) -> None:
    """Queries skip unreadable files."""
    for name, content in (("good", parquet([record(1)])), ("junk", b"junk"), ("gone", parquet([record(2)]))):
        gateway.client.put(f"/internal/v1/records/gw-1/{name}.parquet", content=content)
    next(control.folder.rglob("gone.parquet")).unlink()
    gateway.report(
        record_files=tuple(RecordFile(f"records/gw-1/{name}.parquet", "line", 1, 100, 1, 1) for name in ("junk", "good", "gone"))
    )
    reply = admin.get("/api/v1/endpoints/line/predictions").json()
    assert [item["request_id"] for item in reply["items"]] == ["req-1"]
    assert reply["unreadable"] == {"files": 2, "predictions": 2}  # G10: counted, and told by `logs`


def test_a_gateway_names_only_its_own_record_files(admin: httpx.Client, gateway: Any) -> None:
    """Retention later deletes named files, which must never be a package or another gateway's file."""
    for blob in ("packages/" + "a" * 64, "records/gw-2/a.parquet", "../a.parquet", "records/gw-1/../gw-2/a.parquet"):
        reply = gateway.report(record_files=(RecordFile(blob, "line", 1, 1, 1, 1),), sequence=1)
        assert reply.status_code == 400, blob
    assert admin.get("/api/v1/status").json()["gateways"] == []


def test_names_of_record_files_are_checked(gateway: Any) -> None:
    """F9: only plain file names reach the disk."""
    for path in ("gw-1/a.txt", "gw-1/..%2f..%2fx.parquet", "GW/a.parquet", "gw-1/.hidden.parquet"):
        reply = gateway.client.put(f"/internal/v1/records/{path}", content=b"x")
        assert reply.status_code in (400, 404), path


def test_malformed_telemetry_is_refused(gateway: Any) -> None:
    """A body that is not a frame changes nothing."""
    reply = gateway.client.post("/internal/v1/telemetry", content=b'{"gateway": 3}')
    assert (reply.status_code, reply.json()["code"]) == (400, "malformed-telemetry")
