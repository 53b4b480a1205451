"""A project is a wall: whatever a principal asks for, it sees and changes the objects of its own project only.

Every declared operation is called with the names of another project's objects. The replies must be those of a store in which the
other project has nothing, and the other project's rows and blobs must stay as they are. Both projects use the same names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, insert, select, update

from roadworthy.contract.api.operation import GATEWAY, OPEN, Operation
from roadworthy.contract.telemetry import RecordFile, RequestCount, Telemetry, encode_telemetry
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers.loop import Controllers
from roadworthy.control.http.app import build_routes, create_app
from roadworthy.control.resources import packages
from roadworthy.control.wiring import build_context
from roadworthy.store import connection as binding
from roadworthy.store.engine import read_revision
from roadworthy.store.tables import PROJECT, endpoints, keys, metadata, stores
from roadworthy.webhooks.sending import Attempt, Sender
from tests.control.fleet import Fleet, three_versions
from tests.control.in_process import client_of
from tests.control.test_feedback import Served, give, roll_out
from tests.control.test_records import parquet, record
from tests.control_plane import LINES
from tests.defaults import control_document

OTHER = "b"
HOOK = {"url": "https://1.1.1.1/hook"}
VOLATILE = re.compile(
    r"[0-9-]{10}T[0-9:.]+(Z|\+00:00)|\b(key|webhook|epoch|req)-[0-9a-z]{8,}|\bwhsec_[^\"]+|\brw_[^\"]+|(?<=\"sha256\":\")[0-9a-f]{64}"
    r"|\b[0-9a-f]{32}\b"
)
"""Times, random ids, secrets and their hashes."""


async def _arrive(*_: object) -> Attempt:
    return Attempt(1, 1, 200, "", None)


class World:
    """A store with two projects, and callers of both.

    Attributes:
        operations: all of them: those that read first, then those that delete, and the push last.
        names: the values that paths need.
    """

    def __init__(self, folder: Path, make_package: Callable[..., Path]) -> None:
        self._folder = folder
        self._make_package = make_package
        self.context = build_context(control_document(folder))
        self._app = create_app(self.context)
        self.operations = sorted(
            build_routes(self.context, lambda: False)[1],
            key=lambda each: (each.name == "push_package", each.method == "DELETE", each.method != "GET"),
        )
        self.names: dict[str, str] = {}
        self.add_project(OTHER)
        self.first, self.other = self.callers(self.context), self.callers(self.context.projects[OTHER])

    def add_project(self, name: str) -> None:
        """Add an empty project."""
        with self.context.database.begin() as connection:
            epoch, _ = read_revision(connection)
            connection.everywhere.execute(insert(stores).values(project=name, epoch=epoch, revision=1, event=0))
        self.context.find_projects()

    def callers(self, context: ControlContext) -> list[httpx.Client]:
        """An administrator and a gateway of that project, whose keys have the same names in every project."""
        return [client_of(context, self._app, role, role) for role in ("admin", "gateway")]

    def fill(self) -> None:
        """Give the first project something of everything."""
        admin, gateway = self.first
        fleet = Fleet(gateway)
        digests = three_versions(admin, fleet, self._make_package)
        rollout = roll_out(admin, fleet)
        (prediction,) = Served(fleet, admin, digests).made("c")
        assert give(admin, {"prediction_id": prediction, "correct": False}) == ["taken"]
        assert fleet.gateway.report(counts=(RequestCount("line", 1, digests[0], "ok", 1),)).status_code == 200
        webhook = admin.post("/api/v1/webhooks", json=HOOK).json()["id"]
        assert admin.post(f"/api/v1/webhooks/{webhook}:test").status_code == 200
        key = admin.post("/api/v1/keys", json={"role": "predictor"}, headers={"Idempotency-Key": "k"}).json()["id"]
        (file,) = (self._folder / "blobs" / "records").rglob("*.parquet")
        self.names = {"name": "line", "version": "1", "digest": digests[0], "prediction": prediction, "webhook_id": webhook}
        self.names |= {"rollout_id": rollout["id"], "command": "abort", "key_id": key, "gateway": "gw-1", "file": file.name}

    def rows(self) -> list[str]:
        """Every row of the first project."""
        with self.context.database.begin() as connection:
            return [
                f"{table.name}: {row}"
                for table in metadata.sorted_tables
                for row in connection.everywhere.execute(select(table).where(table.c.project == PROJECT))
            ]

    def blobs(self) -> dict[str, str]:
        """The digest of each stored file."""
        files = [path for path in (self._folder / "blobs").rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def send(self, operation: Operation[Any], callers: list[httpx.Client]) -> tuple[int, str]:
        """A request with the first project's names; the reply's status, and its text without what varies."""
        client = callers[operation.permission == GATEWAY]
        path = operation.path.replace(":path}", "}").format(**self.names)
        reply = client.request(operation.method, path, **self._body(operation.name))
        return reply.status_code, VOLATILE.sub("*", reply.text)

    def _body(self, name: str) -> dict[str, Any]:
        file = RecordFile(f"records/gw-1/{self.names['file']}", "line", 1, 1, 1, 1)
        frame = Telemetry("gw-1", "boot-1", 1_000, 1, workers=(), record_files=(file,))
        bodies: dict[str, Callable[[], Any]] = {
            "push_package": lambda: self._make_package(factor=LINES[0]).read_bytes(),
            "report": lambda: encode_telemetry(frame),
            "keep_records": lambda: parquet([record(1)]),
            "deploy": lambda: {"version": "line:1"},
            "start_rollout": lambda: {"version": "line:2"},
            "create_webhook": lambda: HOOK,
            "create_key": lambda: {"role": "predictor", "name": "caller"},
            "give_feedback": lambda: {"items": [{"prediction_id": self.names["prediction"], "correct": False}]},
        }
        body = bodies[name]() if name in bodies else None
        return {"content": body} if isinstance(body, bytes) else {"json": body}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, make_package: Callable[..., Path]) -> Iterator[tuple[World, World]]:
    """A store whose first project has everything, and one whose first project has nothing."""
    folder = tmp_path_factory.mktemp("projects")
    full, empty = World(folder / "full", make_package), World(folder / "empty", make_package)
    with pytest.MonkeyPatch.context() as patch:  # no webhook leaves this machine, and no package is proved in its own process
        patch.setattr(Sender, "send", _arrive)
        patch.setattr(packages, "prove_isolated", lambda *_, **__: None)
        controllers = Controllers(full.context)
        controllers.start()
        try:
            full.fill()
        finally:
            controllers.stop()
        empty.names = full.names
        yield full, empty
    full.context.database.close()
    empty.context.database.close()


def test_a_principal_sees_and_changes_nothing_of_another_project(worlds: tuple[World, World]) -> None:
    """Over all operations, twice: the replies do not depend on the other project, whose rows and blobs stay as they are."""
    full, empty = worlds
    before, blobs = full.rows(), full.blobs()
    assert {each.partition(":")[0] for each in before} == set(metadata.tables)
    for each in full.operations * 2:  # the second time with objects of its own
        reply = full.send(each, full.other)
        assert reply == empty.send(each, empty.other), each.name
        assert reply[0] < 500, each.name
    assert full.rows() == before
    assert blobs.items() <= full.blobs().items()


def test_without_the_wall_the_difference_is_found(worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements that are always bound to the first project change the replies of the operations that read."""
    full, _ = worlds
    reading = [each for each in full.operations if each.method == "GET" and each.permission != OPEN]
    before = {each.name: full.send(each, full.other) for each in reading}
    bound = binding._bound
    monkeypatch.setattr(binding, "_bound", lambda statement, _: bound(statement, PROJECT))
    changed = {each.name for each in reading if full.send(each, full.other) != before[each.name]}
    published, same_bytes = {"get_snapshot"}, {"download_package", "get_package"}
    assert changed == before.keys() - published - same_bytes


