"""C6, E6: a canary ten times as slow, and a gateway that falls silent during a rollout; `roadworthy up` under steady traffic."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import roadworthy as rw
from bench.load.traffic import causes, only
from bench.real.following import begin, is_over, until
from bench.real.models import Cast, Sums, asked, register
from bench.service import Service, installed, role_of
from roadworthy.contract.api.rollouts import Rollout

pytestmark = pytest.mark.usefixtures("warm_services")
WORKERS = 2
TIMEOUT_MS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages and home."""
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    """Control plane, agent and workers."""
    with installed(folder, [], workers=WORKERS) as running:
        yield running


def fast(x: Any) -> Any:
    """5 ms per row."""
    import time

    time.sleep(0.005 * len(x))
    return x.sum(axis=1)


def ten_times_as_slow(x: Any) -> Any:
    """50 ms per row, for callers' requests."""
    import time

    time.sleep((0.05 if x[:, 2].any() else 0.005) * len(x))
    return x.sum(axis=1)


def test_c6_a_canary_ten_times_as_slow_goes_back_and_callers_are_answered_in_time(service: Service, folder: Path) -> None:
    """It gets 1.5 times its capacity: requests that it cannot answer are refused in time. Other requests are unaffected."""
    rows = np.column_stack([np.arange(10.0), np.linspace(0.0, 1.0, 10), np.zeros(10)])
    with service.client() as client:
        for model in (fast, ten_times_as_slow):
            packed = rw.pack(model, name="slow", inputs=rows, out=folder, compile=False)
            assert packed.path is not None
            client.push(packed.path, allow_code=packed.digest)
        client.wait(client.deploy("slow:1", "slow", policy={"timeout_ms": TIMEOUT_MS}))
        traffic = asked(service, "slow", 60.0, np.random.default_rng(6))

        async def scene() -> Rollout:
            async with traffic.running():
                await traffic.wait_for(only("slow:1"))
                plan = {"strategy": "canary", "steps": [50, 100], "hold": 30}
                found = await until(client, await begin(client, "slow", "slow:2", plan), is_over, "it is over")
                await traffic.wait_for(only("slow:1"))
                return found

        ended = asyncio.run(scene())
    assert (ended.outcome, ended.code) == ("rolled-back", "worse")
    assert ended.text.startswith("slow: ")
    assert ended.verdict is not None
    assert [each.signal for each in ended.verdict.findings if each.outcome == "FAIL"] == ["slow"]
    own = [outcome for outcome in traffic.outcomes if outcome.version == "slow:2"]
    assert traffic.failed, "it was never asked for more than it can bear"
    assert {outcome.cause for outcome in traffic.failed} <= {"503 overloaded", "504 deadline-exceeded"}
    assert [outcome for outcome in traffic.failed if outcome not in own] == []
    assert sum(not outcome.cause for outcome in own) > 0


@pytest.fixture(scope="module")
def sums(service: Service, folder: Path) -> tuple[Cast, Sums]:
    """An endpoint with two healthy versions, and traffic for it."""
    cast = register(service, folder, "sums", set())
    return cast, asked(service, "sums", 40.0, np.random.default_rng(7))


def agent_of(service: Service) -> psutil.Process:
    """The process that reports for the gateway."""
    (agent,) = [member for member in service.members() if role_of(member) == "agent"]
    return agent


def silent_looks(seen: Rollout) -> int:
    """Number of consecutive looks without news."""
    found = re.search(r"no fresh telemetry for (\d+) looks", seen.text)
    return int(found[1]) if found else 0


def test_e6_a_gateway_that_falls_silent_holds_the_rollout_and_loses_nothing(service: Service, sums: tuple[Cast, Sums]) -> None:
    """The state shows telemetry-lost in addition to the verdict, which stands; the step's time stops; callers notice nothing. The
    rollout continues when an agent reports again, even a different process, and each request counts once."""
    cast, traffic = sums
    # 50 clean requests show less than a tenth to fail, in some seconds; the default limit would take 88.
    criteria = {"errors": {"limit": 0.1}}
    plan = {"strategy": "canary", "steps": [25, 100], "hold": 20, "evidence": 50, "criteria": criteria}

    async def scene(client: rw.Client) -> tuple[Rollout, Rollout, Rollout]:
        async with traffic.running():
            await traffic.wait_for(only(cast.stable))
            begun = await begin(client, "sums", cast.spare, plan)
            # Silence is noticed after 5 s: the step must last longer.
            await until(client, begun, lambda seen: 8 < (seen.step_left_s or 0) < 19 and judged(seen), "time passes")
            agent = agent_of(service)
            agent.suspend()
            try:
                first = await until(client, begun, lambda seen: seen.code == "telemetry-lost", "it is noticed")
                # Silent for so long that the rollout no longer waits for the gateway.
                later = await until(client, begun, lambda seen: silent_looks(seen) >= 7, "it lasts")
            finally:
                with contextlib.suppress(psutil.NoSuchProcess):  # the supervisor replaces an agent that is silent for too long
                    agent.resume()
            await until(client, begun, lambda seen: seen.code == "minimum-time", "it goes on")
            agent_of(service).kill()
            ended = await until(client, begun, is_over, "it is over")
            await traffic.wait_for(only(cast.spare))
            return first, later, ended

    with service.client() as client:
        first, later, ended = asyncio.run(scene(client))
        alerts = [each for each in client.events().items if each.kind == "rollout-alert"]
    for seen in (first, later):
        assert (seen.phase, seen.share, seen.outcome) == ("stepping", 25, None)
        assert seen.verdict is not None
        assert (seen.verdict.outcome, seen.verdict.code) == ("PASS", "enough")
    assert later.step_left_s == first.step_left_s
    assert (ended.outcome, ended.code) == ("promoted", "promoting")
    assert [each.detail["code"] for each in alerts if each.detail["rollout"] == ended.id] == ["telemetry-lost"]
    assert causes(traffic.failed) == {}
    assert ended.verdict is not None
    (finding,) = ended.verdict.findings
    canary = sum(outcome.version == cast.spare for outcome in traffic.outcomes)
    assert 100 <= finding.samples <= canary


def judged(seen: Rollout) -> bool:
    """Whether the step has all the evidence that it requires."""
    return seen.verdict is not None and seen.verdict.outcome == "PASS"
