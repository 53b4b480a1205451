"""Small packages of several kinds, and a way to change one and seal it again."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.package.archive import open_package, unpack
from roadworthy.package.files import describe_files
from roadworthy.package.manifest import MANIFEST, Manifest, read_manifest
from roadworthy.package.package import Package
from roadworthy.package.packing.pack import pack
from tests.waiting import DEADLINE_S

Change = Callable[[Manifest], Manifest]


@pytest.fixture(scope="session")
def numbers() -> Any:
    """Rows for the small ONNX graph: float32 (40, 3)."""
    return np.random.default_rng(1).random((40, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def graph_package(numbers: Any, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """y = x @ (1, 2, 3) + 0.5 as an ONNX graph; packed, it carries no code."""
    return pack(linear_graph(), name="linear", inputs=numbers, out=tmp_path_factory.mktemp("dist"), examples=8)


@pytest.fixture(scope="session")
def linear() -> Callable[[float], Any]:
    """`linear_graph` for tests."""
    return linear_graph


def linear_graph(shift: float = 0.5) -> Any:
    """The graph itself."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [1.0, 2.0, 3.0]),
            helper.make_tensor("b", TensorProto.FLOAT, [1], [shift]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def cancer() -> tuple[Any, Any]:
    """Breast cancer: a DataFrame of four columns, and labels as text."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True)
    frame = data.data[["mean radius", "mean texture", "mean area", "worst concavity"]]
    return frame, np.where(data.target == 1, "benign", "malignant")


@pytest.fixture(scope="session")
def compiled_package(cancer: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A scikit-learn pipeline with a compiled ONNX runtime."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame, labels = cancer
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, labels)
    out = tmp_path_factory.mktemp("dist")
    return pack(model, name="cancer", inputs=frame, labels=labels, out=out, examples=16, card={"About": "Four columns."})


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[Package], Package]:
    """A private unpacked copy of a package."""
    return lambda package: unpack(package.path, tmp_path / "unpacked")


@pytest.fixture(scope="session")
def sealed() -> Callable[..., Package]:
    """Seal a changed folder again: right sizes, right hashes, a new digest."""
    return seal_again


def seal_again(folder: Path, change: Change = lambda manifest: manifest) -> Package:
    """Do what any holder of the package can: new hashes for the present files, and attestations for the new digest."""
    manifest = read_manifest((folder / MANIFEST).read_bytes())
    aside = folder.with_name("attestations-aside")
    (folder / "attestations").rename(aside)
    (folder / MANIFEST).unlink()
    manifest = change(dataclasses.replace(manifest, files=describe_files(folder)))
    (folder / MANIFEST).write_bytes(manifest.encode())
    aside.rename(folder / "attestations")
    for said in (folder / "attestations").iterdir():
        said.write_text(json.dumps({**json.loads(said.read_text()), "digest": manifest.digest}))
    return open_package(folder)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Write a user's module into a project folder that only this process can import from, and import it."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.syspath_prepend(str(project))
    names: list[str] = []

    def write(name: str, source: str) -> Any:
        (project / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        names.append(name)
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)
    shutil.rmtree(project)


def run_python(code: str, *arguments: str, python: str = sys.executable, **environment: str) -> str:
    """Run a program in a separate process and return its output; fails with its errors."""
    done = subprocess.run(
        [python, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """`run_python` for tests."""
    return run_python
