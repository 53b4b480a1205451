"""A18, A19: empty bodies, and a million rows in a small body."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty-body"),
        (b" ", 400, "malformed-json"),
        (b"null", 400, "no-instances"),
        (b"1", 400, "no-instances"),
        (b'"instances"', 400, "no-instances"),
        (b"true", 400, "no-instances"),
        (b"[]", 400, "no-instances"),
        (b"[[1,2,3]]", 400, "no-instances"),
        (b"{}", 400, "no-instances"),
        (b'{"instances": null}', 400, "no-instances"),
        (b'{"instances": 1}', 400, "no-instances"),
        (b'{"instances": {}}', 400, "no-instances"),
        (b'{"instances": {"a": 1, "b": 2, "c": 3}}', 400, "no-instances"),
        (b'{"instances": []}', 422, "empty-batch"),
        (b'{"instances": [null]}', 422, "wrong-type"),
        (b'{"instances": [1]}', 422, "wrong-type"),
        (b'{"instances": [[]]}', 422, "wrong-shape"),
        (b'{"instances": [{}]}', 422, "missing-columns"),
        (b'{"instances": [[1,2,3]], "extra": 1}', 400, "unknown-body-key"),
        (b'{"instances": [[1,2,3]]', 400, "malformed-json"),
        (b'{"instances": [[1,2,3]]} {}', 400, "malformed-json"),
        (b"\x00", 400, "malformed-json"),
    ],
)
def test_a18_nothing_in_it(target: Any, refused: Any, body: bytes, status: int, code: str) -> None:
    """Empty, null, scalar and misplaced values are the caller's error, never a 500."""
    refused(target.post("sum", body), status, code)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty-body"),
        (b"null", 400, "malformed-request"),
        (b"[]", 400, "malformed-request"),
        (b"{}", 400, "malformed-request"),
        (b'{"inputs": null}', 400, "malformed-request"),
        (b'{"inputs": []}', 422, "missing-columns"),
        (b'{"inputs": [1]}', 400, "malformed-request"),
    ],
)
def test_a18_nothing_in_it_open_inference(target: Any, refused: Any, body: bytes, status: int, code: str) -> None:
    """The same in the V2 protocol."""
    refused(target.client.post("/v2/models/sum/infer", content=body), status, code)


def test_a18_tensors_without_rows_or_data(target: Any, refused: Any) -> None:
    """No rows, or no values for them, are refused."""
    inputs = [{"name": name, "shape": [0], "datatype": "FP64", "data": []} for name in "abc"]
    refused(target.client.post("/v2/models/sum/infer", json={"inputs": inputs}), 422, "empty-batch")
    inputs = [{"name": name, "shape": [1], "datatype": "FP64"} for name in "abc"]
    refused(target.client.post("/v2/models/sum/infer", json={"inputs": inputs}), 400, "no-data")


@pytest.mark.parametrize("row", [b"[1,2,3]", b"[]", b"{}", b"1", b"null", b'{"a":1,"b":2,"c":3}'])
def test_a19_a_million_rows(target: Any, refused: Any, memory_mb: Any, row: bytes) -> None:
    """Rows over the limit are refused for their number, without building them."""
    before = memory_mb()
    body = b'{"instances":[%b]}' % b",".join([row] * (1_000_000 if len(row) < 10 else 500_000))
    refused(target.post("sum", body), 413, "too-many-rows")
    assert memory_mb() - before < 150


def test_a19_around_the_limit(target: Any, refused: Any) -> None:
    """The permitted number of rows is answered, one more is refused, in both protocols."""
    assert len(target.predict("few", [[1, 2, 3]] * 100).json()["predictions"]) == 100
    refused(target.predict("few", [[1, 2, 3]] * 101), 413, "too-many-rows")
    for rows, status in ((100, 200), (101, 413)):
        inputs = [{"name": name, "shape": [rows], "datatype": "FP64", "data": [1] * rows} for name in "abc"]
        assert target.client.post("/v2/models/few/infer", json={"inputs": inputs}).status_code == status
