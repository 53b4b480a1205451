"""C6, C7, C9, B2, B3: requests that share a run do not share its faults; busy models and full endpoints delay no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from roadworthy.contract.policy import Policy
from tests.gates import closed
from tests.gateway.planted_worker import GATED
from tests.waiting import DEADLINE_S, NO_TLS, eventually


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """A worker with models that fail, miscount or wait at a gate."""
    plan = make_plan()
    plan.endpoint("poison", [plan.package(1, kind="poison")])
    plan.endpoint("miscount", [plan.package(2, kind="wrong-count")])
    patient = Policy(max_in_flight=4, timeout_ms=int(DEADLINE_S * 1_000))
    plan.endpoint("gated", [plan.package(3, kind="noting")], patient)
    plan.endpoint("sum", [plan.package(4)])
    return start_worker(plan).wait_ready()


def together(worker: Any, endpoint: str, rows: list[list[float]]) -> list[httpx.Response]:
    """Send one request per row, all at the same moment."""

    async def send() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{worker.port}", limits=limits, timeout=DEADLINE_S, verify=NO_TLS
        ) as client:
            calls = [client.post(f"/v1/models/{endpoint}:predict", json={"instances": [row]}) for row in rows]
            return list(await asyncio.gather(*calls))

    return asyncio.run(send())


def test_c7_answers_are_never_shifted(worker: Any) -> None:
    """If a model drops one answer of a run, all requests in the run get 500, and none gets another's answer."""
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


def test_b2_b3_c6_a_busy_model_is_no_reason_to_wait(worker: Any) -> None:
    """504 past the deadline, 503 at once past the bound; other endpoints are not affected; then it answers again."""
    with ThreadPoolExecutor(4) as pool, closed(worker.folder / "gate"):
        busy = pool.submit(worker.predict, "gated", [[1, GATED, 0]])
        eventually((worker.folder / "ran").exists, "the model has begun")
        hasty = {"request-timeout-ms": "200"}
        for late in [worker.predict("gated", [[2, 0, 0]], headers=hasty) for _ in range(4)]:
            assert (late.status_code, late.json()["code"]) == (504, "deadline-exceeded")
        waiting = {number: pool.submit(worker.predict, "gated", [[number, 0, 0]]) for number in (3, 4, 5)}

        def refusal() -> Any:
            for number, future in waiting.items():
                if future.done():  # refused because the checking request took its place
                    waiting[number] = pool.submit(worker.predict, "gated", [[number, 0, 0]])
            reply = worker.predict("gated", [[6, 0, 0]], headers=hasty)
            return reply if reply.status_code == 503 else None

        refused = eventually(refusal, "all places are taken")
        assert refused.json()["code"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        assert worker.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
        assert not any(future.done() for future in (busy, *waiting.values()))
    assert [future.result().status_code for future in (busy, *waiting.values())] == [200] * 4
    assert worker.predict("gated", [[7, 0, 2]]).json() == {"predictions": [9.0]}
    assert not {"2", "6"} & set((worker.folder / "ran").read_text().split())
