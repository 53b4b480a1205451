"""Signals of plug-ins that fail in the control plane: that rollout holds; people's commands and everything else go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from roadworthy.contract.evidence import CANARY, FAILED, OUTPUT_BINS, STABLE, BinCount, RolloutCounts, VariantCount
from tests.control.ahead_signals import BROKEN, MOODY
from tests.control.fleet import FAST, LINE, Fleet, begin, follow_until, tell, three_versions
from tests.control.test_watched_rollouts import alerts
from tests.control_plane import ControlProcess

SIGNALS = ("disagreement", "errors", "invalid_outputs", "moody", "sign", "slow")


class Signed(Fleet):
    """A fleet that counts the signal `sign`: the stable's answers in its bins, the canary's in bin `place`."""

    place: int | None = None
    failures: int = 0

    def counts(self) -> tuple[RolloutCounts, ...]:
        """Counts with the bins and the failures of `moody`, of its only rollout."""
        if self.failures:
            failed = VariantCount(self.entry().generation, f"{FAILED}moody", STABLE, self.failures, self.failures)
            return tuple(replace(each, variants=(*each.variants, failed)) for each in super().counts())
        if self.place is None:
            return super().counts()
        generation, place = self.entry().generation, self.place
        cells = ((STABLE, (100, 100, 100)), (CANARY, (0,) * place + (300,)))
        bins = tuple(
            BinCount(generation, 0, variant, (*found, *[0] * (OUTPUT_BINS - len(found))), "sign") for variant, found in cells
        )
        return tuple(replace(each, bins=bins) for each in super().counts())


@pytest.fixture
def control(tmp_path: Path, ahead_s: Path, three_lines: Path) -> Iterator[ControlProcess]:
    """A control plane with the two signals."""
    script = Path(__file__).with_name("ahead_signals.py")
    process = ControlProcess(tmp_path / "control", script, ahead_s, seed=three_lines)
    yield process
    process.kill()


@pytest.fixture
def fleet(control: ControlProcess, admin: httpx.Client, make_package: Callable[..., Path]) -> Iterator[Signed]:
    """The data plane; the first of three versions serves."""
    with control.client(control.gateway_key) as client:
        fleet = Signed(client)
        fleet.signals = SIGNALS
        three_versions(admin, fleet, make_package)
        yield fleet


def started(admin: httpx.Client, fleet: Signed, **plan: Any) -> None:
    """Start a rollout that stays in its first step, at 50 %."""
    begin(admin, plan={**FAST, "steps": [50, 100], "hold": 3_600, **plan})
    follow_until(fleet, admin, lambda shown: bool(shown["share"] == 50))


def test_a_bin_that_the_control_plane_does_not_know_is_named_by_its_number(admin: httpx.Client, fleet: Signed) -> None:
    """A gateway with a newer plug-in counts in it: the frames are taken, the alarm is raised, and an abort works."""
    started(admin, fleet, watch=["sign"])
    fleet.place = 5
    held = follow_until(fleet, admin, lambda shown: shown["code"] == "alarm", requests=100)
    assert held["watched"][0]["text"].endswith("; most of it bin 5: +100.0%")
    reply = tell(admin, "abort")
    assert (reply.status_code, reply.json()["done"]) == (200, True)
    follow_until(fleet, admin, lambda shown: shown["outcome"] == "aborted")


def test_a_signal_that_raises_holds_and_another_one_rolls_back(admin: httpx.Client, fleet: Signed, ahead_s: Path) -> None:
    """People are alerted once; a version that is found worse by another criterion goes back meanwhile."""
    started(admin, fleet, criteria={"errors": {}, "moody": {"evidence": 0}})
    (ahead_s.parent / MOODY).touch()
    held = follow_until(fleet, admin, lambda shown: shown["code"] == "signal-not-measurable", requests=100)
    assert held["text"] == "moody: its plug-in raised RuntimeError: in a bad mood"
    assert alerts(admin) == ["signal-not-measurable"]
    fleet.serve(100, canary_bad=50)
    ended = follow_until(fleet, admin, lambda shown: shown["outcome"] is not None)
    assert (ended["outcome"], ended["code"], ended["share"]) == ("rolled-back", "worse", 0)


@pytest.mark.parametrize("command", ["abort", "rollback", "undeploy"])
def test_a_rollout_that_cannot_be_looked_at_holds_alone(admin: httpx.Client, fleet: Signed, ahead_s: Path, command: str) -> None:
    """Frames are taken and another endpoint is deployed; it says why, people are alerted once, and a person can end it."""
    started(admin, fleet)
    (ahead_s.parent / BROKEN).touch()
    shown = follow_until(fleet, admin, lambda shown: shown["code"] == "look-failed")
    assert shown["text"] == "looking at the rollout raised RuntimeError: a fault of ours"
    assert (shown["phase"], shown["share"]) == ("stepping", 50)
    for _ in range(3):
        fleet.follow()
    assert alerts(admin) == ["look-failed"]
    reply = admin.put("/api/v1/endpoints/other", json={"version": "line:3"})
    assert reply.status_code in (200, 202), reply.text
    if command == "undeploy":
        assert admin.delete(LINE).status_code == 204
        return
    reply = tell(admin, "abort") if command == "abort" else admin.post(f"{LINE}:rollback")
    assert reply.status_code == 200, reply.text
    ended = follow_until(fleet, admin, lambda shown: shown["outcome"] is not None)
    assert (ended["outcome"], ended["share"]) == ("aborted", 0)


def test_a_rollout_goes_on_when_it_can_be_looked_at_again(admin: httpx.Client, fleet: Signed, ahead_s: Path) -> None:
    """Nothing is left of the failure."""
    started(admin, fleet, hold=0)
    (ahead_s.parent / BROKEN).touch()
    follow_until(fleet, admin, lambda shown: shown["code"] == "look-failed")
    (ahead_s.parent / BROKEN).unlink()
    ended = follow_until(fleet, admin, lambda shown: shown["outcome"] is not None, requests=100)
    assert ended["outcome"] == "promoted"


def test_a_signal_that_failed_on_a_worker_holds_its_rollout_to_the_end(admin: httpx.Client, fleet: Signed) -> None:
    """Also when a replacement of the worker counts it again; the next rollout by it begins."""
    plan = {"criteria": {"errors": {}, "moody": {"evidence": 0}}}
    started(admin, fleet, **plan)
    fleet.serve(100)
    fleet.failures = 1
    fleet.follow()
    fleet.failures = 0
    held = follow_until(fleet, admin, lambda shown: shown["code"] == "signal-not-measurable", requests=100)
    assert held["text"].startswith("moody: it raised an error on a worker")
    for _ in range(3):
        fleet.serve(100)
    assert admin.get(f"{LINE}/rollouts/current").json()["code"] == "signal-not-measurable"
    assert tell(admin, "abort").status_code == 200
    follow_until(fleet, admin, lambda shown: shown["outcome"] == "aborted")
    started(admin, fleet, **plan)
