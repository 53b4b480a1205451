"""A real installation whose packages have rules: confinement of the rules, and their answers when the models cannot answer."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import roadworthy as rw
from roadworthy.cli.commands.runners import local_runners
from tests.faults.g5_probe import SECRET
from tests.faults.g5_spy import EVERYTHING, LOOK, names, spying
from tests.faults.g5_surroundings import Surroundings, surroundings
from tests.machine import Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually

ROWS = np.arange(40.0).reshape(20, 2)
FAIL = -2.0
SPY = '[{"kind": "rule", "rule": "spy"}, {"kind": "static", "value": -3}]'


def calm(rows: Any) -> Any:
    """A rule without side effects."""
    return np.full(len(rows), 7.0)


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """The surroundings; the installation has a key in its environment."""
    with pytest.MonkeyPatch.context() as patch, surroundings(tmp_path_factory.mktemp("around"), os.geteuid()) as made:
        patch.setenv("KEY", SECRET)
        yield made


@contextlib.contextmanager
def installed(folder: Path, around: Surroundings, *, model_spies: bool) -> Iterator[tuple[Machine, Any]]:
    """An installation with a package whose rules include a spy. The model fails for some rows; for others it spies, too, or
    sums."""
    made = Machine(folder, cold=True)
    target = {**around.target, "context": str(made.home / "context.json"), "home": str(made.home)}
    spy, rules = spying(target, always=False), {"calm": calm, "quick": calm, "spy": spying(target, always=True)}

    def moody(rows: Any) -> Any:
        if (rows[:, 0] == FAIL).any():
            raise ValueError("no answer")
        return spy(rows) if model_spies else rows.sum(axis=1)

    (folder / "dist").mkdir()
    with contextlib.chdir(folder):
        made.packages.append(rw.pack(moody, name="ruled", inputs=ROWS, out="dist", compile=False, rules=rules))
    with made.serving("ruled"):
        deploy(made, "ruled", SPY)
        yield made, rules["spy"]


@pytest.fixture(scope="module")
def machine(around: Surroundings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Any]]:
    """A machine with confined code, the default."""
    with installed(tmp_path_factory.mktemp("machine"), around, model_spies=False) as made:
        yield made


def deploy(machine: Machine, endpoint: str, fallback: str, *more: str) -> None:
    """Deploy an endpoint with these fallback steps."""
    machine.tell("deploy", "ruled:1", "--endpoint", endpoint, "--set", f"fallback={fallback}", *more)


def ask(machine: Machine, first: float, endpoint: str = "ruled", wait_ms: int = 30_000) -> httpx.Response:
    """One row."""
    context = machine.context()
    headers = {"Authorization": f"Bearer {context['key']}", "Request-Timeout-Ms": str(wait_ms)}
    url = f"{context['gateway_url']}/v1/models/{endpoint}:predict"
    return httpx.post(url, json={"instances": [[first, 0.0]]}, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)


def by_rule(reply: httpx.Response, rule: str = "spy") -> bool:
    """Whether the reply comes from that rule."""
    return reply.status_code == 200 and f'rule="{rule}"' in reply.headers.get("roadworthy-fallback", "")


def runners(machine: Machine, rule: str | None) -> list[dict[str, Any]]:
    """The READY processes of the rule; None for those of the model."""
    found = local_runners(machine.home / "gateway")
    return [each for each in found if each["rule"] == rule and each["state"] == "READY"]


def pids(machine: Machine, module: str) -> set[int]:
    """Processes of the installation that run a module."""
    found = set()
    for process in machine.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {process.pid} if module in process.cmdline() else set()
    return found


def test_g5_a_rule_that_serves_finds_nothing(machine: tuple[Machine, Any]) -> None:
    """It finds everything where it was packed. Where it serves, it has its own confined process, which status shows."""
    made, spy = machine
    assert names(spy(ROWS)[0]) == EVERYTHING
    reply = eventually(lambda: by_rule(found := ask(made, FAIL)) and found, "the rule answers")
    assert names(reply.json()["predictions"][0]) == []
    (runner,) = runners(made, "spy")
    assert runner["runs"] >= 1
    assert runner["pid"] not in pids(made, "roadworthy.gateway.worker")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{runner['pid']}/status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)) == ("1", "2", 0)
    assert re.search(r"ruled:1 +spy +0 +\d+ +READY", made.run("status").stdout)


def test_g5_a_rule_answers_while_its_model_stands_still(machine: tuple[Machine, Any]) -> None:
    """The rule has its own process."""
    made, _ = machine
    deploy(made, "still", '[{"kind": "rule", "rule": "quick"}]')
    eventually(lambda: by_rule(ask(made, FAIL, "still"), "quick"), "the rule answers")
    (model,) = eventually(lambda: runners(made, None), "the model's process is there")
    frozen = psutil.Process(model["pid"])
    frozen.suspend()

    def answered() -> bool:
        reply = ask(made, 1.0, "still", wait_ms=300)
        return by_rule(reply, "quick") and 'reason="deadline-exceeded"' in reply.headers["roadworthy-fallback"]

    eventually(answered, "the rule answers for it")
    frozen.kill()
    eventually(lambda: ask(made, 1.0, "still").json().get("predictions") == [1.0], "the model answers again")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_g5_the_process_of_a_rule_is_replaced(machine: tuple[Machine, Any], number: signal.Signals) -> None:
    """When it dies, and when it is stopped; meanwhile the next step answers."""
    made, _ = machine
    eventually(lambda: by_rule(ask(made, FAIL)), "the rule answers")
    (before,) = runners(made, "spy")
    os.kill(before["pid"], number)
    assert ask(made, FAIL, wait_ms=300).status_code == 200
    eventually(lambda: [each["pid"] for each in runners(made, "spy")] not in ([], [before["pid"]]), "it is replaced")
    eventually(lambda: by_rule(ask(made, FAIL)), "the rule answers again")


def test_g5_the_process_of_a_rule_goes_with_its_policy(machine: tuple[Machine, Any]) -> None:
    """It starts when a policy names the rule, without any request; each rule has its own process."""
    made, _ = machine
    (spy,) = eventually(lambda: runners(made, "spy"), "the rule of the other endpoint is there")
    deploy(made, "other", '[{"kind": "rule", "rule": "calm"}]')
    eventually(lambda: runners(made, "calm"), "it is there")
    assert by_rule(ask(made, FAIL, "other"), "calm")
    deploy(made, "other", "[]")
    eventually(lambda: not runners(made, "calm"), "it is gone")
    assert ask(made, FAIL, "other").status_code == 500
    assert [each["pid"] for each in runners(made, "spy")] == [spy["pid"]]


def test_g5_with_best_effort_a_model_may_look_and_a_rule_may_not(around: Surroundings, tmp_path: Path) -> None:
    """Negative control: the same function, as a model that a policy places in the worker, finds the worker's things."""
    (tmp_path / "roadworthy.toml").write_text('[general]\nconfinement = "best-effort"\n')
    with installed(tmp_path, around, model_spies=True) as (made, _):
        deploy(made, "ruled", SPY, "--set", "placement.where=inline")
        eventually(lambda: not runners(made, None), "the model is in the worker")
        found = names(ask(made, LOOK).json()["predictions"][0])
        assert {"context_file", "home", "own_environment", "other_environment", "unix_stream", "tcp"} <= set(found)
        reply = eventually(lambda: by_rule(told := ask(made, FAIL)) and told, "the rule answers")
        assert names(reply.json()["predictions"][0]) == []
