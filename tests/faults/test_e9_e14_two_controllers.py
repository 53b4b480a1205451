"""E9, E14: two control planes on one PostgreSQL, as real processes, during a rollout: nothing is done or counted twice, and one
of them may be killed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.contract.snapshot import Snapshot, decode_snapshot
from roadworthy.contract.telemetry import READY, Telemetry, VersionState, WorkerReport, encode_telemetry
from tests import postgresql
from tests.control.fleet import FAST, LINE, ROLLOUTS, Fleet, begin, current, three_versions
from tests.control_plane import ControlProcess
from tests.waiting import eventually
from tests.webhooks.receiver import Receiver


class Twin(ControlProcess):
    """A control plane on a shared database and blob folder."""

    def __init__(self, folder: Path, url: str, like: ControlProcess | None = None) -> None:
        self._database_url = url
        self._like = like
        super().__init__(folder)

    def document(self, fd: int) -> dict[str, Any]:
        """The start document, with the database, the receivers' network, and the keys of the first one."""
        if self._like is not None:
            self.admin_id, self.admin_key = self._like.admin_id, self._like.admin_key
            self.gateway_id, self.gateway_key = self._like.gateway_id, self._like.gateway_key
        more = {"database_url": self._database_url, "webhook_networks": ["127.0.0.0/8"]}
        return {**super().document(fd), **more}


