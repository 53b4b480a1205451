"""E9, E14, D14: rollouts with concurrent changes, a killed controller, and a jumping clock."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.control.fleet import FAST, LINE, ROLLOUTS, Fleet, begin, current, follow_until, tell, three_versions
from tests.control_plane import ControlProcess

JUMPING = Path(__file__).with_name("jumping_clock.py")
STANDING = ("id", "phase", "step", "share", "generation", "paused", "verdict", "attempts", "slow_ms")
"""Fields that a look without news does not change."""


@pytest.fixture
def control(tmp_path: Path, three_lines: Path) -> Iterator[ControlProcess]:
    """A control plane for one test."""
    process = ControlProcess(tmp_path / "control", seed=three_lines)
    yield process
    process.kill()


def test_e9_of_many_rollouts_at_once_one_begins(
    control: ControlProcess,
    make_package: Callable[..., Path],
) -> None:
    """The others get 409 with the running rollout and its step; of deployments that name a generation, one succeeds."""
    with control.client(control.admin_key) as admin, control.client(control.gateway_key) as link:
        fleet = Fleet(link)
        three_versions(admin, fleet, make_package)

        def start(number: int) -> httpx.Response:
            return admin.post(ROLLOUTS, json={"version": f"line:{2 + number % 2}", "plan": FAST})

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(start, range(8)))
        assert sorted(reply.status_code for reply in replies) == [201, *[409] * 7]
        begun = next(reply.json() for reply in replies if reply.status_code == 201)
        for reply in replies:
            if reply.status_code == 409:
                assert (reply.json()["code"], reply.json()["rollout"]) == ("rollout-running", begun["id"])
        follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
        with ThreadPoolExecutor(8) as pool:
            done = [reply.json()["done"] for reply in pool.map(lambda _: tell(admin, "abort"), range(8))]
        assert done.count(True) == 1
        follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
        generation = admin.get(LINE).json()["generation"]

        def deploy(number: int) -> int:
            body = {"version": f"line:{2 + number % 2}", "if_generation": generation}
            return admin.put(LINE, json=body).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = sorted(pool.map(deploy, range(8)))
        assert statuses[1:] == [409] * 7
        assert statuses[0] in (200, 202)


class Life:
    """A control plane that is killed and restarted, and the clients and data plane that stay."""

    def __init__(self, control: ControlProcess) -> None:
        self.control = control
        self.admin = control.client(control.admin_key)
        self.fleet = Fleet(control.client(control.gateway_key))

    def kill(self) -> None:
        """kill -9 and restart."""
        self.control.kill()
        self.control.start()
        self.close()
        self.admin = self.control.client(self.control.admin_key)
        self.fleet.gateway.client = self.control.client(self.control.gateway_key)

    def close(self) -> None:
        """Close the connections."""
        self.admin.close()
        self.fleet.gateway.client.close()

    def kill_within_a_frame(self, after_s: float) -> None:
        """Kill it during the transaction that takes a frame with counts, or during the look that follows."""

        def send() -> None:
            with contextlib.suppress(httpx.TransportError):
                self.fleet.serve(100)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(after_s)
        self.control.kill()
        thread.join()
        self.control.start()
        self.close()
        self.admin = self.control.client(self.control.admin_key)
        self.fleet.gateway.client = self.control.client(self.control.gateway_key)


def test_e14_a_controller_that_is_killed_resumes_with_the_same_step_and_the_same_evidence(
    control: ControlProcess,
    make_package: Callable[..., Path],
) -> None:
    """Killed in every phase and step: the state is preserved, and no step is done twice."""
    life = Life(control)
    three_versions(life.admin, life.fleet, make_package)
    begin(life.admin, plan={**FAST, "steps": [{"share": 5, "approve": True}, 50, 100]})
    stops: list[Callable[[dict[str, Any]], bool]] = [
        lambda rollout: rollout["code"] == "waits-for-approval",
        lambda rollout: rollout["share"] == 5,
        lambda rollout: rollout["share"] == 50,
        lambda rollout: rollout["share"] == 100,
    ]
    for stop in stops:
        follow_until(life.fleet, life.admin, stop)
        tell(life.admin, "pause")
        if current(life.admin)["share"] < 100:
            life.fleet.serve(2_000, stable_bad=20, canary_bad=0)
        tell(life.admin, "pause")  # replies after a look at what was served
        before = current(life.admin)
        life.kill()
        after = current(life.admin)
        assert {name: after[name] for name in STANDING} == {name: before[name] for name in STANDING}
        if before["phase"] == "preparing":
            assert tell(life.admin, "approve").json()["done"] is True
        tell(life.admin, "resume")
    ended = follow_until(life.fleet, life.admin, lambda rollout: rollout["phase"] == "finished", requests=100)
    assert ended["outcome"] == "promoted"
    assert shares(life.admin) == [5, 50, 100]
    assert life.admin.get(LINE).json()["version"] == "line:2"
    life.close()


def test_e14_killed_at_any_moment_of_a_look(
    control: ControlProcess,
    make_package: Callable[..., Path],
) -> None:
    """Counts that are sent again count once, each step is entered once, and a rollback in progress completes."""
    life = Life(control)
    three_versions(life.admin, life.fleet, make_package)
    begin(life.admin, plan={**FAST, "evidence": 200})
    chance = random.Random(14)
    follow_until(life.fleet, life.admin, lambda rollout: rollout["share"] == 5)
    life.fleet.serve(100)
    for _ in range(5):
        life.kill_within_a_frame(chance.uniform(0.0, 0.03))
        cells = life.fleet.served.get(current(life.admin)["id"], {})  # empty if killed before the first frame
        served = sum(cell[0] for (_, variant), cell in cells.items() if variant == "canary")
        follow_until(life.fleet, life.admin, lambda each, served=served: each["verdict"]["findings"][0]["samples"] == served)
    life.fleet.bad.add(life.fleet.entry().rollout.canary)
    life.kill_within_a_frame(0.005)
    ended = follow_until(life.fleet, life.admin, lambda rollout: rollout["phase"] == "finished", requests=100)
    assert ended["outcome"] == "rolled-back"
    assert shares(life.admin) == [5, 0]
    verbs = [entry["verb"] for entry in life.admin.get("/api/v1/audit").json()["items"]]
    assert verbs.count("rollout-rolled-back") == 1
    life.close()


def shares(admin: httpx.Client) -> list[float]:
    """The shares of a rollout in order, from the events; each generation once."""
    events = admin.get("/api/v1/events").json()["items"]
    splits = [event["detail"] for event in events if event["kind"] == "rollout-split"]
    assert len({split["generation"] for split in splits}) == len(splits)
    return [split["share"] for split in splits]


def test_d14_a_clock_that_jumps_moves_no_step(
    make_package: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """An hour forwards and two backwards during a canary end neither its step nor its deadline."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    control = ControlProcess(tmp_path / "control", JUMPING, str(offset))
    try:
        with control.client(control.admin_key) as admin, control.client(control.gateway_key) as link:
            fleet = Fleet(link)
            three_versions(admin, fleet, make_package)
            begin(admin, plan={**FAST, "hold": "20m", "deadline": "61m"})
            follow_until(fleet, admin, lambda rollout: rollout["share"] == 5)
            for wrong in ("3600", "-3600"):
                offset.write_text(wrong)
                fleet.serve(1_000)
                seen = follow_until(fleet, admin, lambda rollout: rollout["code"] == "minimum-time")
                assert (seen["phase"], seen["step"], seen["share"]) == ("stepping", 1, 5)
                assert seen["step_left_s"] > 1_100
                assert seen["deadline_left_s"] > 3_500
    finally:
        control.kill()