def test_a_statement_that_contains_another_query_is_refused(worlds: tuple[World, World]) -> None:
    """Its inner query would read the rows of every project."""
    with worlds[1].context.database.begin() as connection, pytest.raises(TypeError, match="another query"):
        connection.execute(select(keys).where(keys.c.id.in_(select(keys.c.id))))


def test_the_same_requests_do_reach_the_objects_of_their_own_project(worlds: tuple[World, World]) -> None:
    """Otherwise the first test would compare refusals only. The other project is found while the process runs."""
    world = worlds[0]
    world.add_project("c")
    context = world.context.projects["c"]
    third = world.callers(context)
    assert [each["name"] for each in third[0].get("/api/v1/keys").json()["items"]] == ["admin", "gateway"]
    same = {each.name for each in world.operations if world.send(each, third) == world.send(each, world.first)}
    alike = {"report", "keep_records", "create_key"}
    assert same == {each.name for each in world.operations if each.permission == OPEN} | alike
    world.context.find_projects()
    assert world.context.projects["c"] is context


def test_a_project_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """Neither while the process runs nor at its next start; nor does it keep webhooks of others from being called."""
    context = build_context(control_document(tmp_path))
    broken = {"name": "e", "generation": 1, "current": "gone:1", "policy": "{}", "signature": "{}", "changed_at_us": 1}
    with context.database.begin() as connection:
        epoch, _ = read_revision(connection)
        for name in ("a", "b"):
            connection.everywhere.execute(insert(stores).values(project=name, epoch=epoch, revision=1, event=0))
        connection.everywhere.execute(insert(endpoints).values(project="a", changed_by="me", **broken))
    for each in (context, build_context(control_document(tmp_path))):
        assert [one.database.project for one in each.find_projects()] == ["default", "b"]
        each.database.close()


