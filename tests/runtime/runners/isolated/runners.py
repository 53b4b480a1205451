"""Real runner processes with planted models, and the worker's side of them in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.contract.policy import Batching
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.runtime.runners.isolated.client import ProcessBatcher
from roadworthy.runtime.runners.isolated.launch import RunnerStart, runner_address, runner_document
from roadworthy.runtime.runners.isolated.state import READY, RunnerState
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.waiting import DEADLINE_S, eventually, soon
from tests.warm import WarmProcess, nursery

PROCESS = "roadworthy.runtime.runners.isolated.process"
PLANTED_RUNNER = Path(__file__).parent / "planted_runner.py"
SUM = Signature(
    tuple(Field(name, DType.FLOAT64) for name in ("a", "b", "c")), (Field("total", DType.FLOAT64),), Container.DATAFRAME
)
DIGEST = f"sha256:{'ab' * 32}"


class Runner:
    """A runner process."""

    def __init__(self, folder: Path, kind: str, signature: Signature, options: dict[str, Any]) -> None:
        command = options.pop("command", [str(PLANTED_RUNNER)])
        digest = options.setdefault("digest", DIGEST)
        self._folder = folder
        self.address = runner_address(folder, digest, options.get("copy", 0), options.get("rule", ""))
        options.setdefault("hang_s", 120.0)
        document = runner_document(RunnerStart(folder=str(folder), address=str(self.address), **options))
        if command == [str(PLANTED_RUNNER)]:
            document |= {"kind": kind, "signature": signature.to_document()}
        self.log_path = folder / "runner.log"
        self._log = self.log_path.open("ab")
        self.process: WarmProcess | subprocess.Popen[bytes]
        if command == [str(PLANTED_RUNNER)]:
            log = self._log.fileno()
            self.process = nursery(PROCESS).start(command, stdout=log, stderr=log, session=True)
        else:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(document).encode() + b"\n")
        self.process.stdin.flush()

    @property
    def state(self) -> RunnerState | None:
        """What it shows of itself."""
        return RunnerState.read(self.address, self.process.pid)

    def wait_shown(self) -> Runner:
        """Wait until it has taken the address."""

        def shown() -> bool:
            state = RunnerState.read(self.address)
            return state is not None and state.pid == self.process.pid

        eventually(shown, "the runner takes the address")
        return self

    @property
    def runs(self) -> bool:
        """Whether the model is at work."""
        state = self.state
        return state is not None and state.state == READY and state.busy_since_ns > 0

    def open_gate(self) -> None:
        """Have models of the kind "gated" answer."""
        (self._folder / "gate").touch()

    def log(self) -> str:
        """All it wrote."""
        return self.log_path.read_text()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def end(self) -> None:
        """Whatever it takes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._log.close()


StartRunner = Callable[..., Runner]


@pytest.fixture
def start_runner(tmp_path: Path) -> Iterator[StartRunner]:
    """Starts runners below the test's folder: `start_runner(kind, signature, **start document)`."""
    started: list[Runner] = []

    def start(kind: str = "sum", signature: Signature = SUM, **options: Any) -> Runner:
        started.append(Runner(tmp_path, kind, signature, options))
        return started[-1]

    yield start
    for runner in started:
        runner.end()


class Waiting(PendingRequest):
    """A pending request whose outcome can be awaited: an Answer or an error."""

    def __init__(self, seconds: float = 3_600.0, caller: str = "") -> None:
        super().__init__(time.monotonic() + seconds, caller)
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        self.outcome.set_result(outcome)


def rows(*first: float, wait_s: float = 0.0) -> Batch:
    """Rows (value, wait, 0) of SUM."""
    values = np.array([[value, wait_s, 0.0] for value in first], dtype=np.float64)
    return Batch(Layout(SUM.inputs), len(first), (Block(values),))


class Caller:
    """The worker's side of the runners."""

    def __init__(self, folder: Path, copies: int, batching: Batching | None, digest: str) -> None:
        addresses = [runner_address(folder, digest, copy) for copy in range(copies)]
        self.changes = 0
        loop = asyncio.get_running_loop()
        self.batcher = ProcessBatcher(digest, addresses, loop, self._changed, batching)
        self.batcher.connect()

    def _changed(self) -> None:
        self.changes += 1

    def submit(self, batch: Batch, seconds: float = 3_600.0, caller: str = "") -> Waiting:
        """Ask."""
        request = Waiting(seconds, caller)
        self.batcher.submit(batch, request)
        return request

    async def ask(self, *batches: Batch) -> list[Any]:
        """Ask all at once: the first column of each answer, or the error's code."""
        requests = [self.submit(batch) for batch in batches]
        return [told(await request.outcome) for request in requests]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition."""
        await soon(condition, "the scene is as wanted")

    async def written(self) -> None:
        """Wait until all that was asked lies in the sockets of runners, which read it when they have answered what they run."""
        transports = [connection._transport for link in self.batcher._links for connection in link._connections()]
        await self.until(lambda: not self.batcher.waiting and not any(t.get_write_buffer_size() for t in transports))

    async def ready(self) -> None:
        """Wait until a runner has greeted."""
        await self.until(lambda: self.batcher.ready)


def told(outcome: Outcome) -> Any:
    """The first column, or the error's code."""
    return outcome.batch().blocks[0].values[:, 0].tolist() if isinstance(outcome, Answer) else outcome.code


def play(
    folder: Path,
    scene: Callable[[Caller], Awaitable[None]],
    copies: int = 1,
    batching: Batching | None = None,
    digest: str = DIGEST,
) -> None:
    """Run a scene with the worker's side of the runners below `folder`, on the loop that workers use."""
    import uvloop

    async def run() -> None:
        caller = Caller(folder, copies, batching, digest)
        try:
            await scene(caller)
        finally:
            caller.batcher.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
