"""A real agent process, a small control plane for it, and a worker's end of the registry's socket."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from roadworthy.cli.plans import agent_options
from roadworthy.contract.local import HELLO, RECORDS, REPORT, SNAPSHOT
from roadworthy.contract.record import PredictionRecord
from roadworthy.contract.snapshot import PackageEntry, Snapshot, decode_snapshot, encode_snapshot
from roadworthy.contract.telemetry import Telemetry, WorkerReport, decode_telemetry
from roadworthy.foundation.frames import encode_frame
from roadworthy.foundation.slab import SlabReader, SlotWriter, create_slab
from roadworthy.foundation.sockets import listen, unix_address
from tests.defaults import default_settings
from tests.records import pack
from tests.waiting import DEADLINE_S, eventually
from tests.warm import nursery

GATEWAY_KEY = "rw_abcdefgh_gatewaygateway"


class FakeControl:
    """The internal API of a control plane, by hand: what the agent asks for is planted, what it sends is kept."""

    def __init__(self, port: int = 0) -> None:
        self.snapshot: bytes | None = None
        self.etag = ""
        self.packages: dict[str, bytes] = {}
        self.records: dict[str, bytes] = {}
        self.frames: list[Telemetry] = []
        self.refuse_frames = 0
        self.takes: Callable[[Telemetry], bool] = lambda frame: True
        self.faults: list[str] = []
        self._offered = threading.Condition()
        fake_control = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(*fake_control.get(self.path, self.headers))

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(*fake_control.put(self.path, body))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(*fake_control.post(body))

            def _answer(self, status: int, body: bytes = b"", etag: str = "") -> None:
                if self.headers["Authorization"] != f"Bearer {GATEWAY_KEY}":
                    fake_control.faults.append(f"{self.path} without the key")
                self.send_response(status)
                if etag:
                    self.send_header("ETag", etag)
                if status not in (204, 304):
                    self.send_header("Content-Length", str(len(body)))
                with contextlib.suppress(OSError):  # the agent may have gone while it waited
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def offer(self, snapshot: Snapshot) -> None:
        """The snapshot in force from now on."""
        with self._offered:
            self.etag, self.snapshot = snapshot.etag(), encode_snapshot(snapshot)
            self._offered.notify_all()

    def get(self, path: str, headers: Any) -> tuple[int, bytes, str]:
        """The long poll, and packages."""
        if path.startswith("/internal/v1/packages/"):
            data = self.packages.get(path.rpartition("/")[2])
            return (404, b"", "") if data is None else (200, data, "")
        known, longest_s = headers.get("If-None-Match"), min(float(path.rpartition("=")[2]), 3.0)
        with self._offered:
            self._offered.wait_for(lambda: self.snapshot is not None and known != self.etag, longest_s)
            if self.snapshot is None or known == self.etag:
                return 304, b"", self.etag
            return 200, self.snapshot, self.etag

    def put(self, path: str, body: bytes) -> tuple[int, bytes]:
        """One record file."""
        self.records[path.removeprefix("/internal/v1/records/")] = body
        return 204, b""

    def post(self, body: bytes) -> tuple[int, bytes]:
        """One telemetry frame; refused as often as `refuse_frames` says, and for good where `takes` says no."""
        if self.refuse_frames > 0:
            self.refuse_frames -= 1
            return 503, b"{}"
        frame = decode_telemetry(body)
        if not self.takes(frame):
            return 400, b'{"code": "malformed-telemetry"}'
        self.frames.append(frame)
        return 200, json.dumps({"accepted": frame.sequence}).encode()

    def close(self) -> None:
        """Gone: connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


SLOTS, FIRST_MEMBER = 11, 8
"""The agents' slabs have eight slots of workers and two of embedded endpoints."""


class WorkerEnd:
    """A worker's connection to the agent. It says who it is with the first thing that it sends or awaits. `slot`: the one that it
    has unless it says another."""

    def __init__(self, folder: Path, slot: int = 0) -> None:
        self._slab = folder / "run" / "slab"
        self._slot, self._is_known = slot, False
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        with unix_address(folder / "run" / "agent.sock") as address:
            self.socket.connect(address)

    def report(self, report: WorkerReport, kind: int = REPORT) -> None:
        """Say how things are."""
        self.socket.sendall(encode_frame(kind, msgspec.json.encode(report)))

    def hello(self, slot: int | None = None, **more: Any) -> WorkerReport:
        """Say who this is."""
        if not self._is_known:
            self._slot = self._slot if slot is None else slot
            if SlabReader(self._slab).status(self._slot).pid != os.getpid():
                SlotWriter(self._slab, self._slot).take()
            self._is_known = True
        report = WorkerReport(**{"slot": self._slot, "pid": 1, "boot": "b", "epoch": None, "revision": 0, "offered": 0} | more)
        self.report(report, HELLO)
        return report

    def send_records(self, records: list[PredictionRecord]) -> None:
        """One frame of records."""
        self._be_known()
        self.socket.sendall(encode_frame(RECORDS, pack(records)))

    def snapshot(self) -> Snapshot:
        """The next snapshot that arrives."""
        self._be_known()
        head = self._exactly(5)
        assert head[4] == SNAPSHOT
        return decode_snapshot(self._exactly(int.from_bytes(head[:4], "little")))

    def _be_known(self) -> None:
        if not self._is_known:
            self.hello()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the agent closed the connection"
            data += part
        return data

    def close(self) -> None:
        """Gone."""
        self.socket.close()


