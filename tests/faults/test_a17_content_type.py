"""A17: content types and encodings; the body is never sniffed."""

from __future__ import annotations

from typing import Any

import pytest

BODY = b'{"instances": [[1,2,3]]}'
INFER = b'{"inputs":[%b]}' % b",".join(
    b'{"name":"%b","shape":[1],"datatype":"FP64","data":[1]}' % name for name in (b"a", b"b", b"c")
)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        'application/json; charset="utf-8"',
    ],
)
def test_a17_json_in_utf_8_is_read(target: Any, kind: str) -> None:
    """Every spelling of JSON in UTF-8."""
    assert target.post("sum", BODY, content_type=kind).status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/json", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "application/jsonp",
     "application/json; charset=utf-8; charset=utf-7", "application/octet-stream", ""],
)  # fmt: skip
def test_a17_other_content_types(target: Any, refused: Any, kind: str) -> None:
    """Anything else is refused, even if the body is JSON."""
    refused(target.post("sum", BODY, content_type=kind), 415, "unsupported-media-type")


def test_a17_missing_content_type(target: Any, refused: Any) -> None:
    """`:predict` requires one; V2 infer does not, since real clients send none."""
    refused(target.client.post("/v1/models/sum:predict", content=BODY), 415, "unsupported-media-type")
    assert target.client.post("/v2/models/sum/infer", content=INFER).status_code == 200


def test_a17_open_inference_refuses_forms(target: Any, refused: Any) -> None:
    """V2 also refuses the types that a browser's form can send."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = target.client.post("/v2/models/sum/infer", content=INFER, headers={"content-type": kind})
        refused(reply, 415, "unsupported-media-type")


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "nonsense"])
def test_a17_compressed_bodies(target: Any, refused: Any, encoding: str) -> None:
    """Unsupported or multiple encodings are refused, not guessed; identity means no compression."""
    refused(target.post("sum", BODY, content_encoding=encoding), 415, "unsupported-content-encoding")
    assert target.post("sum", BODY, content_encoding="identity").status_code == 200
