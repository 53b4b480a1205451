"""An endpoint with a failing model keeps answering: policies set by the installed command, as callers see them.

One journey on the same running planes, in steps.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import roadworthy as rw
from tests.machine import FREE_PORTS, run_command
from tests.waiting import DEADLINE_S, NO_TLS, eventually

ROWS = np.arange(24.0).reshape(12, 2)


def steady(rows: Any) -> Any:
    """The version that never fails."""
    return rows.sum(axis=1)


def moody(rows: Any) -> Any:
    """The version that fails on negative numbers, and kills its process on -7."""
    if (rows[:, 0] == -7).any():
        os.kill(os.getpid(), signal.SIGSEGV)
    if (rows < 0).any():
        raise ValueError("negative")
    return rows.sum(axis=1) + 1000.0


def mean(rows: Any) -> Any:
    """Its rule."""
    return np.full(len(rows), 12.0)


class Machine:
    """A home folder, and commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: list[str] = []

    def run(self, *arguments: str) -> str:
        """Run one command that must succeed; return its output."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
        result = run_command(arguments, cwd=self.folder, env={**clean, "ROADWORTHY_HOME": str(self.folder / "home")})
        assert result.returncode == 0, result.stderr
        return result.stdout

    def ask(self, *row: float) -> httpx.Response:
        """One row."""
        context = json.loads((self.folder / "home" / "context.json").read_text())
        url = f"{context['gateway_url']}/v1/models/sums:predict"
        return httpx.post(
            url, json={"instances": [row]}, headers={"X-API-Key": context["key"]}, timeout=4 * DEADLINE_S, verify=NO_TLS
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A control plane and a gateway, with two versions."""
    machine = Machine(tmp_path_factory.mktemp("policies"))
    machine.run("up", "--detach", *FREE_PORTS)
    for model, rules in ((steady, {}), (moody, {"mean": mean})):
        package = rw.pack(model, name="sums", inputs=ROWS, out=machine.folder / "dist", rules=rules)
        machine.run("push", str(package.path), "--allow-code", package.digest)
        machine.digests.append(package.digest)
    yield machine
    machine.run("stop")


def a_cache_from_a_file(machine: Machine) -> None:
    """The second request with an equal row is answered from it."""
    (machine.folder / "policy.toml").write_text("timeout_ms = 5000\n[cache]\nttl_s = 60\n")
    machine.run("deploy", "sums:1", "--endpoint", "sums", "--policy", "policy.toml")
    assert machine.ask(1, 2).headers["cache-status"] == "roadworthy; fwd=miss; stored"
    assert machine.ask(1, 2).headers["cache-status"].startswith("roadworthy; hit")


def describe_shows_it(machine: Machine) -> None:
    """With what is the default."""
    lines = [line.split() for line in machine.run("describe", "sums").splitlines()]
    assert ["timeout_ms", "5000", "60000"] in lines
    assert ["cache.ttl_s", "60", "-"] in lines
    assert json.loads(machine.run("describe", "sums", "--json"))["policy"]["cache"]["ttl_s"] == 60


def the_version_before_stands_in(machine: Machine) -> None:
    """The new version fails on a row; its callers get the previous version's answer, and the reply says so."""
    machine.run("deploy", "sums:2", "--endpoint", "sums", "--set", "cache=null", "--set", 'fallback=[{"kind": "version"}]')
    assert machine.ask(1, 2).json()["predictions"] == [1003.0]
    reply = eventually(lambda: (found := machine.ask(-1, 2)).status_code == 200 and found, "the previous version answers")
    assert reply.json()["predictions"] == [1.0]
    assert reply.headers["roadworthy-fallback"] == 'version; version="sums:1"; reason="model-failed"'
    assert reply.headers["roadworthy-version"] == "sums:1"
    assert "cache-status" not in reply.headers


def c1_a_runner_that_dies_costs_its_callers_nothing(machine: Machine) -> None:
    """The model's process dies during a request, and the request is still answered."""
    reply = machine.ask(-7, 2)
    assert (reply.status_code, reply.json()["predictions"]) == (200, [-5.0])
    assert reply.headers["roadworthy-fallback"] == 'version; version="sums:1"; reason="runner-died"'
    eventually(lambda: machine.ask(1, 2).headers["roadworthy-version"] == "sums:2", "another process takes its place")


def a_rule_stands_in(machine: Machine) -> None:
    """A rule of the failing version's package answers, then the static answer."""
    steps = '[{"kind": "rule", "rule": "mean"}, {"kind": "static", "value": 0}]'
    machine.run("deploy", "sums:2", "--endpoint", "sums", "--set", f"fallback={steps}")
    reply = eventually(  # the static answer comes while the rule's process is too slow
        lambda: (found := machine.ask(-1, 2)).headers["roadworthy-fallback"].startswith("rule") and found,
        "the new policy, and an answer of the rule",
    )
    assert reply.json()["predictions"] == [12.0]
    assert reply.headers["roadworthy-fallback"] == 'rule; rule="mean"; reason="model-failed"'


@pytest.mark.timeout(12 * DEADLINE_S)
def test_from_a_cache_to_a_rule(machine: Machine) -> None:
    """All steps, each from the end of the previous one."""
    a_cache_from_a_file(machine)
    describe_shows_it(machine)
    the_version_before_stands_in(machine)
    c1_a_runner_that_dies_costs_its_callers_nothing(machine)
    a_rule_stands_in(machine)
