"""A version with another signature is promoted for a stated reason, and rolled back, on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import roadworthy as rw
from tests.machine import Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually

WIDE, NARROW = [[1.0, 2.0, 3.0]], [[1.0, 2.0]]
REASON = "callers were moved"


def total(x: Any) -> Any:
    """Two versions that differ in their number of columns."""
    return np.asarray(x).sum(axis=1)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """The version of three columns serves, the one of two is registered."""
    made = Machine(tmp_path)
    for columns in (3, 2):
        rows = np.arange(8.0 * columns).reshape(8, columns)
        made.packages.append(rw.pack(total, name="sum", inputs=rows, out=tmp_path / f"dist{columns}", compile=False))
    with made.serving("sum"):
        yield made


def test_e8_an_accepted_signature_goes_back_with_the_traffic(machine: Machine) -> None:
    """After an aborted rollout, and after a rollback of a promoted one: callers of the current version get answers, and others
    get the error that their request does not fit. No caller ever gets a failure of the server."""
    context = machine.context()
    key = {"Authorization": f"Bearer {context['key']}"}
    with (
        rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client,
        httpx.Client(base_url=context["gateway_url"], headers=key, timeout=DEADLINE_S, verify=NO_TLS) as caller,
    ):

        def answers(rows: list[list[float]]) -> bool:
            reply = caller.post("/v1/models/sum:predict", json={"instances": rows})
            assert reply.status_code in (200, 422), reply.text
            assert reply.status_code == 422 or reply.json()["predictions"] == [sum(rows[0])]
            return reply.status_code == 200

        def serves(taken: list[list[float]], refused: list[list[float]]) -> None:
            eventually(lambda: answers(taken) and not answers(refused), f"{len(taken[0])} columns are taken")

        def start(**plan: Any) -> None:
            client.rollouts.start("sum", "sum:2", {"criteria": ["errors"], **plan}, accept_signature_change=REASON)

        with pytest.raises(rw.RoadworthyError) as refused:
            client.rollouts.start("sum", "sum:2", {"strategy": "blue-green", "criteria": ["errors"]})
        assert [each["code"] for each in refused.value.facts["problems"]] == ["signature-incompatible"]
        serves(WIDE, NARROW)

        start(strategy="blue-green", bake="10m")
        serves(NARROW, WIDE)
        client.rollouts.abort("sum")
        serves(WIDE, NARROW)
        eventually(lambda: client.rollouts.get("sum").outcome == "aborted", "it is back")
        serves(WIDE, NARROW)

        start(strategy="all-at-once")
        eventually(lambda: client.rollouts.get("sum").outcome == "promoted", "it has taken over")
        serves(NARROW, WIDE)
        machine.tell("rollback", "sum")
        serves(WIDE, NARROW)
        assert client.endpoint("sum").version == "sum:1"
