"""An application and `roadworthy up` on one machine: the endpoint in the application is a part of the gateway. Real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import roadworthy as rw
from tests.machine import FREE_PORTS, Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually

ROWS = np.linspace(0.0, 50.0, 64).reshape(64, 1)
PLAN = {"strategy": "canary", "steps": [50, 100], "hold": 1, "criteria": ["invalid_outputs"]}
APPLICATION = """
import json, sys
import roadworthy as rw

endpoint = rw.serve_in_process("delay")
for line in iter(sys.stdin.readline, ""):
    row = json.loads(line)
    try:
        answer = None if row is None else endpoint.predict([[row]]).version
    except rw.RoadworthyError as error:
        answer = error.code
    print(json.dumps([answer, dict(endpoint.status().off)]), flush=True)
"""


class Application:
    """A process that embeds the endpoint and predicts on request."""

    def __init__(self, machine: Machine) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", APPLICATION], env=machine.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _tell(self, row: float | None) -> tuple[str | None, dict[str, str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(row)}\n")
        self.process.stdin.flush()
        answer, off = json.loads(self.process.stdout.readline())
        return answer, off

    def predict(self, row: float) -> str | None:
        """The version that answers, or the code of the error."""
        return self._tell(row)[0]

    def off(self) -> dict[str, str]:
        """What `status().off` says."""
        return self._tell(None)[1]

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.communicate()


class OneMember(Machine):
    """A machine whose gateway one process may join. `metrics`: the address of its metrics."""

    metrics = ""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "ROADWORTHY_GATEWAY_EMBEDDED_PROCESSES": "1"}


def times(factor: float) -> Any:
    """A model that multiplies; with 1e306 the product of 200 is no number, and that of no golden example."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(ROWS, ROWS[:, 0])
    model.coef_, model.intercept_ = np.array([factor]), 0.0
    return model


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMember]:
    """Two versions are registered and the first one serves."""
    made = OneMember(tmp_path_factory.mktemp("machine"))
    made.metrics = made.tell("up", "-d", *FREE_PORTS)["metrics"]
    try:
        for number, factor in enumerate((10.0, 1e306), start=1):
            out = made.folder / f"dist{number}"
            package = rw.pack(times(factor), name="delay", inputs=ROWS, out=out)
            made.tell("push", str(package.path))
        made.tell("deploy", "delay:1", "--endpoint", "delay")
        yield made
    finally:
        made.run("stop")


@pytest.fixture(scope="module")
def application(machine: OneMember) -> Iterator[Application]:
    """A process that has joined."""
    made = Application(machine)
    eventually(lambda: made.off() == {}, "it has joined")
    yield made
    made.kill()


def requests(machine: OneMember) -> float:
    """Requests of the endpoint in `/metrics`."""
    lines = httpx.get(machine.metrics, verify=NO_TLS, timeout=DEADLINE_S).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("roadworthy_requests_total{"))


def test_a_canary_that_only_it_serves_is_rolled_back(machine: OneMember, application: Application) -> None:
    """The gateway itself has no request: the evidence comes from the application alone."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:
        for _ in range(200):
            application.predict(200.0)
        client.rollouts.start("delay", "delay:2", PLAN)

        def over() -> bool:
            for _ in range(20):
                application.predict(200.0)
            return client.rollouts.get("delay").outcome is not None

        eventually(over, "the rollout is over")
        ended = client.rollouts.get("delay")
        assert ended.outcome == "rolled-back", ended.text
        eventually(lambda: {application.predict(200.0) for _ in range(20)} == {"delay:1"}, "the stable version again")


def test_a_killed_agent_costs_no_answer(machine: OneMember, application: Application) -> None:
    """The supervisor starts another, which the process joins; the counts go on."""
    before = requests(machine)
    agent = next(each for each in machine.family() if "roadworthy.agent" in " ".join(each.cmdline()))
    agent.kill()
    psutil.wait_procs([agent])
    assert application.predict(1.0) == "delay:1"
    eventually(lambda: application.off() == {} and requests(machine) == before + 1, "it has joined again")


def test_what_it_answers_is_seen_outside(machine: OneMember, application: Application) -> None:
    """In `/metrics` and in `logs`. A second process says why it has no place, and takes that of the first when it was killed:
    no count is lost, none comes twice."""
    before = requests(machine)
    assert {application.predict(float(row)) for row in range(10)} == {"delay:1"}
    assert requests(machine) == before + 10
    second = Application(machine)
    try:
        assert "(gateway.embedded_processes)" in second.off()["agent"]
        second.predict(1.0)
        logged = eventually(
            lambda: [row for row in machine.tell("logs", "delay")["items"] if row["inputs"]], "it is in the records"
        )
        assert logged[0]["inputs"].keys() == {"instances"}
        application.kill()
        eventually(lambda: second.off() == {}, "the place is free")
        second.predict(1.0)
        assert requests(machine) == before + 11
    finally:
        second.kill()