class Alternating(Fleet):
    """A data plane behind a load balancer: each call goes to the next control plane, each frame to all of them."""

    def __init__(self, clients: list[httpx.Client]) -> None:
        super().__init__(clients[0])
        self.clients = clients
        self._held: Snapshot | None = None

    def route_to(self, *clients: httpx.Client) -> None:
        """Use only these clients from now on."""
        self.clients = list(clients)
        self.gateway.client = clients[0]

    def snapshot(self) -> Snapshot:
        """The latest snapshot from any of them; asks one of them for a newer one, like an agent."""
        known = None if self._held is None else self._held.etag()
        reply = self.gateway.snapshot(known)
        if reply.status_code != 304:
            told = decode_snapshot(reply.content)
            assert told.supersedes(self._held), "it goes back"
            self._held = told
        assert self._held is not None
        return self._held

    def follow(self) -> Snapshot:
        """Take the latest snapshot from one, report to all at the same moment."""
        self.clients.append(self.clients.pop(0))
        self.gateway.client = self.clients[0]
        snapshot = self.frozen or self.snapshot()
        states = [self.states.get(package.digest, VersionState(package.digest, READY)) for package in snapshot.packages]
        worker = WorkerReport(0, 1, "w", snapshot.epoch, snapshot.revision, snapshot.revision, tuple(states))
        self.gateway.sequence += 1
        frame = encode_telemetry(self._frame(worker))
        replies: list[int] = []

        def post(client: httpx.Client) -> None:
            replies.append(client.post("/internal/v1/telemetry", content=frame).status_code)

        threads = [threading.Thread(target=post, args=(client,)) for client in self.clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies == [200] * len(self.clients)
        return snapshot

    def _frame(self, worker: WorkerReport) -> Telemetry:
        gateway = self.gateway
        return Telemetry(gateway.name, "boot-1", gateway.sequence, 1, (worker,), rollouts=self.counts(), run_times=self.run_times)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server."""
    with postgresql.running(tmp_path_factory) as started:
        yield started


@pytest.fixture
def twins(server: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Twin, Twin]]:
    """Two control planes; the first one leads."""
    url = postgresql.database(server, request.node.name)
    first = Twin(tmp_path / "control", url)
    second = Twin(tmp_path / "control", url, first)
    yield first, second
    first.kill()
    second.kill()


@pytest.fixture
def admins(twins: tuple[Twin, Twin]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The same administrator at both."""
    with twins[0].client(twins[0].admin_key) as first, twins[1].client(twins[1].admin_key) as second:
        yield first, second


@pytest.fixture
def fleet(
    twins: tuple[Twin, Twin],
    admins: Any,
    make_package: Callable[..., Path],
) -> Iterator[Alternating]:
    """A data plane with three versions, the first one serving."""
    with twins[0].client(twins[0].gateway_key) as one, twins[1].client(twins[1].gateway_key) as two:
        found = Alternating([one, two])
        three_versions(admins[0], found, make_package)
        eventually(lambda: found.follow().endpoints, "gateways have the endpoint")
        yield found


def serve_until(fleet: Alternating, admin: httpx.Client, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Serve without errors until `true` holds for the rollout."""

    def look() -> bool:
        fleet.serve(200)
        return true(current(admin))

    eventually(look, "the rollout gets there")
    return current(admin)


def whole(admin: httpx.Client, fleet: Alternating, ended: dict[str, Any], receiver: Receiver) -> None:
    """Check that every step, event and request exists once."""
    trail = admin.get("/api/v1/audit", params={"last": 1000}).json()["items"]
    steps = Counter(entry["detail"]["generation"] for entry in trail if entry["verb"] == "rollout-split")
    assert set(steps.values()) == {1}
    assert [entry["verb"] for entry in trail].count("rollout-promoted") == 1
    told = admin.get("/api/v1/events").json()["items"]
    assert [each["number"] for each in told] == list(range(1, len(told) + 1))
    drawn = sum(cell[0] for (_, variant), cell in fleet.served[ended["id"]].items() if variant == "canary")
    finding = ended["verdict"]["findings"][0]
    assert 0 < finding["samples"] <= drawn
    receiver.first("rollout.promoted")
    order = list(dict.fromkeys(each.event["number"] for each in receiver.received))
    assert order == [each["number"] for each in told]


def test_two_control_planes_drive_one_rollout(admins: tuple[httpx.Client, httpx.Client], fleet: Alternating) -> None:
    """Frames go to both at once, commands to either: each step happens once, takes its time, and calls each webhook once."""
    with Receiver() as receiver:
        admins[1].post("/api/v1/webhooks", json={"url": receiver.url}).raise_for_status()
        begin(admins[1], plan={**FAST, "hold": 1})
        ended = serve_until(fleet, admins[0], lambda rollout: rollout["phase"] == "finished")
        assert ended["outcome"] == "promoted"
        assert current(admins[1]) == ended
        whole(admins[0], fleet, ended, receiver)
        ids = [each.id for each in receiver.received]
        assert len(ids) == len(set(ids))
        assert admins[1].get(LINE).json()["version"] == "line:2"


def test_e14_the_other_one_goes_on_when_the_one_that_leads_is_killed(
    twins: tuple[Twin, Twin], admins: tuple[httpx.Client, httpx.Client], fleet: Alternating
) -> None:
    """kill -9 during a step: the rollout ends as without it, and no count is lost or doubled."""
    with Receiver() as receiver:
        admins[0].post("/api/v1/webhooks", json={"url": receiver.url}).raise_for_status()
        begin(admins[0], plan={**FAST, "hold": 2})
        before = serve_until(fleet, admins[1], lambda rollout: rollout["share"] == 50)
        twins[0].kill()
        with twins[1].client(twins[1].gateway_key) as alone:
            fleet.route_to(alone)
            ended = serve_until(fleet, admins[1], lambda rollout: rollout["phase"] == "finished")
        assert (ended["id"], ended["outcome"]) == (before["id"], "promoted")
        whole(admins[1], fleet, ended, receiver)


def test_a_broken_canary_goes_back_whichever_control_plane_gets_the_frames(
    admins: tuple[httpx.Client, httpx.Client], fleet: Alternating
) -> None:
    """Frames that only the follower gets take effect at the leader's next look."""
    begin(admins[0])
    eventually(lambda: len(fleet.follow().endpoints[0].split) == 2, "the canary gets its share")
    fleet.route_to(*(client for client in fleet.clients if client.base_url == admins[1].base_url))
    fleet.serve(60, canary_bad=3)
    eventually(lambda: fleet.follow() and current(admins[1])["phase"] == "finished", "it goes back")
    assert current(admins[0])["outcome"] == "rolled-back"


def test_e9_two_that_start_at_once_get_one_rollout(admins: tuple[httpx.Client, httpx.Client], fleet: Alternating) -> None:
    """At two control planes at the same moment, many times: one begins, the other answers with that rollout."""
    together = threading.Barrier(2)
    replies: list[httpx.Response] = []

    def start(admin: httpx.Client, version: str) -> None:
        together.wait()
        replies.append(admin.post(ROLLOUTS, json={"version": version, "plan": FAST}))

    for _ in range(5):
        replies.clear()
        threads = [threading.Thread(target=start, args=pair) for pair in zip(admins, ("line:2", "line:3"), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(reply.status_code for reply in replies) == [201, 409]
        refused = next(reply for reply in replies if reply.status_code == 409).json()
        assert refused["code"] == "rollout-running"
        admins[0].post(f"{ROLLOUTS}/current:abort").raise_for_status()
        eventually(lambda: fleet.follow() and current(admins[1])["phase"] == "finished", "it is over")


def test_what_one_does_the_other_knows(
    twins: tuple[Twin, Twin], admins: tuple[httpx.Client, httpx.Client], fleet: Alternating
) -> None:
    """A key made at one is valid at the other; a snapshot from one is never followed by an older one from the other."""
    made = admins[0].post("/api/v1/keys", json={"role": "admin"}).json()["key"]
    with closing(twins[1].client(made)) as newcomer:
        eventually(lambda: newcomer.get("/api/v1/keys").status_code == 200, "the key is known there")
    for _ in range(20):
        admins[0].post("/api/v1/keys", json={"role": "predictor"}).raise_for_status()
        seen = [
            client.get("/internal/v1/snapshot", headers={"If-None-Match": etag}, params={"wait_s": 0})
            for client, etag in ((fleet.clients[0], ""), (fleet.clients[1], ""))
        ]
        newest = max(seen, key=lambda reply: int(reply.headers["etag"].strip('"').rpartition(":")[2]))
        for client in fleet.clients:
            known = {"If-None-Match": newest.headers["etag"]}
            assert client.get("/internal/v1/snapshot", headers=known).status_code == 304
