"""A6, A7, A8: integers at and beyond their limits, impossible shapes, data that does not match its shape."""

from __future__ import annotations

from typing import Any

import pytest

LIMITS = {"small": 127, "large": 2**63 - 1, "positive": 2**64 - 1}


def test_a6_the_largest_integers_are_exact(target: Any) -> None:
    """Values at the limits come back digit for digit."""
    low = {"small": -128, "large": -(2**63), "positive": 0}
    assert target.predict("integers", [LIMITS, low]).json() == {"predictions": [LIMITS, low]}


@pytest.mark.parametrize(
    ("column", "value"),
    [("small", 128), ("small", -129), ("large", 2**63), ("large", -(2**63) - 1), ("large", 2**64), ("positive", 2**64),
     ("positive", -1), ("positive", 10**400)],
)  # fmt: skip
def test_a6_beyond_the_limit_is_refused(target: Any, refused: Any, column: str, value: int) -> None:
    """One more is refused, and the error names the column; nothing is rounded."""
    body = refused(target.predict("integers", [LIMITS | {column: value}]), 422, "out-of-range")
    assert [fault["name"] for fault in body["fields"]] == [column]


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**64])
def test_a6_integers_that_a_float_cannot_hold(target: Any, refused: Any, value: int) -> None:
    """An integer for a float column is refused if a float cannot represent it exactly."""
    refused(target.predict("sum", [[value, 0, 0]]), 422, "out-of-range")


def _infer(target: Any, shape: list[int], data: list[float]) -> Any:
    inputs = [
        {"name": "a", "shape": shape, "datatype": "FP64", "data": data},
        *({"name": name, "shape": [1], "datatype": "FP64", "data": [1]} for name in "bc"),
    ]
    return target.client.post("/v2/models/sum/infer", json={"inputs": inputs})


@pytest.mark.parametrize("shape", [[16, 2**60 + 2], [2**63], [-1], [-1, -1], [1, -1], [2**200], []])
def test_a7_impossible_shapes(target: Any, refused: Any, memory_mb: Any, shape: list[int]) -> None:
    """Negative dimensions and products that overflow are refused before anything is allocated."""
    before = memory_mb()
    refused(_infer(target, shape, [1.0]), 400, "invalid-shape")
    assert memory_mb() - before < 16


def test_a7_huge_but_countable_shape(target: Any, refused: Any, memory_mb: Any) -> None:
    """A shape with more rows than the policy allows is refused for its number of rows."""
    before = memory_mb()
    refused(_infer(target, [2**40], [1.0]), 422, "wrong-shape")
    assert memory_mb() - before < 16


@pytest.mark.parametrize("data", [[], [1.0, 2.0], [[1.0, 2.0]]])
def test_a8_data_count_is_not_the_shape(target: Any, refused: Any, data: list[Any]) -> None:
    """Too few or too many values, flat or nested, are refused."""
    refused(_infer(target, [1], data), 400, "wrong-data-count")


def test_a8_binary_sizes_do_not_add_up(target: Any, refused: Any) -> None:
    """Raw bytes whose length differs from the head's are refused."""
    import json

    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}} for name in "abc"]
    head = json.dumps({"inputs": inputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    for raw in (bytes(23), bytes(25), b""):
        reply = target.client.post("/v2/models/sum/infer", content=head + raw, headers=headers)
        refused(reply, 400, "binary-size-mismatch")
    inputs[0]["parameters"]["binary_data_size"], inputs[1]["parameters"]["binary_data_size"] = 7, 9  # type: ignore[index]
    head = json.dumps({"inputs": inputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    reply = target.client.post("/v2/models/sum/infer", content=head + bytes(24), headers=headers)
    refused(reply, 400, "wrong-data-count")
