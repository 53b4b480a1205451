"""up → deploy → automatic rollback of a broken canary → promotion of a good one, under traffic, on real processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import roadworthy as rw
from tests.machine import Machine
from tests.traffic import Traffic
from tests.waiting import eventually

ROWS = np.arange(24.0).reshape(8, 3)
BEYOND = 1_000.0
"""Golden examples stay below; the broken version fails on what lies above."""


def good(x: Any) -> Any:
    """The stable."""
    return x.sum(axis=1)


def broken(x: Any) -> Any:
    """Proves well and fails every real request."""
    if x.max() > BEYOND:
        raise ValueError("it has never seen that")
    return x.sum(axis=1)


def better(x: Any) -> Any:
    """The same in another way."""
    return x[:, 0] + x[:, 1] + x[:, 2]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Three versions are registered and the first one serves."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    for number, model in enumerate((good, broken, better), start=1):
        packed = rw.pack(model, name="sum", inputs=ROWS, out=made.folder / f"dist{number}")
        made.packages.append(packed)
    with made.serving("sum"):
        yield made


class Counted(Traffic):
    """Calls the endpoint without pause; counts replies by version and status."""

    def __init__(self, client: rw.Client) -> None:
        super().__init__()
        self._client = client
        self.seen: Counter[tuple[str, str]] = Counter()

    def call(self) -> None:
        """Ask once."""
        try:
            answer = self._client.predict("sum", [[2_000.0, 1.0, 2.0]])
        except rw.RoadworthyError as error:
            self.seen["failed", error.code] += 1
        else:
            assert answer.predictions == [2_003.0]
            self.seen[str(answer.version), "ok"] += 1


def test_e1_a_broken_canary_goes_back_by_itself(machine: Machine) -> None:
    """After a few failed requests; no request to the stable version fails."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:
        with Counted(client) as traffic:
            begun = client.rollouts.start("sum", "sum:2", {"strategy": "canary", "steps": [25, 100], "criteria": ["errors"]})
            eventually(lambda: client.rollouts.get("sum").phase in ("returning", "finished"), "it goes back")
            eventually(lambda: client.rollouts.get("sum").outcome == "rolled-back", "it is back")
        ended = client.rollouts.get("sum", begun.id)
        failures = sum(count for (who, _), count in traffic.seen.items() if who == "failed")
        assert ended.verdict is not None
        finding = ended.verdict.findings[0]
        assert (ended.code, finding.stable_bad) == ("worse", 0)
        assert finding.bad >= 3
        assert failures >= finding.bad
        with Counted(client) as after:
            eventually(lambda: sum(after.seen.values()) >= 100, "requests were answered")
        assert {who for who, _ in after.seen} == {next(who for who, how in traffic.seen if how == "ok")}


def test_a_good_version_is_promoted_without_a_failed_request(machine: Machine) -> None:
    """Step by step, by evidence; then it is the endpoint's version, and the other one its previous version."""
    context = machine.context()
    plan = {"strategy": "canary", "steps": [25, 100], "hold": 1, "evidence": 20, "criteria": ["errors", "slow"]}
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:

        def begins() -> bool:
            try:
                client.rollouts.start("sum", "sum:3", plan)
            except rw.Conflict as error:
                assert "is not measured yet" in str(error)  # noqa: PT017  any other would be the failure
                return False
            return True

        with Counted(client) as traffic:
            eventually(begins, "it is known how slow the stable is, and the rollout begins")
            eventually(lambda: client.rollouts.get("sum").outcome is not None, "it is over")
        ended = client.rollouts.get("sum")
        assert ended.outcome == "promoted", ended.text
        assert {how for _, how in traffic.seen} == {"ok"}
        endpoint = client.endpoint("sum")
        assert (endpoint.version, endpoint.previous) == ("sum:3", "sum:1")
