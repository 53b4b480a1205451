"""A package's confined code reaches nothing around it. The same code without confinement reaches everything it looks for."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadworthy.foundation.confine.launcher import NOT_CONFINED
from roadworthy.foundation.confine.plan import BASELINE, BEST_EFFORT, PARTS, REQUIRED
from tests.faults.g5_probe import PROBES
from tests.faults.g5_surroundings import Surroundings, surroundings

NOBODY = 65534
EVERYTHING = {probe.__name__ for probe in PROBES}
USERS = [
    pytest.param(os.geteuid(), id="this-user"),
    pytest.param(NOBODY, id="nobody", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another")),
]


@pytest.fixture(params=USERS)
def around(request: pytest.FixtureRequest) -> Iterator[Surroundings]:
    """The surroundings, for each user. Not in pytest's folders, which only this user can enter."""
    with tempfile.TemporaryDirectory(prefix="roadworthy-g5-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with surroundings(Path(folder), request.param) as made:
            yield made


def found(around: Surroundings, *without: str, policy: str = REQUIRED) -> tuple[set[str], str]:
    """The findings of the confined probe, and all output."""
    command = [around.python, "-P", str(around.folder / "package" / "probe.py"), json.dumps(around.target)]
    result = around.run(around.confined(command, policy), *without)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout)), result.stdout + result.stderr


def held(around: Surroundings, *without: str) -> set[str]:
    """The parts of confinement that the launcher reports."""
    result = around.run(around.confined([]), *without)
    assert result.returncode == 0, result.stderr
    return {part for part, holds in json.loads(result.stdout).items() if holds}


def test_g5_without_confinement_everything_is_found(around: Surroundings) -> None:
    """The control: each probe finds what it looks for."""
    result = around.run([around.python, str(around.folder / "package" / "probe.py"), json.dumps(around.target)])
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == EVERYTHING


def test_g5_confined_nothing_is_found(around: Surroundings) -> None:
    """All parts are active here, and nothing is in reach."""
    assert held(around) == set(PARTS)
    assert found(around)[0] == set()


@pytest.mark.parametrize("without", [("unshare",), ("mounts",), ("capabilities",), ("capabilities", "unshare")])
def test_g5_where_namespaces_are_refused_nothing_is_found(around: Surroundings, without: tuple[str, ...]) -> None:
    """As in a container: the other parts protect everything but the machine's shared memory, and that is reported."""
    lost = {"memory"} if without == ("mounts",) else {"user", "network", "memory"}
    if without == ("capabilities",) and around.user != 0:
        lost = set()  # only root needs a capability to keep its identity in a namespace
    assert held(around, *without) == set(PARTS) - lost
    assert found(around, *without)[0] == ({"shared_memory"} if "memory" in lost else set())


@pytest.mark.parametrize(("missing", "part"), [("landlock", "files"), ("seccomp", "sockets")])
def test_g5_without_the_baseline_the_command_is_told(around: Surroundings, missing: str, part: str) -> None:
    """It gets an extra argument; not with best-effort, which applies the available parts."""
    assert part in BASELINE
    assert part not in held(around, missing)
    show = [around.python, "-c", "import sys; print(sys.argv[1:])"]
    assert around.run(around.confined(show), missing).stdout == f"['{NOT_CONFINED}']\n"
    assert around.run(around.confined(show, BEST_EFFORT), missing).stdout == "[]\n"
    assert around.run(around.confined(show)).stdout == "[]\n"
    reached = found(around, missing, policy=BEST_EFFORT)[0]
    assert "own_environment" not in reached
    assert reached < EVERYTHING
