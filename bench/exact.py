"""Checks that compiled models answer as scikit-learn does, on a million rows each: `make bench-exact`.

Rows are training rows, rows perturbed from them (by a share of the spread, or by one float step), rows of whole numbers, halves
and tenths, and rows in which every column is at a split threshold or one float next to it, where a faulty compiled tree would
take the other branch. A row that takes another branch gets another leaf, far more than the last digits in which sums may
differ. Then the search for jumps, which knows no models, must find the errors of conversions that are known to be wrong, and
must not report ours.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import ensemble, linear_model
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.foreign import FAULTS, Foreign
from bench.report import Measure, finish
from roadworthy.frameworks.discovery import framework_for, framework_named
from roadworthy.frameworks.framework import ModelFolder
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.optimize.candidates.candidate import Candidate, NotConvertible, Source
from roadworthy.optimize.candidates.exact_linear import ExactLinear
from roadworthy.optimize.candidates.exact_trees import ExactTrees
from roadworthy.optimize.compile import Outcome, judge
from roadworthy.optimize.exact.folding import fold
from roadworthy.optimize.exams import SEARCHED, answered
from roadworthy.optimize.rows import at_thresholds, ordinary, perturbed
from roadworthy.optimize.search import find_jumps, searchable
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.infer import infer_inputs, infer_outputs
from roadworthy.schema.signature import Signature
from roadworthy.schema.tables import to_batch

ROUNDING = 1e-12
"""How far sums of doubles may differ, absolutely and relatively."""
_BASE_ROWS = 2_000
"""Perturbed rows of one draw."""

TREES: dict[str, Callable[[], Any]] = {
    "HistGradientBoostingClassifier": lambda: ensemble.HistGradientBoostingClassifier(max_iter=100, random_state=0),
    "HistGradientBoostingRegressor": lambda: ensemble.HistGradientBoostingRegressor(max_iter=100, random_state=0),
    "GradientBoostingClassifier": lambda: ensemble.GradientBoostingClassifier(random_state=0),
    "GradientBoostingRegressor": lambda: ensemble.GradientBoostingRegressor(random_state=0),
    "RandomForestClassifier": lambda: ensemble.RandomForestClassifier(random_state=0),
    "RandomForestRegressor": lambda: ensemble.RandomForestRegressor(random_state=0),
    "ExtraTreesClassifier": lambda: ensemble.ExtraTreesClassifier(random_state=0),
    "ExtraTreesRegressor": lambda: ensemble.ExtraTreesRegressor(random_state=0),
}
LINEAR: dict[str, Callable[[], Any]] = {
    "LogisticRegression": linear_model.LogisticRegression,
    "LinearRegression": linear_model.LinearRegression,
    "Ridge": linear_model.Ridge,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one model.

    Attributes:
        rows: number of compared rows. thresholds: number of rows at or next to thresholds.
        different: number of rows with a different answer.
        largest: the largest difference of any number in all rows.
    """

    rows: int
    thresholds: int
    different: int
    largest: float


def examine(name: str, rows: int, candidate: Candidate | None = None) -> Verdict:
    """Fit, compile and compare one of TREES or LINEAR on `rows` rows.

    Args:
        name: of the estimator. rows: number of rows.
        candidate: compiles the model; None for the exact candidate.

    Raises:
        NotConvertible: the model is not compiled exactly.
    """
    candidate = candidate or (ExactTrees() if name in TREES else ExactLinear())
    source = _source(name)
    different, largest, compared, at = 0, 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        saved = candidate.convert(source, Path(folder))
        files = ModelFolder(Path(folder))
        loaded = framework_named(candidate.framework).load(files, saved.options, source.signature, 1, None)
        try:
            for batch, near in _batches(source, rows, trees=name in TREES):
                expected, found = source.reference(batch), loaded.run(batch)
                wrong, furthest = differences(expected, found)
                different, largest = different + wrong, max(largest, furthest)
                compared, at = compared + batch.rows, at + (batch.rows if near else 0)
        finally:
            loaded.close()
    return Verdict(compared, at, different, largest)


def differences(expected: Batch, found: Batch) -> tuple[int, float]:
    """The number of rows that differ by more than rounding (labels: at all), and the largest difference of any number."""
    wrong, largest = np.zeros(expected.rows, dtype=bool), 0.0
    for field in expected.layout.fields:
        left, right = expected.column(field.name)[0], found.column(field.name)[0]
        if field.dtype.is_float:
            distances = np.abs(left - right).reshape(expected.rows, -1)
            largest = max(largest, float(distances.max(initial=0.0)))
            allowed = ROUNDING * (1 + np.abs(left).reshape(expected.rows, -1))
            wrong |= ~(distances <= allowed).all(axis=1)  # NaN, which no answer here may be, is wrong too
        else:
            wrong |= np.asarray(left != right)
    return int(wrong.sum()), largest


def _source(name: str) -> Source:
    """A fitted pipeline and its training rows, in the form that `pack` gives to the compiler."""
    data = load_diabetes() if name.endswith("Regressor") or name in ("LinearRegression", "Ridge") else load_breast_cancer()
    return _made(make_pipeline(StandardScaler(), (TREES | LINEAR)[name]()), data)


