"""A model that crashes or hangs under the real command line: its runner is replaced, and finally the version is quarantined."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import roadworthy as rw
from roadworthy.cli.commands.runners import local_runners
from tests.machine import run_command
from tests.waiting import DEADLINE_S, NO_TLS, eventually

CRASH, HOLD_GIL, LEAVE = 1013.0, 1014.0, 1015.0
KILLED, HUNG = (rf'roadworthy_runner_restarts_total\{{reason="{reason}"' for reason in ("killed", "hung"))


class Machine:
    """`roadworthy up` in a home folder, with versions of a model: 1 is healthy, the others have a defect. Crashes count against a
    version for a while, so each test has its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        # workers execute code only if confinement is not required
        (folder / "roadworthy.toml").write_text(
            '[gateway]\nworkers = 2\nport = 0\nmetrics_port = 0\n[control]\nport = 0\n[general]\nconfinement = "best-effort"\n'
        )
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
        self.environment = {**clean, "ROADWORTHY_HOME": str(self.home)}
        rows = np.arange(20.0).reshape(10, 2)

        def well(x: Any) -> Any:
            return np.asarray(x).sum(axis=1)

        def defect(more: float) -> Callable[[Any], Any]:
            def answer(x: Any) -> Any:
                import ctypes
                import os
                import re

                first = np.asarray(x)[:, 0]
                if (first == CRASH).any():
                    ctypes.string_at(0)
                if (first == LEAVE).any():
                    os._exit(3)
                if (first == HOLD_GIL).any():
                    re.match(r"(a+)+$", "a" * 60 + "b")  # one call in C that takes thousands of years
                return np.asarray(x).sum(axis=1) + more

            return answer

        def inner(x: Any) -> Any:
            import ctypes

            if (np.asarray(x)[:, 0] == CRASH).any():
                ctypes.string_at(0)
            return np.asarray(x).sum(axis=1) + 0.25

        models = (well, defect(0.5), inner, defect(0.625), defect(0.75))
        self.packages = [rw.pack(m, name="sums", inputs=rows, out=folder / "dist", compile=False) for m in models]
        self.told = self.tell("up", "-d")
        context = json.loads((self.home / "context.json").read_text())
        self.client = httpx.Client(headers={"Authorization": f"Bearer {context['key']}"}, timeout=4 * DEADLINE_S, verify=NO_TLS)
        for package in self.packages:
            self.tell("push", str(package.path), "--allow-code", package.digest)

    def tell(self, *arguments: str) -> Any:
        """The JSON output of a command that must succeed."""
        result = run_command([*arguments, "--json"], cwd=self.folder, env=self.environment)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout) if result.stdout else None

    def predict(self, endpoint: str, first: float) -> httpx.Response:
        """One call."""
        url = f"{self.told['gateway']}/v1/models/{endpoint}:predict"
        return self.client.post(url, json={"instances": [[first, 1.0]]})

    def answer(self, endpoint: str, first: float = 1.0) -> float:
        """The answer of a call that must succeed."""
        reply = self.predict(endpoint, first)
        assert reply.status_code == 200, reply.text
        return float(reply.json()["predictions"][0])

    def endpoint(self, name: str) -> dict[str, Any]:
        """The control plane's document of an endpoint."""
        document: dict[str, Any] = self.client.get(f"{self.told['control']}/api/v1/endpoints/{name}").json()
        return document

    def runners(self, package: int) -> list[int]:
        """The runner processes of a version, in the words of `status`."""
        digest = self.packages[package].digest[7:19]
        return [runner["pid"] for runner in local_runners(self.home / "gateway") if runner["digest"] == digest]

    def metric(self, pattern: str) -> float:
        """The sum of the samples whose name and labels match."""
        try:
            text = httpx.get(self.told["metrics"], timeout=4 * DEADLINE_S, verify=NO_TLS).text
        except httpx.TransportError:  # between two agents
            return -1.0
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line))

    def agent(self) -> int:
        """The agent's process id; 0 if there is no agent."""
        supervisor = psutil.Process(int((self.home / "supervisor.pid").read_text()))
        for child in supervisor.children():
            with contextlib.suppress(psutil.Error):
                if "roadworthy.agent" in child.cmdline():
                    return child.pid
        return 0


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Started once for the tests of this file."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    try:
        yield machine
    finally:
        machine.client.close()
        machine.tell("stop")


