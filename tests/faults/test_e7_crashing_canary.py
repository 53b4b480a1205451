"""E7: a canary that crashes its processes is judged by its crashes in this rollout, not by earlier ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

import roadworthy as rw
from tests.machine import Machine
from tests.waiting import DEADLINE_S, eventually

ROWS = np.arange(24.0).reshape(8, 3)
CRASH = 1_013.0
PLAN = {"strategy": "canary", "steps": [50, 100], "hold": "10m", "criteria": ["errors"], "crashes": 2}


def steady(x: Any) -> Any:
    """The stable."""
    return np.asarray(x).sum(axis=1)


def fragile(x: Any) -> Any:
    """Crashes on one value."""
    import ctypes

    if (np.asarray(x)[:, 0] == CRASH).any():
        ctypes.string_at(0)
    return np.asarray(x).sum(axis=1) + 0.5


@pytest.fixture
def machine(tmp_path: Any) -> Iterator[Machine]:
    """Two versions, without quarantine, so that only rollouts decide."""
    made = Machine(tmp_path)
    (tmp_path / "roadworthy.toml").write_text("[gateway]\ncrashes_to_quarantine = 100\n")
    for number, model in enumerate((steady, fragile), start=1):
        made.packages.append(rw.pack(model, name="sum", inputs=ROWS, out=tmp_path / f"dist{number}", compile=False))
    with made.serving("sum"):
        yield made


def test_e7_only_crashes_since_the_rollout_began_count(machine: Machine) -> None:
    """A crash in an aborted rollout does not count in the next one; a crash before the agent died still counts."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:

        def crash() -> None:
            """Make a request crash the canary's runner."""
            before = client.rollouts.get("sum").crashes

            def asked() -> bool:
                try:
                    client.predict("sum", [[CRASH, 1.0, 2.0]])
                except rw.RoadworthyError as error:
                    return error.code == "runner-died"
                return False

            eventually(asked, "the canary gets one")
            eventually(lambda: client.rollouts.get("sum").crashes == before + 1, "it is counted")

        def begin() -> None:
            client.rollouts.start("sum", "sum:2", PLAN)
            eventually(lambda: client.rollouts.get("sum").share == 50, "it has traffic")

        begin()
        crash()
        assert client.rollouts.get("sum").phase == "stepping"
        client.rollouts.abort("sum")
        eventually(lambda: client.rollouts.get("sum").outcome == "aborted", "it is back")
        begin()
        assert client.rollouts.get("sum").crashes == 0
        crash()
        assert client.rollouts.get("sum").phase == "stepping"
        (agent,) = agents(machine)
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait(DEADLINE_S)
        eventually(lambda: agents(machine), "another agent")
        crash()
        eventually(lambda: client.rollouts.get("sum").outcome == "rolled-back", "it goes back")
        ended = client.rollouts.get("sum")
        assert (ended.code, ended.text) == ("crash-limit", "the new version crashed its process 2 times")


def agents(machine: Machine) -> list[psutil.Process]:
    """The gateway's agent process, if it is running."""
    return [each for each in machine.family() if "roadworthy.agent" in " ".join(each.cmdline())]
