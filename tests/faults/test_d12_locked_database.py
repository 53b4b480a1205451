"""D12: another process locks the database. The data plane is unaffected; changes get 503 meanwhile, and can be repeated."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.contract.snapshot import decode_snapshot
from tests.agent.conftest import RunningAgent
from tests.control_plane import ControlProcess
from tests.waiting import DEADLINE_S, NO_TLS, eventually

WAIT_S = 0.3
AT_ONCE = 40


class Impatient(ControlProcess):
    """A control plane that waits WAIT_S for its database."""

    def document(self, fd: int) -> dict[str, Any]:
        return {**super().document(fd), "database_wait_s": WAIT_S}


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Impatient]:
    """A control plane for one test."""
    process = Impatient(tmp_path / "control")
    yield process
    process.kill()


@contextmanager
def locked(control: ControlProcess) -> Iterator[None]:
    """Lock the database: no other process can write or begin a transaction."""
    with closing(sqlite3.connect(control.folder / "roadworthy.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA busy_timeout={DEADLINE_S * 1_000:.0f}")
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_d12_changes_get_503_while_it_is_held_and_can_be_repeated(control: Impatient) -> None:
    """For any number of calls at once; known keys stay valid; afterwards the same call succeeds."""
    with control.client(control.admin_key) as admin:
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(admin.post("/api/v1/keys", json={"role": "predictor"}))

        with locked(control):
            threads = [threading.Thread(target=ask) for _ in range(AT_ONCE)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert admin.get("/livez").status_code == 200
            assert admin.get("/readyz").json()["code"] == "database-busy"
            assert admin.put("/api/v1/endpoints/e", json={"version": "m:1"}).json()["code"] == "database-busy"
            assert httpx.get(f"{control.url}/api/v1/keys", timeout=DEADLINE_S, verify=NO_TLS).status_code == 401
        assert {(reply.status_code, reply.json()["code"]) for reply in replies} == {(503, "database-busy")}
        assert all(reply.headers["retry-after"] for reply in replies)
        assert admin.post("/api/v1/keys", json={"role": "predictor"}).status_code == 201
        assert len(admin.get("/api/v1/keys").json()["items"]) == 3, "of those that got 503 nothing was done"


def test_d12_the_data_plane_serves_from_what_it_has(
    control: Impatient,
    make_package: Callable[..., Path],
    start_worker: Callable[..., Any],
    make_plan: Any,
    tmp_path: Path,
) -> None:
    """A worker and its agent, with a control plane whose database is locked: predictions and snapshots are as before; changes
    made after the lock arrive."""
    folder = tmp_path / "gateway"
    plan = make_plan()
    worker = start_worker(plan, folder=folder, snapshot=None, command=["-m", "roadworthy.gateway.worker"])
    agent = RunningAgent(folder, control_url=control.url, key=control.gateway_key)
    try:
        with control.client(control.admin_key) as admin:
            role = {"role": "predictor"}
            key = eventually(lambda: admin.post("/api/v1/keys", json=role).json().get("key"), "there is a key")
            package = make_package().read_bytes()

            def written(method: str, path: str, **body: Any) -> bool:
                return admin.request(method, path, **body).status_code in (200, 201, 202)

            eventually(lambda: written("POST", "/api/v1/packages", content=package), "it is pushed")
            eventually(lambda: written("PUT", "/api/v1/endpoints/line", json={"version": "line:1"}), "it is deployed")
            headers = {"authorization": f"Bearer {key}"}

            def predict() -> bool:
                return worker.predict("line", [[1, 2, 3]], headers=headers).status_code == 200

            eventually(predict, "it is served")
            with locked(control):
                with ThreadPoolExecutor(1) as pool:
                    change = pool.submit(admin.post, "/api/v1/keys", json={"role": "predictor"})
                    while not change.done():
                        assert predict()
                assert change.result().status_code == 503
            before = decode_snapshot((folder / "snapshot.json").read_bytes()).revision
            eventually(lambda: admin.delete("/api/v1/endpoints/line").status_code in (204, 404), "it is deleted")
            eventually(lambda: decode_snapshot((folder / "snapshot.json").read_bytes()).revision > before, "the change arrives")
    finally:
        agent.stop()