def test_a_broken_default_project_refuses_its_own_requests_only(tmp_path: Path) -> None:
    """The control plane starts, with the others; the refusal says what is broken, and ends once that is mended."""
    first = build_context(control_document(tmp_path))
    broken = {"name": "e", "generation": 1, "current": "gone:1", "policy": "{}", "signature": "{}", "changed_at_us": 1}
    with first.database.begin() as connection:
        epoch, _ = read_revision(connection)
        connection.everywhere.execute(insert(stores).values(project="b", epoch=epoch, revision=1, event=0))
        connection.execute(insert(endpoints).values(changed_by="me", **broken))
    first.database.close()
    context = build_context(control_document(tmp_path))
    app = create_app(context)
    mine, other = client_of(context, app), client_of(context.projects["b"], app)
    refused = mine.get("/api/v1/endpoints")
    assert (refused.status_code, refused.json()["code"]) == (503, "project-cannot-be-read")
    assert "project default cannot be read: no such version: gone:1" in refused.text
    assert other.get("/api/v1/endpoints").json()["items"] == []
    assert [each.database.project for each in context.readable()] == ["b"]
    with context.database.begin() as connection:
        connection.execute(delete(endpoints))
    assert [each.database.project for each in context.find_projects()] == ["default", "b"]
    assert mine.get("/api/v1/endpoints").json()["items"] == []
    context.database.close()


@pytest.mark.parametrize("broken", ["a", "default"])
def test_a_project_whose_events_cannot_be_read_hides_no_other(tmp_path: Path, broken: str) -> None:
    """The control plane starts with all projects, and reads the events once they are mended."""
    first = build_context(control_document(tmp_path))
    with first.database.begin() as connection:
        epoch, _ = read_revision(connection)
        for name in ("a", "b"):
            connection.everywhere.execute(insert(stores).values(project=name, epoch=epoch, revision=1, event=0))
        connection.everywhere.execute(update(stores).where(stores.c.project == broken).values(event="?"))
    for each in (first, build_context(control_document(tmp_path))):
        assert [one.database.project for one in each.find_projects()] == ["default", "a", "b"]
    with first.database.begin() as connection:
        connection.everywhere.execute(update(stores).where(stores.c.project == broken).values(event=3))
    context = each.projects[broken]
    context.stream.look()
    assert context.stream.newest == 3
    for one in (first, each):
        one.database.close()
