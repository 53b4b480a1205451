"""Versions of a model that adds three numbers: two healthy ones, and one for each kind of defect.

Rows are (value, chance, real). Packages are proved on rows with `real` = 0, on which each version is healthy. So each passes its
proof, is loaded, and shows its defect only for requests, whose `real` is 1. They are pickled by value, so each is self-contained.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

import roadworthy as rw
from bench.load.traffic import Traffic
from bench.models import Rows
from bench.service import Service

PART = 0.1
"""The fraction of requests that the version FAILING_IN_PART fails."""
SLOW_S = 0.02
USERS = 300
USER_HEADER = "X-User"


class Kind(StrEnum):
    """The kinds of new versions."""

    GOOD = "good"
    FAILING = "failing every request"
    FAILING_IN_PART = "failing a tenth"
    SLOW = "slow"
    WRONG_OUTPUT = "answering NaN"
    CRASHING = "killing its process"
    DISAGREEING = "answering otherwise"
    UNLOADABLE = "not loadable"


def well(x: Any) -> Any:
    """The first stable version."""
    return x.sum(axis=1)


def as_well(x: Any) -> Any:
    """The same sum, computed differently."""
    return x[:, 0] + x[:, 1] + x[:, 2]


def failing(x: Any) -> Any:
    """Fails every request."""
    if x[:, 2].any():
        raise ValueError("it has never seen that")
    return x.sum(axis=1)


def failing_in_part(x: Any) -> Any:
    """Fails PART of the requests."""
    if ((x[:, 2] > 0) & (x[:, 1] < PART)).any():
        raise ValueError("it has never seen that")
    return x.sum(axis=1)


def slow(x: Any) -> Any:
    """Takes SLOW_S per run."""
    import time

    if x[:, 2].any():
        time.sleep(SLOW_S)
    return x.sum(axis=1)


def wrong_output(x: Any) -> Any:
    """Answers every request with NaN."""
    return np.where(x[:, 2] > 0, np.nan, x.sum(axis=1))


def crashing(x: Any) -> Any:
    """Reads from an invalid address, which ends its process."""
    import ctypes

    if x[:, 2].any():
        ctypes.string_at(0)
    return x.sum(axis=1)


def disagreeing(x: Any) -> Any:
    """Answers 1.5 times the right sum."""
    return x.sum(axis=1) + 0.5 * x[:, 2]


class Unloadable:
    """Healthy as long as a file exists, which is deleted before the version is to serve."""

    def __init__(self, needed: Path) -> None:
        self.needed = str(needed)

    def __call__(self, x: Any) -> Any:
        """The sum."""
        return x.sum(axis=1)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called by unpickling."""
        if not Path(state["needed"]).exists():
            raise RuntimeError("its tables are gone")
        self.__dict__.update(state)


_MODELS: dict[Kind, Callable[[Any], Any]] = {
    Kind.FAILING: failing,
    Kind.FAILING_IN_PART: failing_in_part,
    Kind.SLOW: slow,
    Kind.WRONG_OUTPUT: wrong_output,
    Kind.CRASHING: crashing,
    Kind.DISAGREEING: disagreeing,
}


@dataclass(slots=True)
class Cast:
    """The registered versions of one model, for an endpoint of the same name.

    Attributes:
        stable, spare: the two healthy versions; `promoted` exchanges them.
        broken: version by kind.
    """

    name: str
    stable: str
    spare: str
    broken: dict[Kind, str]

    def version(self, kind: Kind) -> str:
        """The version to roll out."""
        return self.spare if kind is Kind.GOOD else self.broken[kind]

    def promoted(self) -> None:
        """Exchange stable and spare, after the spare was promoted."""
        self.stable, self.spare = self.spare, self.stable


def register(service: Service, folder: Path, name: str, kinds: set[Kind]) -> Cast:
    """Pack and push the versions, and deploy the first one at the endpoint `name`.

    Args:
        folder: for packages. kinds: of the required broken versions.
    """
    rows = np.column_stack([np.arange(20.0), np.linspace(0.0, 1.0, 20), np.zeros(20)])
    needed = folder / f"{name}.tables"
    needed.touch()
    models: dict[Kind, Callable[[Any], Any]] = {**_MODELS, Kind.UNLOADABLE: Unloadable(needed)}
    broken = sorted(kinds - {Kind.GOOD})
    with service.client() as client:
        versions = []
        for model in (well, as_well, *(models[kind] for kind in broken)):
            package = rw.pack(model, name=name, inputs=rows, out=folder, compile=False)
            if package.path is None:
                raise RuntimeError("the package was not written")
            pushed = client.push(package.path, allow_code=package.digest)
            versions.append(f"{name}:{pushed.version}")
        client.wait(client.deploy(versions[0], name))
    needed.unlink()
    return Cast(name, versions[0], versions[1], dict(zip(broken, versions[2:], strict=True)))


@dataclass
class Sums(Traffic):
    """Traffic whose right answers are sums, whatever the version. `users` are the users that send each body."""

    users: Sequence[int] = ()


def asked(service: Service, endpoint: str, rate: float, rng: np.random.Generator, users: int = USERS) -> Sums:
    """Traffic of `users` users, drawn with `rng`."""
    count = 4 * users
    rows: Rows = np.column_stack([rng.integers(0, 100, count), rng.random(count).round(6), np.ones(count)])
    callers = (rng.permutation(count) % users).tolist()
    sums = rows.sum(axis=1)
    return Sums(
        service.ports[0],
        service.key,
        [json.dumps({"instances": [row]}).encode() for row in rows.tolist()],
        right=defaultdict(lambda: sums),
        headers=[f"{USER_HEADER}: user-{user}\r\n" for user in callers],
        number_of=float,
        endpoint=endpoint,
        rate=rate,
        users=callers,
    )
