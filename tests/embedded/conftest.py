"""Packages that the tests of embedded endpoints serve, and a home folder of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import roadworthy as rw
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, RolloutEntry, Snapshot, VariantEntry, encode_snapshot
from roadworthy.foundation.files import private_folder, write_atomic
from roadworthy.package.archive import unpack
from roadworthy.runtime.loading import package_folder
from tests.embedded import models

ROWS = pd.DataFrame({"age": [20.0, 31.0, 40.0, 50.0], "income": [1_000.0, 42_000.0, 3_000.0, 4_000.0]})


@pytest.fixture(scope="session")
def credit(tmp_path_factory: pytest.TempPathFactory) -> rw.Package:
    """A model that executes inline: age doubled."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(ROWS, ROWS["age"] * 2)
    return rw.pack(model, name="credit", inputs=ROWS, out=tmp_path_factory.mktemp("credit"))


class Home:
    """The gateway's folder of a home folder, without a gateway. It has two versions of a model.

    Args:
        versions: their packages.
    """

    def __init__(self, versions: list[rw.Package]) -> None:
        self._versions = versions
        self._revision = 0
        self._folder = private_folder(private_folder(Path(os.environ["ROADWORTHY_HOME"])) / "gateway")
        for package in versions:
            unpack(package.path, package_folder(self._folder, package.digest))

    def write(self, weights: list[int], *, rollout: bool = False) -> None:
        """Write a snapshot with the endpoint "home" and this split; in a rollout the first version is the stable one."""
        self._revision += 1
        digests = [package.digest for package in self._versions]
        entry = EndpointEntry(
            "home",
            self._revision,
            tuple(VariantEntry(digest, weight) for digest, weight in zip(digests, weights, strict=True) if weight),
            self._versions[0].signature.to_document(),
            rollout=RolloutEntry("r", digests[0], digests[1]) if rollout else None,
        )
        packages = tuple(PackageEntry(digest, "credit", number, 1) for number, digest in enumerate(digests, 1))
        write_atomic(self._folder / "snapshot.json", encode_snapshot(Snapshot("e", self._revision, packages, (entry,))))


@pytest.fixture(scope="session")
def home(credit: rw.Package, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home folder with the versions 1 (age doubled) and 2 (age tripled) of a model."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(ROWS, ROWS["age"] * 3)
    return Home([credit, rw.pack(model, name="credit", inputs=ROWS, out=tmp_path_factory.mktemp("second"))])


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory) -> rw.Package:
    """A model of code, which executes in a runner: age plus one; -1 raises. It has a rule."""
    out = tmp_path_factory.mktemp("coded")
    return rw.pack(models.plus_one, name="coded", inputs=ROWS, out=out, rules={"ten": models.ten})


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> rw.Package:
    """A model that answers in parts: the words of a text."""
    return rw.pack(
        models.words, name="chat", inputs=pd.DataFrame({"text": ["a b", "c d e"]}), out=tmp_path_factory.mktemp("chat")
    )


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROADWORTHY_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def answers(prediction: Any) -> list[float]:
    """The answers, rounded: linear regression is not exact."""
    return [round(value, 6) for value in prediction.predictions]
