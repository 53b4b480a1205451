"""The measured models and the rows of the requests. Real data: scikit-learn's breast cancer cells, 30 numbers per row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import roadworthy as rw

Rows = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A measured model.

    Attributes:
        name: the model's name in the registry.
        package: its package file. baseline: the same model for the hand-written service.
        rows: of the requests, (n, 30). right: the model's own probability of the second class for each row.
        code: the package's digest when it carries code, else None.
    """

    name: str
    package: Path
    baseline: Path
    rows: Rows
    right: Rows
    code: str | None


def cells(count: int) -> Rows:
    """`count` different rows: the 569 real ones, then mixtures of two of them."""
    real = load_breast_cancer().data
    random = np.random.default_rng(7)
    pairs = random.integers(0, len(real), size=(count, 2))
    share = random.uniform(size=(count, 1))
    mixed = real[pairs[:, 0]] * share + real[pairs[:, 1]] * (1 - share)
    mixed[: len(real)] = real[:count]
    rounded: Rows = np.round(mixed, 6)
    return rounded


def onnx_trees(folder: Path, count: int) -> Subject:
    """Gradient-boosted trees (100 iterations) as an ONNX file of skl2onnx: float32 input, label and probabilities as outputs."""
    from skl2onnx import to_onnx

    data = load_breast_cancer()
    model = GradientBoostingClassifier(n_estimators=100, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model).fit(data.data, data.target)
    sample = data.data.astype(np.float32)
    graph = to_onnx(pipeline, sample[:1], options={"zipmap": False}, target_opset=17)
    file = folder / "trees.onnx"
    file.write_bytes(graph.SerializeToString())
    package = rw.pack(graph, name="trees", inputs=sample, out=folder)
    rows = cells(count).astype(np.float32)
    return Subject("trees", _packed(package), file, rows, _by_graph(file, rows), _code(package))


def sklearn_trees(folder: Path, count: int, *, compiled: bool = True) -> Subject:
    """StandardScaler and HistGradientBoosting with 100 iterations, served by the proved runtime that packing chooses.

    Args:
        folder: for the package.
        count: number of rows for requests.
        compiled: whether packing tries faster runtimes; the model is called "cells" with them, "cells-native" without.
    """
    import joblib

    name = "cells" if compiled else "cells-native"

    data = load_breast_cancer()
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0)
    pipeline: Pipeline = make_pipeline(StandardScaler(), model).fit(data.data, data.target)
    file = folder / f"{name}.joblib"
    joblib.dump(pipeline, file)
    package = rw.pack(pipeline, name=name, inputs=data.data, labels=data.target, out=folder, compile=compiled)
    rows = cells(count)
    return Subject(name, _packed(package), file, rows, pipeline.predict_proba(rows)[:, 1], _code(package))


def small_graph(folder: Path, number: int) -> Subject:
    """One of many small ONNX models, each in its own file; `number` makes them different."""
    from skl2onnx import to_onnx

    data = load_breast_cancer()
    model = GradientBoostingClassifier(n_estimators=50, subsample=0.8, random_state=number)
    sample = data.data.astype(np.float32)
    graph = to_onnx(model.fit(sample, data.target), sample[:1], options={"zipmap": False}, target_opset=17)
    name = f"small-{number}"
    file = folder / f"{name}.onnx"
    file.write_bytes(graph.SerializeToString())
    package = rw.pack(graph, name=name, inputs=sample, out=folder)
    rows = sample[:20]
    return Subject(name, _packed(package), file, rows, _by_graph(file, rows), _code(package))


def nothing(folder: Path, count: int, name: str = "nothing") -> Subject:
    """A Python callable that does nothing: it returns two of the numbers of each row."""
    rows = cells(count)
    package = rw.pack(_first_two, name=name, inputs=rows[:200, :2], out=folder)
    return Subject(name, _packed(package), folder, rows[:, :2], rows[:, 1], _code(package))


def count_up(rows: Any) -> Iterator[float]:
    """As many numbers as the first row says."""
    for number in range(int(np.asarray(rows)[0][0])):
        yield float(number)


def counting(folder: Path) -> Subject:
    """A model that answers in parts: `count_up`."""
    rows = np.array([[3.0], [4.0]])
    package = rw.pack(count_up, name="counting", inputs=rows, out=folder)
    return Subject("counting", _packed(package), folder, rows, rows[:, 0], _code(package))


def leaking(folder: Path, count: int, kilobytes: int = 64) -> Subject:
    """As `nothing`, with a planted leak of `kilobytes` per call, for benchmarks that must notice it."""
    rows = cells(count)
    kept: list[bytes] = []

    def leak(asked: Rows) -> dict[str, Rows]:
        kept.append(b"x" * (kilobytes << 10))
        return {"label": asked[:, 0], "probabilities": asked}

    package = rw.pack(leak, name="leaking", inputs=rows[:200, :2], out=folder)
    return Subject("leaking", _packed(package), folder, rows[:, :2], rows[:, 1], _code(package))


def _first_two(rows: Rows) -> dict[str, Rows]:
    return {"label": rows[:, 0], "probabilities": rows}


def bodies(rows: Rows) -> list[bytes]:
    """One JSON request per row."""
    return [json.dumps({"instances": [row]}, separators=(",", ":")).encode() for row in rows.tolist()]


def _by_graph(file: Path, rows: Rows) -> Rows:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {session.get_inputs()[0].name: rows})[0])[:, 1]


def _packed(package: rw.Package) -> Path:
    if package.path is None:
        raise RuntimeError("the package was not written")
    return package.path


def _code(package: rw.Package) -> str | None:
    return package.digest if package.carries_code else None
