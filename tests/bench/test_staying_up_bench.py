"""Short forms of `make soak`, `make bench-switches` and `make bench-chaos`, one after the other on one installation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import chaos, soak, switches
from bench.growth import rise
from bench.load.traffic import BROKEN, Outcome, Traffic
from bench.models import leaking
from bench.service import Service, installed
from bench.versions import serve_first, two_versions
from tests.waiting import eventually

Running = tuple[Service, Traffic]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for packages, home and logs."""
    return tmp_path_factory.mktemp("staying-up")


@pytest.fixture(scope="module")
def installation(folder: Path) -> Iterator[Running]:
    """Two workers and the traffic for them, which each test copies."""
    versions = two_versions(folder)
    with installed(folder, [], workers=2) as service:
        traffic = serve_first(service, versions, rate=100.0)
        with service.client() as client:  # the agent has what it needs for files of records
            eventually(lambda: client.logs(traffic.endpoint).items, "records arrive")
        yield service, traffic


@pytest.fixture
def running(installation: Running) -> Running:
    """The same installation, restarted if a test has stopped it."""
    service, _ = installation
    if service.process is None:
        service.start()
        service.wait_ready()
    return installation


def _fresh(traffic: Traffic) -> Traffic:
    return replace(traffic, outcomes=[], open_requests={})


def test_nothing_grows_under_a_steady_load(running: Running) -> None:
    """Memory, descriptors and threads of every process stay constant through a deployment and a rollback."""
    service, traffic = running
    plan = soak.Plan(seconds=8.0, warm_up_s=3.0, change_every_s=3.0, look_every_s=0.25)
    story = asyncio.run(soak.steady(service, [_fresh(traffic)], plan))
    assert set(story.outcomes) == {""}
    assert story.changes >= 1
    assert {growth.role for growth in story.growths} == {"supervisor", "worker", "agent", "control"}
    assert story.faults == []
    assert story.changed == []


def test_no_request_fails_while_versions_switch_and_workers_are_recycled(running: Running) -> None:
    """Two deployments, two rollbacks and a recycling of both workers, without retries."""
    service, traffic = running
    plan = switches.Plan(requests=640, rate=100.0, cycles=2, recyclings=1)
    story = asyncio.run(switches.travel(service, _fresh(traffic), plan))
    assert story.traffic.failed == []
    assert len(story.traffic.outcomes) >= plan.requests
    assert (len(story.deployed_s), len(story.rolled_back_s), len(story.recycled_s)) == (2, 2, 1)


def test_a_planted_leak_is_seen(folder: Path, running: Running) -> None:
    """The negative control: a model that leaks 64 KiB per call makes its process exceed the bound, and only that is reported."""
    service, _ = running
    subject = leaking(folder, 200)
    asked = soak.traffic_of(service, subject, rate=150.0)
    plan = soak.Plan(seconds=5.0, warm_up_s=1.0, change_every_s=60.0, look_every_s=0.25)
    story = asyncio.run(soak.steady(service, [asked], plan))
    assert set(story.outcomes) == {""}
    assert story.faults
    assert all(fault.startswith(("worker", "runner")) and fault.split(",")[0].endswith("MB") for fault in story.faults)


def test_only_what_was_inside_a_killed_process_fails(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and runners are killed under load; then the installation is stopped and checked for leftovers."""
    monkeypatch.setattr(chaos, "NOTICE_S", 10.0)  # clients on a busy machine see the end of a connection late
    service, traffic = running
    story = chaos.run(service, _fresh(traffic), chaos.Plan(seconds=5.0, every_s=2.4))
    assert story.kills
    assert story.unexplained == []
    assert len(story.failed) <= story.inside
    assert story.faults == []


def test_a_failure_is_explained_only_by_the_kill_of_its_own_process() -> None:
    """Another connection, another time, another cause: each is an unexplained failure."""
    kill = chaos.Kill("worker", stopped=10.0, at=10.1, ports=frozenset({7}))
    inside = Outcome(sent=9.9, ended=10.2, version="", cause=BROKEN, port=7)
    assert kill.explains(inside, isolated=False)
    for other in (
        replace(inside, port=8),
        replace(inside, cause="503 overloaded"),
        replace(inside, ended=9.95),
        replace(inside, sent=11.0, ended=11.1),
    ):
        assert not kill.explains(other, isolated=False)


def test_a_line_rises_with_a_leak_and_not_with_a_spike() -> None:
    """Median slopes: one outlier has no effect, and a steady gain is measured exactly."""
    times = [float(second) for second in range(100)]
    assert rise(times, [50.0 + (400.0 if second == 99 else 0.0) for second in range(100)]) == 0.0
    assert abs(rise(times, [50.0 + 0.2 * second for second in range(100)]) - 19.8) < 1e-9
