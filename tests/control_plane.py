"""A real control plane in a separate process, clients and gateways that talk to it over HTTP, and small real packages."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pytest

from roadworthy.contract.snapshot import decode_snapshot
from roadworthy.contract.telemetry import READY, Telemetry, VersionState, WorkerReport, encode_telemetry
from roadworthy.foundation.keys import make_key
from roadworthy.foundation.sockets import listen
from tests.defaults import control_document
from tests.waiting import DEADLINE_S, NO_TLS, eventually
from tests.warm import WarmProcess, nursery

LINES = (2.0, 3.0, 4.0)
"""The factors of the versions in most rollout tests."""
AHEAD = Path(__file__).parent / "control" / "ahead.py"
MODULES = ("roadworthy.control.__main__", "alembic.command", "alembic.config", "pydantic.v1")
"""The control plane's main module, and what it imports while it creates its database and its routes."""


class ControlProcess:
    """A control plane with an admin key and a gateway key. `under`: a program that runs its module, with arguments. `seed`: the
    folder of a stopped one to continue from. `log`: destination of its log instead of the tests' standard error."""

    GATEWAY = "pool"
    """Name of the gateway key."""
    log: IO[bytes] | None = None

    def __init__(self, folder: Path, *under: str | Path, seed: Path | None = None) -> None:
        if seed is not None:
            shutil.copytree(seed, folder)
        self.folder = folder
        self._under = under or ("-m",)
        self.admin_id, self.admin_key = make_key()
        self.gateway_id, self.gateway_key = make_key()
        self.process: WarmProcess | None = None
        self.start()

    def document(self, fd: int) -> dict[str, Any]:
        """The start document."""
        return {
            **control_document(self.folder),
            "host": "127.0.0.1",
            "port": 0,
            "fd": fd,
            "bootstrap_keys": [
                {"id": self.admin_id, "key": self.admin_key, "role": "admin"},
                {"id": self.gateway_id, "key": self.gateway_key, "role": "gateway", "name": self.GATEWAY},
            ],
            "allowed_hosts": ["models.example"],
            "log_level": "warning",
            "max_package_bytes": 32 << 20,
        }

    def start(self, port: int = 0) -> None:
        """Start the process and wait until it is ready."""
        listener = listen("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.process = nursery(*MODULES).start(
            [*self._under, "roadworthy.control"],
            descriptors=[listener.fileno()],
            stderr=2 if self.log is None else self.log.fileno(),
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.document(listener.fileno())).encode() + b"\n")
        self.process.stdin.flush()
        listener.close()
        try:
            eventually(self._is_ready, "the control plane is ready")
        except AssertionError:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the control plane has ended"
        return httpx.get(f"{self.url}/readyz", timeout=DEADLINE_S, verify=NO_TLS).status_code == 200

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def stop(self) -> None:
        """SIGTERM."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0
        self.kill()

    def client(self, key: str | None) -> httpx.Client:
        """A client with a key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)


