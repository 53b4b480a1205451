"""Shared by several folders of tests: real worker processes with planted models, and an agent at the other end of their link."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, settings

from roadworthy.cli.plans import worker_options
from roadworthy.contract.local import HELLO, RECORDS, REPORT, SNAPSHOT
from roadworthy.contract.policy import Policy
from roadworthy.contract.record import PredictionRecord
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, Snapshot, VariantEntry, encode_snapshot
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.foundation.frames import encode_frame
from roadworthy.foundation.slab import create_slab
from roadworthy.foundation.sockets import listen
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.defaults import default_settings
from tests.machine import WarmCommands
from tests.records import unpack
from tests.waiting import DEADLINE_S, NO_TLS, eventually
from tests.warm import WarmProcess, nursery

pytest_plugins = ["tests.control_plane", "tests.older", "tests.tiers", "tests.warm_replays"]
WORKER = "roadworthy.gateway.worker"
# Threads of OpenMP otherwise spin while they wait: with more processes than cores, fitting a small model takes ten times the
# processor time. Read when scikit-learn is first imported, here and in every process that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell's background job ignores SIGINT, and so would all processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
PLANTED_WORKER = Path(__file__).parent / "gateway" / "planted_worker.py"

# The duration of an example means nothing on a busy machine.
settings.register_profile("roadworthy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("roadworthy")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without collecting garbage: nearly all that is made here stays, and each look at it takes longer."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def digest_of(number: int) -> str:
    """A digest for planted package `number`."""
    return f"sha256:{number:064x}"


SUM = Signature(
    inputs=tuple(Field(name, DType.FLOAT64) for name in ("a", "b", "c")),
    outputs=(Field("total", DType.FLOAT64),),
    container=Container.DATAFRAME,
)


@dataclass
class Plan:
    """Packages, endpoints and keys from which a snapshot is made."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: list[PackageEntry] = field(default_factory=list)
    endpoints: list[EndpointEntry] = field(default_factory=list)

    def package(self, number: int, kind: str = "sum", signature: Signature = SUM, name: str = "m") -> str:
        """Add a planted package as version `number` of model `name`."""
        digest = digest_of(number)
        self.models[digest] = {"kind": kind, "signature": signature.to_document()}
        self.packages.append(PackageEntry(digest, name, number, 1))
        return digest

    def endpoint(self, name: str, digests: Sequence[str], policy: Policy | None = None, generation: int = 1) -> None:
        """Add an endpoint, or replace it, with equal shares of `digests`."""
        variants = tuple(VariantEntry(digest, 10_000 // len(digests)) for digest in digests)
        entry = EndpointEntry(name, generation, variants, self.models[digests[0]]["signature"], policy or Policy())
        self.endpoints = [known for known in self.endpoints if known.name != name] + [entry]

    def snapshot(self, revision: int = 1, epoch: str = "e", keys: Any = None) -> Snapshot:
        """The snapshot of everything that was added."""
        return Snapshot(epoch, revision, tuple(self.packages), tuple(self.endpoints), keys)


class RunningWorker:
    """A worker process and an HTTP client to it."""

    def __init__(self, folder: Path, plan: Plan, snapshot: Snapshot | None, options: dict[str, Any]) -> None:
        self.folder = folder
        (folder / "packages").mkdir(parents=True, exist_ok=True)
        for package in plan.packages:
            self.provide(package.digest)
        if snapshot is not None:
            (folder / "snapshot.json").write_bytes(encode_snapshot(snapshot))
        create_slab(folder / "run" / "slab", 2)
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        document = {
            **worker_options(default_settings()),
            "folder": str(folder), "fd": listener.fileno(), "slot": 0, "slab": str(folder / "run" / "slab"), **options,
        }  # fmt: skip
        command = options.pop("command", None) or [str(PLANTED_WORKER)]
        document.pop("command", None)
        if str(PLANTED_WORKER) in command:
            document["models"] = plan.models
        self.log = (folder / "log").open("ab")
        self.process: WarmProcess | subprocess.Popen[bytes]
        if command in ([str(PLANTED_WORKER)], ["-m", WORKER]):
            self.process = nursery(WORKER).start(command, descriptors=[listener.fileno()], stderr=self.log.fileno())
        else:
            self.process = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.PIPE, stderr=self.log, pass_fds=[listener.fileno()]
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(document).encode() + b"\n")
        self.process.stdin.flush()
        listener.close()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=DEADLINE_S, verify=NO_TLS)

    def provide(self, digest: str) -> None:
        """Put the package of `digest` into the worker's package folder."""
        (self.folder / "packages" / digest[7:]).touch()

    def predict(self, endpoint: str, rows: Any, **more: Any) -> httpx.Response:
        """POST rows to :predict."""
        return self.client.post(f"/v1/models/{endpoint}:predict", json={"instances": rows}, **more)

    def post(self, endpoint: str, body: bytes, **headers: str) -> httpx.Response:
        """POST raw bytes to :predict as JSON."""
        sent = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return self.client.post(f"/v1/models/{endpoint}:predict", content=body, headers=sent)

    def wait_ready(self) -> RunningWorker:
        """Wait until the probe is positive."""
        eventually(self._is_ready, "the worker is ready")
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, "the worker has ended"
        return self.client.get("/readyz").status_code == 200

    def open_gate(self) -> None:
        """Let models of the kind "gated" answer."""
        (self.folder / "gate").touch()

    def close_gate(self) -> None:
        """Make models of the kind "gated" wait, from their next run on."""
        (self.folder / "gate").unlink()

    def exchange(self, data: bytes) -> bytes:
        """Send raw bytes on a new connection, and return the complete answer."""
        reply, length = b"", 0
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as connection:
            connection.sendall(data)
            while b"\r\n\r\n" not in reply or len(reply.partition(b"\r\n\r\n")[2]) < length:
                part = connection.recv(65536)
                if not part:
                    break
                reply += part
                if found := re.search(rb"content-length: (\d+)", reply):
                    length = int(found[1])
        return reply

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.log.close()


