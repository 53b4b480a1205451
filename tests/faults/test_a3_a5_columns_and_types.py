"""A3, A4, A5: missing and extra columns, wrong types."""

from __future__ import annotations

import json
from typing import Any

import pytest

ROW = {"age": 1, "name": "n", "flag": True, "score": None, "kind": "red", "when": "2013-01-01T05:00:00Z", "meta": {}}


def test_a3_missing_columns_are_named_at_once(target: Any, refused: Any) -> None:
    """One answer names all missing columns."""
    body = refused(target.predict("sum", [{"b": 1}]), 422, "missing-columns")
    assert {fault["name"] for fault in body["fields"]} == {"a", "c"}


def test_a3_missing_inputs_of_open_inference(target: Any, refused: Any) -> None:
    """The same for tensors."""
    reply = target.client.post(
        "/v2/models/sum/infer", json={"inputs": [{"name": "b", "shape": [1], "datatype": "FP64", "data": [1]}]}
    )
    assert {fault["name"] for fault in refused(reply, 422, "missing-columns")["fields"]} == {"a", "c"}


def test_a4_extra_column_is_refused(target: Any, refused: Any) -> None:
    """A column that is not in the signature is refused by default."""
    body = refused(target.predict("sum", [{"a": 1, "b": 2, "c": 3, "zip": 9}]), 422, "unknown-columns")
    assert body["fields"][0]["name"] == "zip"


def test_a4_extra_column_is_ignored_and_counted_by_policy(target: Any) -> None:
    """With extra=ignore the row is answered, and the reply states the number of ignored values."""
    reply = target.predict("ignoring", [{"a": 1, "b": 2, "c": 3, "zip": 9}])
    assert reply.json() == {"predictions": [6.0]}
    assert reply.headers["roadworthy-ignored-columns"] == "1"


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("age", "12", "wrong-type"),
        ("age", True, "wrong-type"),
        ("age", 1.5, "wrong-type"),
        ("age", 1.0, "wrong-type"),
        ("name", 12, "wrong-type"),
        ("flag", 1, "wrong-type"),
        ("flag", "true", "wrong-type"),
        ("score", "1", "wrong-type"),
        ("score", True, "wrong-type"),
        ("kind", "green", "unknown-category"),
        ("when", "yesterday", "wrong-type"),
        ("age", None, "null-not-allowed"),
    ],
)
def test_a5_wrong_types_are_not_converted(target: Any, refused: Any, column: str, value: Any, code: str) -> None:
    """A value of another type is refused, and the error names its column; nothing is coerced."""
    body = refused(target.predict("mixed", [ROW | {column: value}]), 422, code)
    assert [fault["name"] for fault in body["fields"]] == [column]
    assert json.dumps(value) not in body["error"] or value is None


def test_a5_right_types_pass_unchanged(target: Any) -> None:
    """A row of all types comes back unchanged."""
    reply = target.predict("mixed", [ROW])
    assert reply.status_code == 200, reply.text
    answer = reply.json()["predictions"][0]
    assert {**answer, "when": None} == {**ROW, "when": None}
    assert answer["when"].startswith("2013-01-01T05:00:00")


def test_a5_open_inference_datatypes_are_strict(target: Any, refused: Any) -> None:
    """FP32 for an FP64 column is refused: V2 clients state what they send."""
    inputs = [{"name": name, "shape": [1], "datatype": "FP32", "data": [1]} for name in "abc"]
    refused(target.client.post("/v2/models/sum/infer", json={"inputs": inputs}), 422, "wrong-type")