MAIN = """
import importlib, json, sys
for name, value in json.loads(sys.argv[1]).items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module("roadworthy.agent." + module), constant, value)
sys.exit(importlib.import_module("roadworthy.agent.__main__").main())
"""


PATIENT = {"__main__.LAST_ATTEMPT_S": DEADLINE_S}
"""Constants of agents that write and ship all that is left before they stop, however busy the machine is."""
OFTEN = {"sync.shipping.TELEMETRY_EVERY_S": 0.2, "sync.sync.LOOK_S": 0.2, "records.pacing.OLD_S": 0.5}
"""Constants of the agents here: tests wait for the next frame, for the next look at the packages' folder, and for record files,
however busy the machine is."""


class RunningAgent:
    """An agent process over a gateway folder. `constants`: other values, {"sync.shipping.TELEMETRY_EVERY_S": 3_600.0}."""

    def __init__(self, folder: Path, constants: dict[str, float] | None = None, **document: Any) -> None:
        self.folder = folder
        self._workers: list[WorkerEnd] = []
        self.slab = folder / "run" / "slab"
        if not self.slab.exists():
            create_slab(self.slab, SLOTS, members=2, names=1_024, cells=8_192)
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        whole = {
            **agent_options(default_settings()), "gateway": "local", "folder": str(folder), "slab": str(self.slab),
            "metrics_fd": listener.fileno(), **document,
        }  # fmt: skip
        self.log = (folder / "log").open("ab")
        self.process = nursery("roadworthy.agent.__main__").start(
            ["-c", MAIN, json.dumps({**OFTEN, **(constants or {})})],
            descriptors=[listener.fileno()],
            stderr=self.log.fileno(),
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(whole).encode() + b"\n")
        self.process.stdin.flush()
        listener.close()
        eventually(lambda: self._is_up() or self.process.poll() is not None, "the agent is up")

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get("/livez"))
        return False

    def get(self, path: str) -> bytes:
        """A page of the agent's HTTP server."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=DEADLINE_S) as reply:
            return bytes(reply.read())

    def metrics(self) -> dict[str, float]:
        """All samples of a scrape."""
        lines = (line for line in self.get("/metrics").decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def worker(self) -> WorkerEnd:
        """Connect as a worker."""
        self._workers.append(WorkerEnd(self.folder, len(self._workers) % FIRST_MEMBER))
        return self._workers[-1]

    def files(self) -> list[Path]:
        """Finished record files, oldest first."""
        return sorted((self.folder / "records").glob("[!.]*.parquet"), key=lambda path: path.stem.rpartition("-")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal and wait; the exit status. All workers are gone before."""
        while self._workers:
            self._workers.pop().close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.log.close()


@pytest.fixture
def fake_control() -> Iterator[FakeControl]:
    """A control plane of its own."""
    control = FakeControl()
    yield control
    control.close()
    assert control.faults == []


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., RunningAgent]]:
    """Starts agents over the test's folder; a control plane is named by `control=`."""
    running: list[RunningAgent] = []

    def start(control: FakeControl | None = None, **document: Any) -> RunningAgent:
        if control is not None:
            document = {"control_url": control.url, "key": GATEWAY_KEY, **document}
        running.append(RunningAgent(tmp_path, **document))
        return running[-1]

    yield start
    for agent in running:
        agent.stop()


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackageEntry, bytes]:
    """A real package: its entry in a snapshot, and the bytes of its file."""
    import roadworthy as rw

    def double(x: Any) -> Any:
        return np.asarray(x)[:, 0] * 2.0

    folder = tmp_path_factory.mktemp("dist")
    package = rw.pack(double, name="double", inputs=np.arange(20.0).reshape(10, 2), out=folder, compile=False)
    data = next(folder.glob("*.rw")).read_bytes()
    return PackageEntry(package.digest, "double", 1, len(data), allowed_by="key-test"), data