StartWorker = Callable[..., RunningWorker]


def _starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    running: list[tuple[RunningWorker, str]] = []  # with the test that started it, "" for one that a fixture started

    def start(plan: Plan, **options: Any) -> RunningWorker:
        folder = options.pop("folder", None) or tmp_path_factory.mktemp("gateway")
        snapshot = options.pop("snapshot", plan.snapshot())
        test, _, phase = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")
        for left in [each for each in running if each[1] not in ("", test)]:
            running.remove(left)
            left[0].stop()
        running.append((RunningWorker(folder, plan, snapshot, options), test if phase == "(call)" else ""))
        return running[-1][0]

    yield start
    for worker, _ in running:
        worker.stop()


@pytest.fixture(scope="module")
def start_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    """Starts worker processes from a plan: `start_worker(plan, snapshot=…, folder=…, **start document)`. One that a test itself
    started, and no fixture, ends when a later test starts another."""
    yield from _starter(tmp_path_factory)


@pytest.fixture(scope="session")
def lasting_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    """As `start_worker`, for fixtures whose processes many files of tests share."""
    yield from _starter(tmp_path_factory)


@pytest.fixture(scope="module")
def warm_services() -> Iterator[None]:
    """Lets the installations of `bench.service` start warm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.service.subprocess", WarmCommands())
        yield


@pytest.fixture(scope="session")
def make_plan() -> type[Plan]:
    """The class that makes snapshots for planted workers."""
    return Plan


class PlantedAgent:
    """The other end of a worker's link: sends snapshots, stores what it receives."""

    def __init__(self, folder: Path) -> None:
        self.reports: list[WorkerReport] = []
        self.records: list[PredictionRecord] = []
        (folder / "run").mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(folder / "run", os.O_RDONLY)
        self._listener.bind(f"/proc/self/fd/{directory}/agent.sock")
        os.close(directory)
        self._listener.listen()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def offer(self, snapshot: Snapshot) -> None:
        """Send a snapshot to the worker, once it is connected."""
        eventually(lambda: self._connection, "the worker connects")
        assert self._connection is not None
        self._connection.sendall(encode_frame(SNAPSHOT, encode_snapshot(snapshot)))

    def last(self) -> WorkerReport:
        """The latest report."""
        return eventually(lambda: self.reports, "the worker reports")[-1]

    def close(self) -> None:
        """End the link; the worker continues."""
        for end in (self._connection, self._listener):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._thread.join(DEADLINE_S)

    def _serve(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._connection, _ = self._listener.accept()
            while True:
                head = self._exactly(5)
                payload = self._exactly(int.from_bytes(head[:4], "little"))
                if head[4] in (HELLO, REPORT):
                    self.reports.append(msgspec.json.decode(payload, type=WorkerReport))
                elif head[4] == RECORDS:
                    # Sorted by the ids' counter into the order of the requests, since a frame has them by kind.
                    self.records.extend(sorted(unpack(payload), key=lambda record: record.id[-10:]))

    def _exactly(self, size: int) -> bytes:
        assert self._connection is not None
        data = b""
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts Redis servers: `start_redis("--maxmemory", "2mb")`. Without Redis it fails in CI, and skips elsewhere."""
    from tests.redis_servers import RealRedis

    made: list[RealRedis] = []

    def start(*options: str) -> RealRedis:
        made.append(RealRedis(tmp_path_factory.mktemp("r"), *options))
        return made[-1].start()

    yield start
    for server in made:
        server.close()


@pytest.fixture
def planted_agent() -> Iterator[Callable[[Path], PlantedAgent]]:
    """Opens agents at a gateway folder's socket."""
    opened: list[PlantedAgent] = []

    def make(folder: Path) -> PlantedAgent:
        opened.append(PlantedAgent(folder))
        return opened[-1]

    yield make
    for agent in opened:
        agent.close()
