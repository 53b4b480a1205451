"""D14: the wall clock jumps. Waiting and measuring use the monotonic clock; wall time is only recorded."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadworthy.agent.sync.packages import FORGET_AFTER_S, PackageStore
from roadworthy.contract.policy import Policy
from roadworthy.foundation.clock import SystemClock
from tests.conftest import PLANTED_WORKER
from tests.control_plane import ControlProcess, FakeGateway, serving
from tests.faults.jumping_clock import HOUR_S
from tests.gates import closed
from tests.gateway.planted_worker import GATED
from tests.waiting import eventually

JUMPING = Path(__file__).with_name("jumping_clock.py")
CALLS = 600

RECORDED_IN = {
    "foundation/clock.py": "the clock that is handed in",
    "foundation/ids.py": "ids are ordered by time",
    "serving/pipeline.py": "when a prediction was asked, in its record",
    "package/packing/pack.py": "when a package was packed",
    "monitoring/predictions.py": "shows when a prediction was asked",
    "control/resources/times.py": "writes a recorded time as text",
    "cli/commands/rollout_watch.py": "stamps the lines that it prints",
    "control/recovery.py": "names the database that was moved aside",
    "supervisor/output.py": "stamps the lines that children printed",
}
"""Files that may read wall time, and the purpose."""
_WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime"},
    "datetime": {"now", "utcnow", "today", "fromtimestamp"},
}


def wall_times(source: Path) -> list[str]:
    """Places that read the wall clock: `time.time()` and similar, `datetime.now()`, or an import of them by name."""
    found = []
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ""
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                of = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                name = node.attr if node.attr in _WALL.get(of, ()) else ""
            elif isinstance(node, ast.ImportFrom) and node.module == "time":
                name = ", ".join(alias.name for alias in node.names if alias.name in _WALL["time"])
            if name:
                found.append(f"{path.relative_to(source).as_posix()}:{node.lineno} {name}")
    return found


def test_d14_wall_time_is_read_only_where_it_is_written_down() -> None:
    """No timer, deadline or duration uses it."""
    source = Path(__file__).parents[2] / "src" / "roadworthy"
    found = wall_times(source)
    assert [place for place in found if place.partition(":")[0] not in RECORDED_IN] == []
    assert {place.partition(":")[0] for place in found} == set(RECORDED_IN), "this list has places that are gone"


def test_d14_planted_reads_are_found(tmp_path: Path) -> None:
    """By attribute, by import, through datetime; the monotonic clock is not reported."""
    (tmp_path / "bad.py").write_text(
        "import time, datetime\nfrom time import time_ns, monotonic\na = time.time()\nb = time.monotonic()\n"
        "c = datetime.datetime.now()\n"
    )
    assert wall_times(tmp_path) == ["bad.py:2 time_ns", "bad.py:3 time", "bad.py:5 now"]


def test_d14_a_worker_whose_clock_jumps(
    start_worker: Callable[..., Any], make_plan: Any, planted_agent: Any, tmp_path: Path
) -> None:
    """Every request is answered, none expires early, idle connections survive, ids are unique, all requests are recorded."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("gated", [plan.package(2, "noting")], Policy(timeout_ms=300))
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path, command=[str(JUMPING), "-", str(PLANTED_WORKER)]).wait_ready()
    ids = set()
    for _ in range(CALLS):
        reply = worker.predict("sum", [[1, 2, 3]], headers={"request-timeout-ms": str(HOUR_S * 900)})
        assert reply.json() == {"predictions": [6.0]}
        ids.add(reply.headers["x-request-id"])
    assert len(ids) == CALLS
    with closed(tmp_path / "gate"):
        assert worker.predict("gated", [[1, GATED, 0]]).json()["code"] == "deadline-exceeded"
    eventually(lambda: len([r for r in agent.records if r.endpoint == "sum"]) == CALLS, "all are recorded")
    stamps = [record.at_us for record in agent.records if record.endpoint == "sum"]
    assert max(stamps) - min(stamps) > HOUR_S * 1_000_000, "the clock did jump"
    assert max(record.latency_us for record in agent.records) < HOUR_S * 500_000, "no jump is in a latency"
    assert worker.stop() == 0


def test_d14_packages_are_forgotten_by_the_monotonic_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that steps by days deletes nothing."""
    store = PackageStore(tmp_path / "packages", SystemClock())
    kept = tmp_path / "packages" / ("a" * 64)
    kept.mkdir()
    assert store.collect((), lambda _: False) == []
    monkeypatch.setattr(time, "time_ns", lambda: 10**19)
    monkeypatch.setattr(time, "time", lambda: 1e10)
    assert store.collect((), lambda _: False) == []
    now = time.monotonic() + FORGET_AFTER_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert store.collect((), lambda _: False) == [f"sha256:{'a' * 64}"]


def test_d14_a_deployment_goes_on_after_the_control_planes_clock_was_set_back(
    make_package: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """By an hour while it waits for the gateway: the gateway's later reports still count as later than the deployment."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    control = ControlProcess(tmp_path / "control", JUMPING, str(offset))
    try:
        with control.client(control.admin_key) as admin, control.client(control.gateway_key) as link:
            gateway = FakeGateway(link, "gw-1")
            digest = admin.post("/api/v1/packages", content=make_package().read_bytes()).json()["digest"]
            assert admin.put("/api/v1/endpoints/line", json={"version": "line:1"}).status_code == 202
            offset.write_text("-3600")
            gateway.ready(digest)
            serving(admin, "line:1")
            assert admin.get("/api/v1/status").json()["gateways"][0]["alive"] is True
            offset.write_text("3600")
            gateway.ready(digest)
            assert admin.get("/api/v1/status").json()["gateways"][0]["alive"] is True
    finally:
        control.kill()
