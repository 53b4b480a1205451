"""Only an equal and faster runtime is kept; the others get a reason and leave nothing behind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.foreign import Foreign
from roadworthy.frameworks.discovery import framework_named
from roadworthy.frameworks.framework import ModelFolder, Saved
from roadworthy.optimize.candidates.candidate import CONSTRUCTION, Source
from roadworthy.optimize.compile import Outcome, compile_runtimes, judge
from roadworthy.optimize.deadline import within
from roadworthy.optimize.discovery import candidates
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.optimize.exams import Exam, answered
from roadworthy.schema.batch import Batch
from tests.waiting import DEADLINE_S

MakeSource = Callable[[Any, Any], Source]


def _by_name(outcomes: tuple[Outcome, ...]) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in outcomes}


@pytest.fixture(scope="module")
def boosted() -> tuple[Any, Any]:
    """StandardScaler and gradient-boosted trees on scikit-learn's breast cancer data."""
    rows, labels = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=100, random_state=0))
    return model.fit(rows, labels), rows


def test_naive_conversion_fails_silently(boosted: tuple[Any, Any], make_source: MakeSource, tmp_path: Path) -> None:
    """skl2onnx's graph loads, runs, and answers training rows wrongly, because float32 moves them over thresholds."""
    source = make_source(*boosted)
    saved = Foreign().convert(source, tmp_path)
    loaded = framework_named("onnx").load(ModelFolder(tmp_path), saved.options, source.signature, 1, None)
    expected = source.reference(source.training).column("probabilities")[0]
    found = loaded.run(source.training).column("probabilities")[0]
    wrong = np.abs(expected - found).max(axis=1) > 1e-5
    assert 10 < np.count_nonzero(wrong) < len(wrong)
    assert np.abs(expected - found).max() > 0.01


