"""A worker with an endpoint for every kind of input, and the checks that apply to every refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from roadworthy.contract.policy import Policy
from roadworthy.foundation.slab import SlabReader
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from roadworthy.serving.metrics import read_totals

MIXED = (
    Field("age", DType.INT64),
    Field("name", DType.STRING),
    Field("flag", DType.BOOL),
    Field("score", DType.FLOAT32, nullable=True),
    Field("kind", DType.STRING, categories=("red", "blue"), categorical=True),
    Field("when", DType.TIMESTAMP),
    Field("meta", DType.JSON),
)
INTEGERS = (Field("small", DType.INT8), Field("large", DType.INT64), Field("positive", DType.UINT64))
TENSOR = (Field("x", DType.FLOAT64, (2, 2)),)
TOTAL = (Field("total", DType.FLOAT64),)


def _echo(fields: tuple[Field, ...]) -> Signature:
    return Signature(fields, fields, Container.RECORDS)


@pytest.fixture(scope="session")
def target(lasting_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """A worker with the endpoints sum, ignoring, small, few, mixed, integers, tensor and not-finite."""
    plan = make_plan()
    total = plan.package(1)
    plan.endpoint("sum", [total])
    plan.endpoint("ignoring", [total], Policy(extra="ignore"))
    plan.endpoint("small", [total], Policy(max_body_bytes=1_000))
    plan.endpoint("few", [total], Policy(max_rows=100))
    plan.endpoint("mixed", [plan.package(2, "echo", _echo(MIXED))])
    plan.endpoint("integers", [plan.package(3, "echo", _echo(INTEGERS))])
    plan.endpoint("tensor", [plan.package(4, "sum", Signature(TENSOR, TOTAL, Container.ARRAY))])
    plan.endpoint("not-finite", [plan.package(5, "not-finite")])
    return lasting_worker(plan).wait_ready()


Refused = Callable[[httpx.Response, int, str], dict[str, Any]]


@pytest.fixture
def refused(target: Any) -> Refused:
    """Checks a refusal, and that the worker is still healthy; returns the body."""

    def check(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert (reply.status_code, reply.json().get("code")) == (status, code), reply.text
        body: dict[str, Any] = reply.json()
        assert body["error"]
        assert "hint" in body
        assert body["request_id"] == reply.headers["x-request-id"]
        assert not re.search(r"Traceback|/work|/tmp|/usr|\.py|roadworthy\.|msgspec|numpy", reply.text)
        assert target.client.get("/livez").status_code == 200
        assert target.client.get("/readyz").status_code == 200
        assert target.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
        return body

    return check


@pytest.fixture
def memory_mb(target: Any) -> Callable[[], float]:
    """Resident memory of the worker in MiB."""
    import psutil

    return lambda: psutil.Process(target.process.pid).memory_info().rss / (1 << 20)


@pytest.fixture
def refusals(target: Any) -> Callable[[str], int]:
    """Number of requests that the worker has refused for an endpoint; "" for those that named no endpoint."""

    def count(endpoint: str) -> int:
        reader = SlabReader(target.folder / "run" / "slab")
        try:
            return sum(number for (name, _), number in read_totals(reader).refused.items() if name == endpoint)
        finally:
            reader.close()

    return count
