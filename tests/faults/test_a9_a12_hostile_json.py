"""A9 to A12: deep nesting, duplicate keys, bytes that are not text, endless integers."""

from __future__ import annotations

import json
from typing import Any

import pytest

ROW = {"age": 1, "name": "n", "flag": True, "score": None, "kind": "red", "when": "2013-01-01", "meta": {}}


def _nested(depth: int) -> bytes:
    """A body with `depth` levels in total: object, list, object, then lists in its JSON column."""
    row = json.dumps(ROW | {"meta": "HERE"}).encode()
    return b'{"instances": [%b]}' % row.replace(b'"HERE"', b"[" * (depth - 3) + b"]" * (depth - 3))


@pytest.mark.parametrize("depth", [50, 100])
def test_a9_allowed_depth_passes(target: Any, depth: int) -> None:
    """Nesting up to the limit is answered."""
    assert target.post("mixed", _nested(depth)).status_code == 200


@pytest.mark.parametrize("depth", [101, 990, 250_000])
@pytest.mark.parametrize("endpoint", ["mixed", "sum"])
def test_a9_too_deep(target: Any, refused: Any, endpoint: str, depth: int) -> None:
    """Deeper nesting is refused, and the process survives."""
    refused(target.post(endpoint, _nested(depth)), 400, "too-deep")


def test_a9_too_deep_without_end(target: Any, refused: Any) -> None:
    """Brackets that are never closed are refused, in every protocol."""
    refused(target.post("sum", b'{"instances":' + b"[" * 250_000), 400, "too-deep")
    refused(target.client.post("/v2/models/sum/infer", content=b'{"inputs":' + b"[" * 250_000), 400, "too-deep")


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [{"a":1,"b":2,"c":3,"a":1}]}',
        '{"instances": [{"a":1,"b":2,"c":3,"a" :1}]}',
        '{"instances": [{"a":1,"b":2,"c":3,"\\u0061":1}]}',
        '{"instances": [[1,2,3]], "instances": [[1,2,3]]}',
        '{"instances": [[4,5,6]], "instances" : [[1,2,3]]}',
    ],
)
def test_a10_duplicate_keys(target: Any, refused: Any, body: str) -> None:
    """A duplicate key is refused in any spelling; its last value is never used."""
    refused(target.post("sum", body.encode()), 400, "duplicate-key")


def test_a10_duplicate_keys_in_nested_values_and_tensors(target: Any, refused: Any) -> None:
    """The same inside JSON columns and in the head of V2 requests."""
    row = json.dumps(ROW | {"meta": "HERE"}).replace('"HERE"', '{"k":1,"k":2}')
    refused(target.post("mixed", f'{{"instances":[{row}]}}'.encode()), 400, "duplicate-key")
    tensor = '{"name":"%s","shape":[1],"datatype":"FP64","data":[1],"data":[2]}'
    body = '{"inputs":[' + ",".join(tensor % name for name in "abc") + "]}"
    refused(target.client.post("/v2/models/sum/infer", content=body.encode()), 400, "duplicate-key")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"\xff", "invalid-utf-8"),
        (b"\xed\xa0\x80", "invalid-utf-8"),
        (b"\xc0\xaf", "invalid-utf-8"),
        (b"\\ud800", "invalid-text"),
        (b"\\udc00", "invalid-text"),
        (b"\\ud800\\ud800", "invalid-text"),
        (b"\\u0000", "invalid-text"),
        (b"\x00", "malformed-json"),
        (b"\n", "malformed-json"),
    ],
)
def test_a11_bytes_that_are_no_text(target: Any, refused: Any, name: bytes, code: str) -> None:
    """Invalid UTF-8, lone surrogates and NUL are refused."""
    row = json.dumps(ROW).encode().replace(b'"n"', b'"%b"' % name)
    refused(target.post("mixed", b'{"instances": [%b]}' % row), 400, code)


def test_a11_byte_order_mark(target: Any, refused: Any) -> None:
    """A byte order mark is refused."""
    refused(target.post("sum", b'\xef\xbb\xbf{"instances": [[1,2,3]]}'), 400, "invalid-utf-8")


def test_a11_real_text_passes(target: Any) -> None:
    """Text of any script, escaped or not, comes back as it is."""
    for name in ("žluťoučký 東京 🚦", "a:b:c", 'quote " and \\ backslash'):
        for escaped in (True, False):
            body = json.dumps({"instances": [ROW | {"name": name}]}, ensure_ascii=escaped).encode()
            assert target.post("mixed", body).json()["predictions"][0]["name"] == name


@pytest.mark.parametrize("digits", [4_301, 100_000, 1_000_000])
def test_a12_endless_integer(target: Any, refused: Any, digits: int) -> None:
    """An integer of more than 4,300 digits is refused for its length, before it is computed."""
    refused(target.post("sum", b'{"instances": [[%b, 2, 3]]}' % (b"7" * digits)), 400, "integer-too-long")


def test_a12_the_longest_integer_is_out_of_range(target: Any, refused: Any) -> None:
    """An integer of 4,300 digits is read, and refused for its column's type."""
    refused(target.post("sum", b'{"instances": [[%b, 2, 3]]}' % (b"7" * 4_300)), 422, "out-of-range")