class FakeGateway:
    """Uses the internal API like an agent, for one gateway with one worker."""

    def __init__(self, client: httpx.Client, name: str) -> None:
        self.client = client
        self.name = name
        self.sequence = 0

    def snapshot(self, etag: str | None = None, wait_s: float = 0.0) -> httpx.Response:
        """One long poll."""
        headers = {} if etag is None else {"If-None-Match": etag}
        return self.client.get("/internal/v1/snapshot", params={"wait_s": wait_s}, headers=headers)

    def published(self, admin: httpx.Client, endpoint: str = "line") -> dict[str, Any]:
        """The snapshot as soon as it has what the endpoint shows: it is published after the transaction of a change."""
        revision = admin.get(f"/api/v1/endpoints/{endpoint}").json()["revision"]
        found: dict[str, Any] = {}

        def look() -> bool:
            found.update(self.snapshot().json())
            return bool(found["revision"] >= revision)

        eventually(look, "it is published")
        return found

    def report(self, *states: VersionState, sequence: int | None = None, **fields: Any) -> httpx.Response:
        """One telemetry frame of a worker with these version states."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        workers = fields.pop("workers", None) or (self.worker(*states),)
        frame = Telemetry(
            gateway=self.name,
            boot="boot-1",
            sequence=sequence,
            at_us=1,
            workers=workers,
            **fields,
        )
        return self.client.post("/internal/v1/telemetry", content=encode_telemetry(frame))

    def worker(self, *states: VersionState, slot: int = 0) -> WorkerReport:
        """The report of a worker that has taken the newest snapshot."""
        taken = decode_snapshot(self.snapshot().content)
        at = (taken.epoch, taken.revision, taken.revision)
        return WorkerReport(slot, 1 + slot, "w", *at, versions=tuple(states))

    def ready(self, *digests: str) -> None:
        """Report digests READY."""
        reply = self.report(*(VersionState(digest, READY, "native") for digest in digests))
        assert reply.status_code == 200, reply.text


def endpoint_when(admin: httpx.Client, true: Callable[[dict[str, Any]], Any], name: str = "line") -> dict[str, Any]:
    """The endpoint as soon as it satisfies the condition: controllers look after a report, not within it."""
    found: dict[str, Any] = {}

    def look() -> Any:
        found.update(admin.get(f"/api/v1/endpoints/{name}").json())
        return true(found)

    eventually(look, f"{name} gets there")
    return found


def serving(admin: httpx.Client, version: str) -> dict[str, Any]:
    """The endpoint `line` as soon as it serves this version."""
    return endpoint_when(admin, lambda found: found["version"] == version)


@pytest.fixture
def ahead_s(tmp_path: Path) -> Path:
    """The file with the lead of the control plane's clock in seconds, which the test may change."""
    path = tmp_path / "ahead_s"
    path.write_text("0")
    return path


@pytest.fixture(scope="session")
def three_lines(make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a control plane to which `line` was pushed three times. A control plane that starts with it already has the
    versions of `fleet.three_versions`, proved."""
    process = ControlProcess(tmp_path_factory.mktemp("three") / "control")
    with process.client(process.admin_key) as admin:
        for factor in LINES:
            reply = admin.post("/api/v1/packages", content=make_package(factor=factor).read_bytes())
            assert reply.status_code == 201, reply.text
    process.stop()
    return process.folder


@pytest.fixture
def seed() -> Path | None:
    """The folder with which `control` starts: none. Test files that push three versions of `line` override it: `three_lines`."""
    return None


@pytest.fixture
def control(tmp_path: Path, ahead_s: Path, seed: Path | None) -> Iterator[ControlProcess]:
    """A control plane for one test, with long timeouts for the tests' fake gateways (control/ahead.py)."""
    process = ControlProcess(tmp_path / "control", AHEAD, ahead_s, seed=seed)
    yield process
    process.kill()


@pytest.fixture
def admin(control: ControlProcess) -> Iterator[httpx.Client]:
    """A client with the admin key."""
    with control.client(control.admin_key) as client:
        yield client


@pytest.fixture
def gateway(control: ControlProcess) -> Iterator[FakeGateway]:
    """A gateway."""
    with control.client(control.gateway_key) as client:
        yield FakeGateway(client, "gw-1")


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Packs y = factor · x as an ONNX graph (data) or as a Python function (code); returns the .rw file."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(name: str = "line", factor: float = 2.0, *, code: bool = False, width: int = 3) -> Path:
        key = (name, factor, code, width)
        if key not in made:
            made[key] = _pack(name, factor, code, width, tmp_path_factory.mktemp("dist"))
        return made[key]

    return make


def _pack(name: str, factor: float, code: bool, width: int, out: Path) -> Path:
    from onnx import TensorProto, helper

    from roadworthy.package.packing.pack import pack

    rows = np.arange(8.0 * width).reshape(8, width)
    if code:
        return pack(lambda x: x.sum(axis=1) * factor, name=name, inputs=rows, out=out).path
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "f"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor("f", TensorProto.DOUBLE, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return pack(model, name=name, inputs=rows, out=out).path


@pytest.fixture
def push(admin: httpx.Client, make_package: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    """Pushes a package and returns the version's document."""

    def go(**options: Any) -> dict[str, Any]:
        reply = admin.post("/api/v1/packages", content=make_package(**options).read_bytes())
        assert reply.status_code in (200, 201), reply.text
        return dict(reply.json())

    return go
