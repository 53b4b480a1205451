"""Compressed bodies and formats other than JSON, through a worker."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from backports import zstd

from roadworthy.contract.policy import Policy
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.codecs.test_body_formats import FILE, STREAM, file, stream

WRITERS = {STREAM: stream, FILE: file}
COLUMNS = tuple(Field(name, DType.FLOAT64) for name in "abc")
ROWS = pa.table({name: np.arange(300.0) for name in "abc"})


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any) -> Any:
    """A worker with an endpoint that sums, and one that echoes."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)], Policy(max_body_bytes=1 << 20))
    plan.endpoint("echo", [plan.package(2, "echo", Signature(COLUMNS, COLUMNS, Container.RECORDS))])
    return start_worker(plan).wait_ready()


def post(worker: Any, body: bytes, kind: str, endpoint: str = "sum", **headers: str) -> Any:
    """POST a body of a type."""
    sent = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return worker.client.post(f"/v1/models/{endpoint}:predict", content=body, headers=sent)


@pytest.mark.parametrize("kind", WRITERS)
def test_arrow_is_answered(worker: Any, kind: str) -> None:
    """As JSON, and as an Arrow stream where the caller accepts one."""
    body = WRITERS[kind](ROWS)
    reply = post(worker, body, kind)
    assert (reply.status_code, reply.json()["predictions"][:3]) == (200, [0.0, 3.0, 6.0]), reply.text
    table = pa.ipc.open_stream(post(worker, body, kind, "echo", accept=STREAM).content).read_all()
    assert table.to_pylist() == ROWS.to_pylist()


def test_csv_is_answered(worker: Any) -> None:
    """In CSV where the caller accepts it."""
    reply = post(worker, b"c,b,a\n1,2,3\n4,5,6\n", "text/csv", "echo", accept="text/csv")
    assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (200, "text/csv")
    assert reply.text == "a,b,c\r\n3.0,2.0,1.0\r\n6.0,5.0,4.0\r\n"


@pytest.mark.parametrize(("coding", "write"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd.compress)])
@pytest.mark.parametrize("count", [1, 9_000])
def test_compressed_bodies_are_read(worker: Any, coding: str, write: Any, count: int) -> None:
    """Small ones on the event loop, large ones in a thread; the answer is compressed too if the caller accepts it."""
    rows = [[number % 97, 0.25, 1] for number in range(count)]
    body = write(json.dumps({"instances": rows}).encode())
    reply = post(worker, body, "application/json", content_encoding=coding, accept_encoding="gzip")
    assert reply.status_code == 200, reply.text
    assert reply.json()["predictions"] == [sum(row) for row in rows]
    assert reply.headers.get("content-encoding") == ("gzip" if count > 1 else None)
    assert reply.headers.get("vary") == ("accept-encoding" if count > 1 else None)


def gibibyte_of_zeros(coding: str) -> bytes:
    """1 GiB, compressed."""
    block = bytes(1 << 20)
    if coding == "zstd":
        engine = zstd.ZstdCompressor(level=1)
        return b"".join([engine.compress(block) for _ in range(1 << 10)]) + engine.flush()
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    # after a full flush nothing refers to what came before, so all further blocks have the same bytes
    first, other = (deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + other * 1_023


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a16_bombs_over_http(worker: Any, coding: str) -> None:
    """1 GiB in a megabyte: 413, and the worker stays small and answers others meanwhile."""
    bomb = gibibyte_of_zeros(coding)
    process = psutil.Process(worker.process.pid)
    before, begun = process.memory_info().rss, sum(process.cpu_times()[:2])
    for _ in range(5):
        reply = post(worker, bomb[: 1 << 20], "application/json", content_encoding=coding)
        assert (reply.status_code, reply.json()["code"]) in ((413, "body-too-large"), (413, "compression-ratio")), reply.text
    assert process.memory_info().rss - before < 32 << 20
    assert sum(process.cpu_times()[:2]) - begun < 1


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "nonsense"])
def test_a17_unknown_codings(worker: Any, encoding: str) -> None:
    """They are refused by the head."""
    reply = post(worker, gzip.compress(b"{}"), "application/json", content_encoding=encoding)
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported-content-encoding")
