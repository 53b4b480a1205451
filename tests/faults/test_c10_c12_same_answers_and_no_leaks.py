"""C10: a model whose answers change from call to call is detected before it gets traffic. C12: ten thousand calls leave nothing
behind in a worker."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import ProofFailed, RoadworthyError
from roadworthy.package.archive import unpack
from roadworthy.package.packing.pack import pack
from roadworthy.runtime.loading import package_loader
from tests.waiting import DEADLINE_S, eventually

ROWS = np.arange(1.0, 41.0).reshape(20, 2)
CALLS, WARM = 10_000, 500


def test_c10_a_model_that_draws_its_answers_cannot_be_packed(tmp_path: Path) -> None:
    """Its golden examples are replayed in another process before the package exists."""

    def guess(x: Any) -> Any:
        import numpy as np

        return np.random.default_rng().random(len(x))

    with pytest.raises(RoadworthyError) as found:
        pack(guess, name="guess", inputs=ROWS, out=tmp_path, compile=False)
    assert found.value.code in ("proof-failed", "not-deterministic")
    assert not list(tmp_path.glob("*.rw"))


@pytest.mark.parametrize("drift", [1e-3, 1.0])
def test_c10_a_model_that_became_random_is_not_loaded(tmp_path: Path, drift: float) -> None:
    """Exact, or within the package's tolerance: a model that drifts more on this machine does not serve."""
    flag = str(tmp_path / "random")

    def double(x: Any) -> Any:
        from pathlib import Path

        import numpy as np

        noise = np.random.default_rng().random(len(x)) * drift if Path(flag).exists() else 0.0
        return np.asarray(x)[:, 0] * 2.0 + noise

    package = pack(double, name="double", inputs=ROWS, out=tmp_path / "dist", compile=False)
    assert package.path is not None
    unpack(package.path, tmp_path / "packages" / package.digest.removeprefix("sha256:"))
    entry = PackageEntry(package.digest, "double", 1, 1, "key-test")
    load = package_loader(tmp_path, 1)
    load(entry).close()
    Path(flag).touch()
    with pytest.raises(ProofFailed) as found:
        load(entry)
    assert found.value.code == "proof-failed"


def test_c12_ten_thousand_calls_leave_nothing_behind(
    start_worker: Callable[..., Any], make_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right and wrong requests, failing models, deadlines and new connections, through a real worker: the numbers of threads,
    descriptors, children and temporary files are as before, and memory almost."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("poison", [plan.package(2, "poison")])
    plan.endpoint("hasty", [plan.package(3, "noting")], Policy(timeout_ms=1))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    worker = start_worker(plan, folder=tmp_path, log_level="error").wait_ready()
    process = psutil.Process(worker.process.pid)
    calls = [
        ("sum", [[1, 2, 3]], 200), ("sum", [[1, 2]], 422), ("poison", [[13, 1, 1]], 500), ("poison", [[1, 1, 1]], 200),
        ("sum", [[1, 2, 3]] * 20, 200), ("hasty", [[1, 0.01, 0]], 504), ("nobody", [[1]], 404),
    ]  # fmt: skip
    bodies = [(f"/v1/models/{name}:predict", json.dumps({"instances": rows}), status) for name, rows, status in calls]

    def ask(times: int) -> None:
        for turn in range(0, times, 100):
            with closing(http.client.HTTPConnection("127.0.0.1", worker.port, timeout=DEADLINE_S)) as connection:
                for number in range(turn, turn + 100):
                    # The slow one only sometimes: its model sleeps.
                    path, body, status = bodies[5 if number % 200 == 0 else number % 5 if number % 7 else 6]
                    connection.request("POST", path, body, {"content-type": "application/json"})
                    reply = connection.getresponse()
                    reply.read()
                    assert reply.status == status, path

    def counts() -> tuple[int, int, int]:
        return process.num_threads(), process.num_fds(), len(process.children(recursive=True))

    ask(WARM)
    eventually(lambda: len(process.net_connections()) <= 2, "the connections of the beginning are gone")
    before, resident, left = counts(), process.memory_info().rss, len(list(temporary.iterdir()))
    ask(CALLS)
    eventually(lambda: len(process.net_connections()) <= 2, "all connections are gone")
    few = 3  # a pool may still grow on a busy machine; a leak in one of a thousand calls exceeds this
    eventually(lambda: all(a <= b + few for a, b in zip(counts(), before, strict=True)), f"as many as before: {before}")
    assert process.memory_info().rss - resident < 12 << 20
    assert len(list(temporary.iterdir())) <= left
    assert [path.name for path in tmp_path.rglob("*.tmp*")] == []