def test_the_naive_conversion_is_refused_and_the_exact_one_kept(
    boosted: tuple[Any, Any], make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names the first difference; the exact graph has no difference on any kind of row, and is much faster."""
    source = make_source(*boosted)
    known = candidates()
    monkeypatch.setattr("roadworthy.optimize.compile.candidates", lambda: (Foreign(), *known))
    outcomes = _by_name(compile_runtimes(source, tmp_path))
    naive, exact = outcomes["foreign-float32"], outcomes["onnx-exact"]
    assert not naive.kept
    assert naive.saved is None
    assert naive.difference is not None
    assert naive.difference.field == "probabilities"
    assert f"output 'probabilities', row {naive.difference.row}: expected 0." in naive.reason
    assert exact.kept
    assert exact.difference is None
    assert exact.compared["training"] == 569
    kinds = ("golden", "training", "perturbed", "ordinary", "extreme", "searched", "thresholds")
    assert set(exact.compared) == set(kinds)
    assert "HistGradientBoostingClassifier: thresholds compared as float64" in exact.constructed[1]
    assert exact.speedup is not None
    assert exact.speedup > 5
    assert exact.speedup_100 is not None
    assert exact.speedup_100 > 1
    assert [path.name for path in tmp_path.iterdir()] == ["onnx-exact"]
    assert exact.saved is not None
    assert not exact.saved.carries_code
    loaded = framework_named(exact.framework).load(
        ModelFolder(tmp_path / exact.name), exact.saved.options, source.signature, 1, None
    )
    answers = loaded.run(source.training)
    assert compare(source.reference(source.training), answers, Tolerance(rtol=0.0, atol=1e-12)) is None


def test_the_same_model_compiles_to_the_same_bytes(boosted: tuple[Any, Any], make_source: MakeSource, tmp_path: Path) -> None:
    """The package's digest covers the graph, so it must not depend on the run."""
    exact = next(candidate for candidate in candidates() if candidate.name == "onnx-exact")
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        exact.convert(make_source(*boosted), tmp_path / name)
        written.append((tmp_path / name / "model.onnx").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("estimator", [LogisticRegression(), LinearRegression()])
def test_linear_models_behind_scalers(estimator: Any, make_source: MakeSource, tmp_path: Path) -> None:
    """The scalers' own operations, then one product in double."""
    if isinstance(estimator, LogisticRegression):
        table, target = load_breast_cancer(return_X_y=True, as_frame=True)
        target = target.map({0: "malignant", 1: "benign"})
    else:
        table, target = load_diabetes(return_X_y=True, as_frame=True)
    outcomes = _by_name(
        compile_runtimes(make_source(make_pipeline(StandardScaler(), estimator).fit(table, target), table), tmp_path)
    )
    assert outcomes["onnx-linear"].kept
    assert "equal by construction, and on 20 golden" in outcomes["onnx-linear"].reason
    assert [outcome.name for outcome in outcomes.values() if outcome.kept] == ["onnx-linear"]


def test_linear_models_of_several_classes_with_missing_values(make_source: MakeSource, tmp_path: Path) -> None:
    """Imputed, scaled, three classes: still the original's answers."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import MinMaxScaler

    generator = np.random.default_rng(3)
    table = pd.DataFrame(generator.normal(1e6, 5.0, (300, 4)), columns=list("abcd"))
    target = np.digitize(table["a"] - table["b"], [-3, 3])
    table.loc[::5, "c"] = np.nan
    model = make_pipeline(SimpleImputer(), StandardScaler(), MinMaxScaler(), LogisticRegression()).fit(table, target)
    assert _by_name(compile_runtimes(make_source(model, table), tmp_path))["onnx-linear"].kept


def test_a_model_that_nothing_converts_keeps_its_own_runtime(make_source: MakeSource, tmp_path: Path) -> None:
    """No candidate can convert it: each gives its reason, and the folder stays empty."""
    rows, labels = load_breast_cancer(return_X_y=True)
    source = make_source(KNeighborsClassifier(weights=lambda distances: distances).fit(rows[:60], labels[:60]), rows[:60])
    outcomes = compile_runtimes(source, tmp_path)
    assert len(outcomes) == len(candidates())
    assert all(outcome.reason for outcome in outcomes)
    assert not any(outcome.kept for outcome in outcomes)
    assert list(tmp_path.iterdir()) == []


def test_a_candidate_that_states_nothing_is_not_kept(
    boosted: tuple[Any, Any], make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal answers are not enough: a graph without a statement of its construction was only compared."""
    exact = next(candidate for candidate in candidates() if candidate.name == "onnx-exact")

    class Silent:
        name, framework, has_ties = "silent", "onnx", False

        def convert(self, source: Source, folder: Path) -> Saved:
            saved = exact.convert(source, folder)
            options = {key: value for key, value in saved.options.items() if key != CONSTRUCTION}
            return Saved(options, saved.distributions)

    monkeypatch.setattr("roadworthy.optimize.compile.candidates", lambda: (Silent(),))
    (outcome,) = compile_runtimes(make_source(*boosted), tmp_path)
    assert not outcome.kept
    assert outcome.reason == "it does not state how it was constructed"


def test_a_graph_that_answers_what_the_original_refuses_is_not_kept(
    make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forest casts to float32 and refuses 1e39; the same trees without their guard answer it."""
    exact = next(candidate for candidate in candidates() if candidate.name == "onnx-exact")

    class Unguarded:
        name, framework, has_ties = "unguarded", "onnx", False

        def convert(self, source: Source, folder: Path) -> Saved:
            saved = exact.convert(source, folder)
            return Saved({**saved.options, "guards": []}, saved.distributions)

    rows, labels = load_breast_cancer(return_X_y=True)
    source = make_source(RandomForestClassifier(5, random_state=0).fit(rows, labels), rows)
    assert _by_name(compile_runtimes(source, tmp_path / "guarded"))["onnx-exact"].kept
    monkeypatch.setattr("roadworthy.optimize.compile.candidates", lambda: (Unguarded(),))
    (outcome,) = compile_runtimes(source, tmp_path / "unguarded")
    assert not outcome.kept
    assert "it answers extreme rows that the original refuses" in outcome.reason


def test_one_refused_row_does_not_hide_the_others(make_source: MakeSource) -> None:
    """The rows that the original answers are compared, and the refused row is a separate exam."""
    rows, labels = load_breast_cancer(return_X_y=True)
    source = make_source(RandomForestClassifier(5, random_state=0).fit(rows, labels), rows)
    asked = source.training.take(np.arange(100))
    asked.blocks[0].values[41, 3] = 1e39
    found = list(answered(source, "made", asked))
    assert sum(exam.rows.rows for exam in found if exam.expected is not None) == 99
    (refused,) = [exam for exam in found if exam.expected is None]
    assert refused.rows.column_at(0)[0][:, 3].tolist() == [1e39]


def test_ties_of_labels_are_distinguished_from_errors(make_source: MakeSource, tmp_path: Path) -> None:
    """On a linear model's decision boundary rounding decides, and either label is right; elsewhere only one is."""
    rows, labels = load_breast_cancer(return_X_y=True)
    source = make_source(make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), rows)
    outcome = _by_name(compile_runtimes(source, tmp_path))["onnx-linear"]
    assert outcome.kept
    assert any("a score within rounding of 0 may be either" in step for step in outcome.constructed)

    def flipped(batch: Batch) -> Batch:
        answer = source.reference(batch)
        label = answer.column("label")[0]
        wrong = np.where(np.arange(batch.rows) == batch.rows // 2, 1 - label, label)
        return Batch.from_columns(answer.layout, [(wrong, None), answer.column("probabilities")], batch.rows)

    exam = Exam("training", source.training, source.reference(source.training))
    judged = judge(Outcome("x", "onnx", kept=False, reason=""), source, (exam,), flipped, ties=1e-12)
    assert judged.difference is not None
    assert judged.difference.rows == 1


def test_a_python_preprocessing_function_is_not_compiled(
    boosted: tuple[Any, Any], make_source: MakeSource, tmp_path: Path
) -> None:
    """Arbitrary Python cannot be converted, so no candidate is tried."""
    source = dataclasses.replace(make_source(*boosted), preprocess=lambda rows: rows)
    reasons = {outcome.reason for outcome in compile_runtimes(source, tmp_path)}
    assert reasons == {"a Python preprocessing function comes before the model"}


def test_a_runtime_that_answers_otherwise_is_refused_even_when_built_to_be_exact(
    boosted: tuple[Any, Any], make_source: MakeSource, tmp_path: Path
) -> None:
    """The original's answers decide, not the construction: against another reference every candidate is refused."""
    source = make_source(*boosted)

    def shifted(batch: Batch) -> Batch:
        values = source.reference(batch).column("probabilities")[0] + 1e-3
        label = source.reference(batch).column("label")
        return Batch.from_columns(source.reference(batch).layout, [label, (values, None)], batch.rows)

    outcomes = compile_runtimes(dataclasses.replace(source, reference=shifted), tmp_path)
    assert not any(outcome.kept for outcome in outcomes)
    assert _by_name(outcomes)["onnx-exact"].difference is not None


def test_a_conversion_that_never_ends_is_stopped() -> None:
    """Some converters never end for some models; packing continues."""

    def endless() -> None:
        while True:
            pass

    with pytest.raises(TimeoutError, match=r"longer than 0\.2 s"):
        within(0.2, endless)
    assert within(DEADLINE_S, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(DEADLINE_S, lambda: 1 // 0)


def test_importing_the_compiler_imports_no_model_library() -> None:
    """Describing a package must not load any of them."""
    code = (
        "import sys, roadworthy.optimize.compile as c; c.candidates(); "
        "print([m for m in ('sklearn', 'onnx', 'onnxruntime', 'skl2onnx', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
