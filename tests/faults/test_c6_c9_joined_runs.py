"""C6, C7, C9, B2, B3: requests that share a run do not share its faults; slow models and full endpoints answer in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from roadworthy.contract.policy import Policy


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """A worker with models that fail, miscount or dawdle."""
    plan = make_plan()
    plan.endpoint("poison", [plan.package(1, kind="poison")])
    plan.endpoint("miscount", [plan.package(2, kind="wrong-count")])
    plan.endpoint("slow", [plan.package(3, kind="slow")], Policy(timeout_ms=200, max_in_flight=4))
    plan.endpoint("sum", [plan.package(4)])
    return start_worker(plan).wait_ready()


def together(worker: Any, endpoint: str, rows: list[list[float]]) -> list[httpx.Response]:
    """One request a row, all at the same moment."""

    async def send() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker.port}", limits=limits, timeout=20) as client:
            calls = [client.post(f"/v1/models/{endpoint}:predict", json={"instances": [row]}) for row in rows]
            return list(await asyncio.gather(*calls))

    return asyncio.run(send())


def test_c7_answers_are_never_shifted(worker: Any) -> None:
    """A model that drops one answer of a run: whoever shared the run gets 500, nobody another's answer."""
    rows = [[13.0 if number % 10 == 5 else number, number, 0.0] for number in range(60)]
    replies = together(worker, "miscount", rows)
    for (first, second, _), reply in zip(rows, replies, strict=True):
        if reply.status_code == 200:
            assert reply.json() == {"predictions": [first + second]}
            assert first != 13.0
        else:
            assert (reply.status_code, reply.json()["code"]) == (500, "wrong-output-count")


def test_c9_one_poisonous_row_fails_one_caller(worker: Any) -> None:
    """Only the request with the row that the model cannot answer fails."""
    rows = [[13.0 if number % 10 == 5 else number, number, 0.0] for number in range(60)]
    for (first, second, _), reply in zip(rows, together(worker, "poison", rows), strict=True):
        if first == 13.0:
            assert (reply.status_code, reply.json()["code"]) == (500, "model-failed")
        else:
            assert reply.json() == {"predictions": [first + second]}


def test_b2_b3_c6_a_slow_model_answers_in_time(worker: Any) -> None:
    """Past the deadline 504, past the bound 503 at once; other endpoints do not notice; then it answers again."""
    begun = time.monotonic()
    replies = together(worker, "slow", [[99.0, 0, 0]] * 8)
    took = time.monotonic() - begun
    codes = sorted((reply.status_code, reply.json()["code"]) for reply in replies)
    assert codes == [(503, "overloaded")] * 4 + [(504, "deadline-exceeded")] * 4
    assert took < 0.9
    assert all(reply.headers["retry-after"] == "1" for reply in replies)
    begun = time.monotonic()
    assert worker.predict("sum", [[1, 2, 3]]).status_code == 200
    assert time.monotonic() - begun < 0.3
    until = time.monotonic() + 10
    while worker.predict("slow", [[1, 2, 3]]).status_code != 200:
        assert time.monotonic() < until