def _made(model: Any, data: Any = None) -> Source:
    """As `_source`, for an unfitted model, on `data` or the breast cancer data."""
    data = load_breast_cancer() if data is None else data
    rows = data.data
    model.fit(rows, data.target)
    framework = framework_for(model)
    inputs, container = infer_inputs(rows)
    signature = Signature(inputs, infer_outputs(framework.answer(model, rows[:50])), container)
    native = NativeLoaded(lambda table: framework.answer(model, table), signature, 1, None)
    training = to_batch(Layout(inputs), rows)
    return Source(model, signature, native.run, training.slice(0, 20), training)


def _batches(source: Source, rows: int, *, trees: bool) -> Iterator[tuple[Batch, bool]]:
    """`rows` rows in chunks, each with whether it is at thresholds: all training rows, then half and half (trees)."""
    left = rows - source.training.rows
    yield source.training, False
    base = source.training.take(np.resize(np.arange(source.training.rows), _BASE_ROWS))
    edges = fold(source).edges if trees else {}
    raws = searchable(source.signature)
    for seed in itertools.count(1):
        near = at_thresholds(base, edges, seed) if edges else None
        pieces = [(perturbed(base, seed), False)]
        while near is not None and pieces[0][0].rows < near.rows:  # equally many rows of both kinds
            pieces[0] = (_joined(pieces[0][0], perturbed(base, seed + 1_000_000 * pieces[0][0].rows)), False)
        typed = ordinary(base, raws, seed)
        if typed is not None:
            pieces.append((typed, False))
        if near is not None:
            pieces.append((near, True))
        for piece, at in pieces:
            if left <= 0:
                return
            yield piece.slice(0, min(left, piece.rows)), at
            left -= piece.rows


def _joined(first: Batch, second: Batch) -> Batch:
    columns = [(np.concatenate([first.column_at(i)[0], second.column_at(i)[0]]), None) for i in range(len(first.layout.fields))]
    return Batch.from_columns(first.layout, columns, first.rows + second.rows)


def measure(names: list[str], rows: int) -> Iterator[Measure]:
    """One measure per model, printed when it is known."""
    for name in names:
        what = "take another branch" if name in TREES else "differ by more than rounding"
        try:
            found = examine(name, rows)
        except NotConvertible as error:
            yield Measure(f"{name} behind StandardScaler: not compiled: {error}", None, "", target="0", met=False)
            continue
        kinds = f", {found.thresholds:,} of them at or next to thresholds" if name in TREES else ""
        text = f"{name} behind StandardScaler: rows of {found.rows:,}{kinds}, that {what}; largest difference {found.largest:.1e}"
        print(f"{text}: {found.different}", flush=True)
        yield Measure(text, found.different, "rows", target="0", met=found.different == 0)


def search_measures() -> Iterator[Measure]:
    """The findings of the search for jumps alone, in wrong conversions of skl2onnx and in ours."""
    found, seconds = 0, []
    for make in FAULTS.values():
        reason, took = _searched(_made(make()), Foreign())
        found += reason != ""
        seconds.append(took)
    text = f"faulty conversions ({', '.join(FAULTS)}) that the search finds, of {len(FAULTS)}"
    print(f"{text}: {found}", flush=True)
    yield Measure(text, found, "conversions", target=str(len(FAULTS)), met=found == len(FAULTS))
    accused = 0
    for name in TREES | LINEAR:
        reason, took = _searched(_source(name), ExactTrees() if name in TREES else ExactLinear())
        accused += reason != ""
        seconds.append(took)
    text = f"equal conversions that it accuses, of {len(TREES | LINEAR)}"
    print(f"{text}: {accused}", flush=True)
    yield Measure(text, accused, "conversions", target="0", met=accused == 0)
    yield Measure("how long a search takes, median", float(np.median(seconds)), "s")


def _searched(source: Source, candidate: Candidate) -> tuple[str, float]:
    """The reason why the search alone refuses a conversion, "" when it does not; and the duration of the search in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        saved = candidate.convert(source, Path(folder))
        files = ModelFolder(Path(folder))
        loaded = framework_named(candidate.framework).load(files, saved.options, source.signature, 1, None)
        begun = time.perf_counter()
        jumps = find_jumps(source.reference, source.training, searchable(source.signature))
        asked = () if jumps is None else tuple(answered(source, SEARCHED, jumps.rows))
        outcome = Outcome(candidate.name, candidate.framework, kept=False, reason="")
        outcome = judge(outcome, source, asked, loaded.run, ties=ROUNDING * candidate.has_ties)
        took = time.perf_counter() - begun
        loaded.close()
    return outcome.reason, took


def main() -> int:
    """Compare, print, write; exit status 1 when a row differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="for each model")
    parser.add_argument("--only", choices=[*TREES, *LINEAR], nargs="+", default=[*TREES, *LINEAR])
    arguments = parser.parse_args()
    measures = [*measure(arguments.only, arguments.rows), *search_measures()]
    whole = len(arguments.only) == len(TREES | LINEAR) and arguments.rows >= 1_000_000
    return finish("exact", measures, whole=whole)


if __name__ == "__main__":
    sys.exit(main())
