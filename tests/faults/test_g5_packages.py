"""A real installation with a spying package, and an honest one that uses the facilities of a process: caches, processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import roadworthy as rw
from roadworthy.foundation.confine.plan import Bounds
from roadworthy.foundation.errors import ProofFailed
from roadworthy.package.archive import unpack
from roadworthy.package.replay import Replay, replay_isolated
from tests.faults.g5_probe import SECRET
from tests.faults.g5_spy import EVERYTHING, LOOK, names, spying
from tests.faults.g5_surroundings import Surroundings, surroundings
from tests.machine import Machine
from tests.waiting import DEADLINE_S, NO_TLS

ROWS = np.arange(40.0).reshape(20, 2)


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """The surroundings; this process and the installation have a key in their environment."""
    with pytest.MonkeyPatch.context() as patch, surroundings(tmp_path_factory.mktemp("around"), os.geteuid()) as made:
        patch.setenv("KEY", SECRET)
        yield made


def honest(rows: Any) -> Any:
    """A model that uses everything that libraries use."""
    import multiprocessing.shared_memory
    import subprocess
    import sys
    import tempfile
    import zoneinfo

    import joblib

    memory = joblib.Memory(os.environ.get("JOBLIB_TEMP_FOLDER", tempfile.mkdtemp()), verbose=0)
    assert memory.cache(abs)(-3) == 3
    doubled = joblib.Parallel(n_jobs=2)(joblib.delayed(float.__mul__)(float(value), 2.0) for value in rows[:, 0])
    block = multiprocessing.shared_memory.SharedMemory(create=True, size=64)
    block.close()
    block.unlink()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "scratch").write_text("text")
    Path("~/.cache/some-library").expanduser().mkdir(parents=True, exist_ok=True)
    said = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True).stdout
    assert int(said) == 42
    assert zoneinfo.ZoneInfo("Europe/Berlin")
    return np.array(doubled)


@pytest.fixture(scope="module")
def machine(around: Surroundings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """An installation that serves a package that spies on request, and an honest one."""
    made = Machine(tmp_path_factory.mktemp("machine"), cold=True)
    target = {**around.target, "context": str(made.home / "context.json"), "home": str(made.home)}
    (made.folder / "dist").mkdir()
    for name, model in (("spy", spying(target, always=False)), ("honest", honest)):
        with contextlib.chdir(made.folder):
            made.packages.append(rw.pack(model, name=name, inputs=ROWS, out=made.folder / "dist", compile=False))
        made.models.append(model)
    with made.serving("spy"):
        made.tell("deploy", "honest:1", "--endpoint", "honest")
        yield made


def ask(machine: Machine, endpoint: str, rows: list[list[float]]) -> list[float]:
    """Predictions."""
    context = machine.context()
    headers = {"Authorization": f"Bearer {context['key']}"}
    url = f"{context['gateway_url']}/v1/models/{endpoint}:predict"
    reply = httpx.post(url, json={"instances": rows}, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["predictions"])


def test_g5_a_package_that_serves_finds_nothing(machine: Machine) -> None:
    """The same model finds everything where it was packed."""
    here = machine.models[0](np.array([[LOOK, 0.0]]))[0]
    assert names(here) == EVERYTHING
    assert names(ask(machine, "spy", [[LOOK, 0.0]])[0]) == []


def test_g5_a_package_that_is_proved_finds_nothing(around: Surroundings, tmp_path: Path) -> None:
    """Its answer is what it finds: without confinement the proof agrees with training, with confinement all answers are zero."""
    with contextlib.chdir(tmp_path):
        package = rw.pack(spying(around.target, always=True), name="spy", inputs=ROWS, out=tmp_path, compile=False)
    assert package.path is not None
    folder = unpack(package.path, tmp_path / "unpacked").path
    assert folder is not None
    replay_isolated(folder, Replay(every_runtime=False))
    with pytest.raises(ProofFailed) as refused:
        replay_isolated(folder, Replay(every_runtime=False, bare=True, bounds=Bounds()))
    assert refused.value.code == "proof-failed"
    assert "got 0.0" in refused.value.message


def test_g5_an_honest_package_works(machine: Machine) -> None:
    """Caches, joblib's processes, shared memory, temporary files, programs."""
    assert ask(machine, "honest", [[4.0, 0.0], [5.0, 0.0]]) == [8.0, 10.0]
