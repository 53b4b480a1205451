"""Real runners behind the launcher: their answers, and the handling of code that cannot be confined."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roadworthy as rw
from roadworthy.agent.runners import watch as runner_watch
from roadworthy.agent.runners.watch import DISK, KILL, Growth, RunnerWatch
from roadworthy.foundation.confine.plan import BEST_EFFORT, REQUIRED, Bounds
from roadworthy.package.archive import unpack
from roadworthy.runtime.placement import Placed
from roadworthy.runtime.runners.isolated.launch import (
    RunnerStart,
    confined_command,
    confinement,
    runner_address,
    runner_document,
)
from roadworthy.runtime.runners.isolated.state import READY, RunnerState
from tests.faults.g5_surroundings import WITHOUT
from tests.runtime.runners.isolated.runners import Caller, play, rows
from tests.waiting import eventually

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, rw.Package]:
    """A callable, which is code, and a graph, which is data."""
    import onnx
    from onnx import TensorProto, helper

    out = tmp_path_factory.mktemp("dist")
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0, axes=[1])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 3])],
        [helper.make_tensor_value_info("total", TensorProto.DOUBLE, [None])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), out / "sum.onnx")
    inputs = np.random.default_rng(0).random((40, 3))
    with contextlib.chdir(out):
        code = rw.pack(lambda rows: rows.sum(axis=1), name="code", inputs=inputs, out=out, compile=False)
    return {"code": code, "data": rw.pack(out / "sum.onnx", name="data", inputs=inputs, out=out)}


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder outside the gateway's private surroundings, unlike pytest's folders."""
    with tempfile.TemporaryDirectory(prefix="roadworthy-g5-") as folder:
        yield Path(folder).resolve()


@pytest.fixture
def start(packages: dict[str, rw.Package], tmp_path: Path) -> Iterator[Start]:
    """Starts a confined runner of a package on a machine without some features: `start(name, policy, *without)`."""
    with contextlib.ExitStack() as stack:

        def begin(
            name: str,
            policy: str = REQUIRED,
            *without: str,
            grants: tuple[str, ...] = (),
            allowed: tuple[str, ...] = (),
        ) -> tuple[subprocess.Popen[bytes], Path, str]:
            package = packages[name]
            assert package.path is not None
            folder = tmp_path / "packages" / package.digest.removeprefix("sha256:")
            if not folder.exists():
                unpack(package.path, folder)
            address = runner_address(tmp_path, package.digest)
            address.parent.mkdir(parents=True, exist_ok=True)
            open_for_it = confinement(tmp_path, package.digest, address, Bounds(policy, allowed), grants)
            told = RunnerStart(str(tmp_path), package.digest, str(address), 120.0, "me", confine=open_for_it)
            line, end = socket.socketpair()
            stack.callback(line.close)
            process = subprocess.Popen(
                [sys.executable, str(WITHOUT), str(os.geteuid()), ",".join(without), *confined_command()],
                stdin=end.fileno(),
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            end.close()
            line.sendall(json.dumps(runner_document(told)).encode() + b"\n")
            eventually(lambda: RunnerState.read(address), "it takes its address")
            return process, address, package.digest

        yield begin


def test_g5_a_confined_runner_answers(start: Start, tmp_path: Path) -> None:
    """Through the socket inherited from the launcher, with tensors in its caller's shared memory."""
    process, address, digest = start("code")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)) == ("1", "2", 0)

    async def scene(caller: Caller) -> None:
        assert await caller.ask(rows(1.0, 2.0), rows(*map(float, range(9_000)))) == [
            [1.0, 2.0],
            list(map(float, range(9_000))),
        ]

    play(tmp_path, scene, digest=digest)
    assert {path.name for path in address.parent.iterdir()} == {
        "runner.sock",
        "runner.sock.state",
        f"runner.sock.{process.pid}.state",
    }


def refused_as(code: str) -> Callable[[Caller], Awaitable[None]]:
    """A scene in which callers get a refusal with that code."""

    async def refused(caller: Caller) -> None:
        await caller.until(lambda: caller.batcher.refusal)
        assert caller.batcher.refusal is not None
        assert caller.batcher.refusal.code == code

    return refused


async def answers(caller: Caller) -> None:
    """A scene in which the runner answers."""
    assert await caller.ask(rows(1.0, 2.0)) == [[1.0, 2.0]]


@pytest.mark.parametrize("missing", ["landlock", "seccomp"])
def test_g5_where_code_cannot_be_confined_it_is_refused(start: Start, tmp_path: Path, missing: str) -> None:
    """Callers get the reason as a code; a package without code is still served."""
    _, _, code = start("code", REQUIRED, missing)
    _, _, data = start("data", REQUIRED, missing)

    play(tmp_path, refused_as("confinement-not-available"), digest=code)
    play(tmp_path, answers, digest=data)


@pytest.mark.parametrize("policy", [REQUIRED, BEST_EFFORT])
def test_g5_a_machine_that_does_not_allow_a_grant_does_not_run_the_version(start: Start, tmp_path: Path, policy: str) -> None:
    """Grants given elsewhere are limited by this machine's own setting; callers get the reason as a code."""
    _, _, digest = start("code", policy, grants=("network",), allowed=("tcp:5432",))

    play(tmp_path, refused_as("grant-not-allowed"), digest=digest)


def test_g5_a_version_waits_for_what_it_was_granted(start: Start, tmp_path: Path, elsewhere: Path) -> None:
    """Without the granted object none of its code is executed; when it appears, loading again succeeds."""
    rates = elsewhere / "rates.csv"
    grants = (f"read:{rates}",)
    _, _, digest = start("code", REQUIRED, grants=grants, allowed=grants)

    play(tmp_path, refused_as("grant-not-available"), digest=digest)
    rates.write_text("1")
    _, address, _ = start("code", REQUIRED, grants=grants, allowed=grants)
    eventually(lambda: (shown := RunnerState.read(address)) and shown.state == READY, "the next one has the address")
    play(tmp_path, answers, digest=digest)


def test_g5_best_effort_executes_code_with_what_can_be_had(start: Start, tmp_path: Path) -> None:
    """The operator chose this policy."""
    process, _, digest = start("code", BEST_EFFORT, "landlock")
    assert "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()

    play(tmp_path, answers, digest=digest)


def test_g5_a_runner_that_fills_its_folder_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes, by files, in subfolders, or when it makes a subfolder unreadable."""
    address = tmp_path / "runner.sock"
    watch = RunnerWatch(address, os.getpid(), 60.0)
    placed = Placed("process", "planted")

    def verdict() -> tuple[str, str] | None:
        watch.state = RunnerState(os.getpid(), READY, 0, 0, 1 << 62)
        return watch.judge(placed, Growth(None))

    assert verdict() is None
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "much").write_bytes(bytes(1 << 16))
    assert verdict() is None
    with monkeypatch.context() as patch:
        patch.setattr(runner_watch, "QUOTA_BYTES", 1 << 15)
        assert verdict() == (KILL, DISK)
    with monkeypatch.context() as patch:
        patch.setattr(runner_watch, "_MOST_FILES", 1)
        assert verdict() == (KILL, DISK)
    assert verdict() is None