@pytest.fixture(autouse=True)
def well(machine: Machine) -> None:
    """Both endpoints answer with the healthy version, and no other endpoint exists, whose policy would also apply."""
    for endpoint in machine.tell("endpoint", "list"):
        if endpoint["name"] not in ("steady", "tried"):
            machine.tell("undeploy", endpoint["name"])
    for endpoint in ("steady", "tried"):
        machine.tell("deploy", "sums:1", "--endpoint", endpoint)


class Callers(threading.Thread):
    """Calls the endpoint without the defect continuously; every answer must be right."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(daemon=True)
        self.machine = machine
        self.calls = 0
        self.faults: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Until told."""
        with httpx.Client(headers=self.machine.client.headers, timeout=4 * DEADLINE_S, verify=NO_TLS) as client:
            url = f"{self.machine.told['gateway']}/v1/models/steady:predict"
            while not self.over.is_set():
                reply = client.post(url, json={"instances": [[1.0, 1.0]]})
                self.calls += 1
                if reply.status_code != 200 or reply.json()["predictions"] != [2.0]:
                    self.faults.append(reply.text)


def test_d2_runners_outlive_the_agent(machine: Machine) -> None:
    """kill -9 of the agent: the runner stays, its callers notice nothing, and the next agent adopts it."""
    assert machine.answer("steady") == 2.0
    (runner,) = eventually(lambda: machine.runners(0), "its runner is there")
    assert runner in [each["pid"] for each in machine.tell("status")["runners"]]
    agent = machine.agent()
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: machine.agent() not in (0, agent) and machine.metric(r"roadworthy_runners\{.*READY") == 1, "it is back")
    for _ in range(50):
        assert machine.answer("steady") == 2.0
    assert machine.runners(0) == [runner]
    assert machine.metric("roadworthy_runner_restarts_total") == 0  # the next agent counts from there


def test_d1_a_runner_that_is_killed_from_outside_is_started_again(machine: Machine) -> None:
    """It does not count against the version."""
    killed, quarantined = machine.metric(KILLED), machine.metric("roadworthy_version_quarantined")
    for _ in range(3):
        (runner,) = eventually(lambda: machine.runners(0), "it runs")
        os.kill(runner, signal.SIGKILL)
        eventually(lambda runner=runner: machine.runners(0) not in ([runner], []), "another one")
        assert machine.answer("steady") == 2.0
    assert machine.metric(KILLED) == killed + 3
    assert machine.metric("roadworthy_version_quarantined") == quarantined


def test_c2_c3_a_version_in_a_crash_loop_is_kept_out_and_traffic_returns(machine: Machine) -> None:
    """After three crashes the version no longer runs, its endpoint returns to the previous version by itself, audited; the other
    endpoint is not affected."""
    machine.tell("deploy", "sums:2", "--endpoint", "tried")
    assert machine.answer("tried") == 2.5
    callers = Callers(machine)
    callers.start()
    try:
        codes = set()
        for poison in (CRASH, LEAVE, CRASH):
            codes.add(eventually(lambda poison=poison: machine.predict("tried", poison).json().get("code"), "a crash"))
        assert codes == {"runner-died"}
        eventually(lambda: machine.endpoint("tried")["version"] == "sums:1", "traffic returns")
        eventually(lambda: machine.predict("tried", 1.0).status_code == 200, "the old one answers")
        assert machine.answer("tried") == 2.0
    finally:
        callers.over.set()
        callers.join()
    assert callers.faults == []
    assert callers.calls > 0
    endpoint = machine.endpoint("tried")
    assert (endpoint["previous"], endpoint["changed_by"]) == (None, "controller")
    audit = machine.client.get(f"{machine.told['control']}/api/v1/audit", params={"last": 5}).json()["items"]
    (entry,) = [entry for entry in audit if entry["verb"] == "rollback"]
    assert (entry["actor"], entry["subject"]) == ("controller", "tried")
    assert "SIGSEGV, exit status 3" in json.dumps(entry)
    eventually(lambda: machine.runners(1) == [], "no runner of it is left")


