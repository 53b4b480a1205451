"""Watched signals at the control plane: measures are fixed at the start; alarms hold and are reported once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from roadworthy.contract.evidence import CANARY, OUTPUT_BINS, STABLE, BinCount, RolloutCounts
from roadworthy.contract.telemetry import READY, VersionState
from tests.control.fleet import FAST, ROLLOUTS, Fleet, begin, current, follow_until, three_versions
from tests.control_plane import ControlProcess

MIB = 1 << 20


class Answering(Fleet):
    """A fleet that also counts answers in bins: the stable's in the second, the canary's there or in the fourth."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(client)
        self.shifted = True
        self.bins: dict[tuple[int, str], list[int]] = {}

    def answer(self, stable: int, canary: int) -> None:
        """Count so many answers of each version and report them."""
        generation = self.entry().generation
        for variant, number, place in ((STABLE, stable, 1), (CANARY, canary, 3 if self.shifted else 1)):
            self.bins.setdefault((generation, variant), [0] * OUTPUT_BINS)[place] += number
        self.follow()

    def counts(self) -> tuple[RolloutCounts, ...]:
        """Counts with the bins, of its only rollout."""
        bins = tuple(
            BinCount(generation, 0, variant, tuple(cells)) for (generation, variant), cells in self.bins.items() if sum(cells)
        )
        return tuple(replace(each, bins=bins) for each in super().counts())


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """What the control plane starts with."""
    return three_lines


@pytest.fixture
def fleet(control: ControlProcess) -> Any:
    """The data plane."""
    with control.client(control.gateway_key) as client:
        yield Answering(client)


@pytest.fixture
def digests(admin: httpx.Client, fleet: Answering, make_package: Callable[..., Path]) -> list[str]:
    """Of three versions, the first of which serves."""
    return three_versions(admin, fleet, make_package)


def alerts(admin: httpx.Client) -> list[str]:
    """Codes of the published alerts."""
    events = admin.get("/api/v1/events").json()["items"]
    return [event["detail"]["code"] for event in events if event["kind"] == "rollout-alert"]


def test_drift_holds_and_clears(admin: httpx.Client, fleet: Answering, digests: list[str]) -> None:
    """Nothing is rolled back. Missing evidence holds too, and says so; the alarm is published once, and the rollout goes on
    when the alarm has cleared."""
    assert digests
    begin(admin, plan={**FAST, "steps": [50, 100], "watch": ["drift"]})
    held = follow_until(fleet, admin, lambda shown: bool(shown["code"] == "no-evidence"), requests=100)
    assert held["text"] == "drift: no answer in y[0] of the new version yet"
    assert held["watched"][0]["outcome"] == "no-evidence"
    assert [(each.name, each.place) for each in fleet.entry().rollout.outputs] == [("y", 0), ("y", 1), ("y", 2)]
    fleet.answer(200, 200)
    held = follow_until(fleet, admin, lambda shown: bool(shown["code"] == "alarm"))
    (said,) = held["watched"]
    assert (said["outcome"], said["samples"], said["stable_samples"]) == ("alarm", 200, 200)
    assert held["text"].startswith("drift: y[0]: 100.0% of answers differ, 10.0% are tolerated; E ")
    assert held["text"].endswith("(200 samples)")
    for _ in range(5):
        fleet.follow()
    assert (current(admin)["phase"], current(admin)["share"]) == ("stepping", 50)
    fleet.shifted = False
    fleet.answer(3_000, 3_000)
    ended = follow_until(fleet, admin, lambda shown: shown["outcome"] is not None, requests=100)
    assert ended["outcome"] == "promoted"
    assert ended["watched"][0]["outcome"] == "quiet"
    assert alerts(admin) == ["alarm"]


def test_an_alert_is_told_and_holds_nothing(admin: httpx.Client, fleet: Answering, digests: list[str]) -> None:
    """Once, whatever the number of looks."""
    assert digests
    begin(admin, plan={**FAST, "steps": [50, 100], "watch": {"drift": "alert"}, "hold": 1})
    follow_until(fleet, admin, lambda shown: bool(shown["share"] == 50))
    fleet.serve(100)
    fleet.answer(200, 200)
    ended = follow_until(fleet, admin, lambda shown: shown["outcome"] is not None, requests=100)
    assert ended["outcome"] == "promoted"
    assert ended["watched"][0]["outcome"] == "alarm"
    assert alerts(admin) == ["alarm-drift"]


