"""Alarms hold a version with different, less confident answers, without a rollback; an equal one passes. Real processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

import roadworthy as rw
from roadworthy.contract.api.rollouts import Rollout
from tests.machine import Machine
from tests.traffic import Traffic
from tests.waiting import eventually

ROWS = np.linspace(0.0, 100.0, 64).reshape(64, 1)
PLAN = {
    "strategy": "canary",
    "steps": [40, 100],
    "hold": 1,
    "evidence": 300,  # more than an alarm needs, so that no step is over before it is seen
    "criteria": ["errors"],
    "watch": ["drift", "confidence", "resources"],
}


def classified(late: Any, sure: float) -> dict[str, Any]:
    """A classifier's answers."""
    second = np.where(late, sure, 1.0 - sure)
    return {
        "label": np.where(late, "late", "early").astype(object),
        "probabilities": np.stack([1.0 - second, second], axis=1),
    }


def stable(x: Any) -> Any:
    """Half are late."""
    return classified(x[:, 0] > 50.0, 0.95)


def doubtful(x: Any) -> Any:
    """Most are late, with low confidence."""
    return classified(x[:, 0] > 20.0, 0.6)


def equal(x: Any) -> Any:
    """The same in another way."""
    return classified(-x[:, 0] < -50.0, 0.95)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Three versions are registered and the first one serves."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    for number, model in enumerate((stable, doubtful, equal), start=1):
        made.packages.append(rw.pack(model, name="delay", inputs=ROWS, out=made.folder / f"dist{number}"))
    with made.serving("delay"):
        yield made


class Flights(Traffic):
    """Requests one flight after the other, evenly from 0 to 100, without pause; none may fail."""

    def __init__(self, client: rw.Client) -> None:
        super().__init__()
        self._client = client
        self._numbers = count()
        self.failed: list[str] = []

    def call(self) -> None:
        """Ask for the next flight."""
        try:
            self._client.predict("delay", [[float(next(self._numbers) * 37 % 101)]])
        except rw.RoadworthyError as error:
            self.failed.append(error.code)


def watched(shown: Rollout) -> dict[str, str]:
    """What each watched signal says."""
    return {each.signal: each.outcome for each in shown.watched}


def test_a_different_version_is_held_and_an_equal_one_passes(machine: Machine) -> None:
    """The alarm names the difference and its size, once; an operator aborts, and the next rollout is promoted."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:
        with Flights(client) as traffic:
            client.rollouts.start("delay", "delay:2", PLAN)
            both = {"drift": "alarm", "confidence": "alarm", "resources": "quiet"}
            eventually(lambda: watched(client.rollouts.get("delay")) == both, "both are alarms")
            eventually(lambda: client.rollouts.get("delay").code == "alarm", "it is held")
            held = client.rollouts.get("delay")
            assert (held.phase, held.share, held.outcome) == ("stepping", 40, None)
            assert held.verdict.outcome != "FAIL"
            drift, confidence, resources = held.watched
            assert drift.text.startswith("label: ")
            assert min(drift.samples, drift.stable_samples, confidence.samples) > 50
            assert confidence.text.startswith("mean largest probability 0.6, the stable's 0.95; the difference is -")
            assert resources.samples >= 1
            assert "WATCHED" in machine.run("rollout", "show", "delay").stdout
            client.rollouts.abort("delay")
            eventually(lambda: client.rollouts.get("delay").outcome == "aborted", "it is over")
            client.rollouts.start("delay", "delay:3", PLAN)
            eventually(lambda: client.rollouts.get("delay").outcome is not None, "it is over")
        ended = client.rollouts.get("delay")
        assert ended.outcome == "promoted", ended.text
        assert set(watched(ended).values()) == {"quiet"}
        assert traffic.failed == []
        assert client.endpoint("delay").version == "delay:3"
