"""A1, A2: non-finite numbers in requests and in answers."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("form", ['{"instances": [[1, %s, 3]]}', '{"instances": [{"a": 1, "b": %s, "c": 3}]}'])
def test_a1_not_finite_input_names_the_field(target: Any, refused: Any, token: str, form: str) -> None:
    """Every spelling of a non-finite number is refused, and the error names the column."""
    body = refused(target.post("sum", (form % token).encode()), 422, "not-finite")
    assert [fault["name"] for fault in body["fields"]] == ["b"]


def test_a1_null_is_not_a_silent_nan(target: Any, refused: Any) -> None:
    """Null is refused if the signature does not allow it; otherwise it stays null."""
    refused(target.predict("sum", [[1, None, 3]]), 422, "null-not-allowed")


def test_a1_not_finite_inside_nested_values(target: Any, refused: Any) -> None:
    """NaN inside a JSON column is refused as well."""
    body = b'{"instances": [{"age":1,"name":"n","flag":true,"score":1,"kind":"red","when":"2013-01-01","meta":{"deep":[NaN]}}]}'
    assert target.post("mixed", body).status_code in (400, 422)


def test_a1_binary_not_finite_names_the_field(target: Any, refused: Any) -> None:
    """NaN in raw bytes is refused like NaN in JSON."""
    import json

    import numpy as np

    raw = np.array([1.0, np.nan]).tobytes()
    inputs = [
        {"name": "a", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 16}},
        *({"name": name, "shape": [2], "datatype": "FP64", "data": [1, 2]} for name in "bc"),
    ]
    head = json.dumps({"inputs": inputs}).encode()
    reply = target.client.post(
        "/v2/models/sum/infer", content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))}
    )
    assert refused(reply, 422, "not-finite")["fields"][0]["name"] == "a"


def test_a2_not_finite_output_is_a_model_fault(target: Any, refused: Any) -> None:
    """NaN in an answer is the model's fault: 500 with valid JSON; other requests are answered."""
    refused(target.predict("not-finite", [[13.0, 2, 3]]), 500, "non-finite-output")
    assert target.predict("not-finite", [[1, 2, 3]]).json() == {"predictions": [6.0]}