def test_memory_of_runner_processes_is_compared(admin: httpx.Client, fleet: Answering, digests: list[str]) -> None:
    """From telemetry; once the memory is no longer too much, the rollout goes on."""

    def holds(digest: str, size: int) -> VersionState:
        return VersionState(digest, READY, "native", placement="process: x", processes=2, memory_bytes=size)

    fleet.states = {digests[0]: holds(digests[0], 200 * MIB), digests[1]: holds(digests[1], 500 * MIB)}
    fleet.follow()
    begin(admin, plan={**FAST, "watch": ["resources"]})
    held = follow_until(fleet, admin, lambda shown: bool(shown["code"] == "alarm"), requests=300)
    assert held["text"].startswith("resources: a process of the new version holds 500 MiB on ")
    assert "/gw-1, the stable's 200 MiB" in held["text"]
    assert held["watched"][0]["samples"] == 2
    fleet.states[digests[1]] = holds(digests[1], 260 * MIB)
    ended = follow_until(fleet, admin, lambda shown: shown["outcome"] is not None, requests=300)
    assert ended["outcome"] == "promoted"


def test_what_nobody_can_measure_is_refused_at_once(admin: httpx.Client, fleet: Answering, digests: list[str]) -> None:
    """Each with its reason and what would help; nothing has begun."""
    fleet.states = {digests[0]: VersionState(digests[0], READY, "native", placement="inline: fast and native")}
    fleet.follow()
    plan = {**FAST, "criteria": ["errors", "guard_hits"], "watch": ["confidence", "resources"]}
    reply = admin.post(ROLLOUTS, json={"version": "line:2", "plan": plan})
    assert (reply.status_code, reply.json()["code"]) == (409, "rollout-refused")
    problems = reply.json()["problems"]
    assert {each["code"] for each in problems} == {"signal-not-measurable"}
    assert [each["text"].partition(": ")[0] for each in problems] == [
        "guard_hits cannot be measured",
        "confidence cannot be measured",
        "resources cannot be measured",
    ]
    assert "no output probabilities" in problems[1]["text"]
    assert "placement.where=process" in problems[2]["text"]
    assert admin.get(f"{ROLLOUTS}/current").status_code == 404


def test_a_signal_that_a_worker_does_not_count(admin: httpx.Client, fleet: Answering, digests: list[str]) -> None:
    """A gateway of the previous release, which does not say what it counts, counts what it always did. A worker that says it does
    not count one of the signals prevents the rollout; one that joins later holds it, and people are alerted."""
    assert digests
    plan = {**FAST, "criteria": {"errors": {}, "invalid_outputs": {"evidence": 0}}}
    fleet.signals = ("errors",)
    fleet.follow()
    reply = admin.post(ROLLOUTS, json={"version": "line:2", "plan": plan})
    assert (reply.status_code, reply.json()["code"]) == (409, "rollout-refused")
    (problem,) = reply.json()["problems"]
    assert problem["code"] == "signal-not-measurable"
    assert problem["text"].startswith("invalid_outputs cannot be measured: 1 of 1 workers do not count it")
    fleet.signals = None
    fleet.follow()
    begin(admin, plan=plan)
    follow_until(fleet, admin, lambda shown: shown["phase"] == "stepping")
    fleet.signals = ("errors",)
    held = follow_until(fleet, admin, lambda shown: shown["code"] == "signal-not-measurable", requests=10)
    assert "invalid_outputs: 1 of 1 workers" in held["text"]
    assert alerts(admin) == ["signal-not-measurable"]
    fleet.signals = ("errors", "invalid_outputs")
    ended = follow_until(fleet, admin, lambda shown: shown["outcome"] is not None, requests=300)
    assert ended["outcome"] == "promoted"