def test_c4_a_version_that_hangs_is_killed_and_may_be_deployed_again(machine: Machine) -> None:
    """Deploying it again gives it another chance. A run that holds the GIL is ended from outside; everything else continues."""
    (machine.folder / "policy.json").write_text(json.dumps({"placement": {"hang_s": 2.0}}))
    for endpoint in ("steady", "tried"):  # both, so that the next version's runner has the policy from its start
        machine.tell("deploy", "sums:1", "--endpoint", endpoint, "--policy", "policy.json")
    machine.tell("deploy", "sums:4", "--endpoint", "tried")
    assert machine.answer("tried") == 2.625
    hung = machine.metric(HUNG)
    reply = machine.predict("tried", HOLD_GIL)
    assert (reply.status_code, reply.json()["code"]) == (503, "runner-died")
    assert eventually(lambda: machine.answer("tried"), "the next one answers") == 2.625
    assert machine.metric(HUNG) == hung + 1
    assert machine.answer("steady") == 2.0


def test_c2_without_a_version_before_it_is_refused_clearly(machine: Machine) -> None:
    """An endpoint without another version answers 503 with the reason; deploying the version again lets it execute again."""
    machine.tell("deploy", "sums:5", "--endpoint", "alone")
    assert machine.answer("alone") == 2.75
    for _ in range(3):
        eventually(lambda: machine.predict("alone", CRASH).json().get("code") == "runner-died", "it crashes")
    # other refusals occur between two runners
    eventually(lambda: machine.predict("alone", 1.0).json().get("code") == "version-quarantined", "it is refused")
    machine.tell("deploy", "sums:5", "--endpoint", "alone", "--no-wait")
    eventually(lambda: machine.predict("alone", 1.0).status_code == 200, "it answers again")


def test_c3_a_version_that_crashes_its_worker_is_kept_out_too(machine: Machine) -> None:
    """A policy makes it execute inline. It kills three workers, then it alone is quarantined."""
    (machine.folder / "inline.json").write_text(json.dumps({"placement": {"where": "inline"}}))
    machine.tell("deploy", "sums:3", "--endpoint", "inside", "--policy", "inline.json")

    def placements() -> list[str]:
        workers = machine.client.get(f"{machine.told['control']}/api/v1/status").json()["gateways"][0]["workers"]
        versions = [version for worker in workers for version in worker["versions"]]
        return [str(v.get("placement")) for v in versions if v["digest"] == machine.packages[2].digest]

    eventually(lambda: len(found := placements()) == 2 and all(p.startswith("inline") for p in found), "it is inline")
    died = r'roadworthy_worker_ends_total\{reason="SIGSEGV"'
    crashes = 0
    while not is_kept_out(machine):
        assert crashes < 9
        if eventually(lambda: is_kept_out(machine) or answered(machine, "inside"), "it answers, or is refused") == 2.25:
            with contextlib.suppress(httpx.TransportError):
                machine.predict("inside", CRASH)
            # A crash during which another version was running, too, cannot be attributed and does not count.
            crashes += 1
            eventually(lambda most=crashes: is_kept_out(machine) or machine.metric(died) >= most, "it is noticed")
    assert machine.metric(died) >= 3
    eventually(lambda: answered(machine, "steady") == 2.0, "the other one answers")


def is_kept_out(machine: Machine) -> bool:
    """Whether it is refused because it crashes; other refusals occur while both workers are starting."""
    reply = call(machine)
    return reply is not None and reply.json().get("code") == "version-quarantined"


def call(machine: Machine, endpoint: str = "inside") -> httpx.Response | None:
    """The response to a call; None while no worker accepts connections."""
    try:
        return machine.predict(endpoint, 1.0)
    except httpx.TransportError:
        return None


def answered(machine: Machine, endpoint: str) -> float | None:
    """The answer to a call; None if it fails."""
    reply = call(machine, endpoint)
    return float(reply.json()["predictions"][0]) if reply is not None and reply.status_code == 200 else None
