"""G1: a compiled runtime answers as scikit-learn does, also at thresholds, bins and whole numbers, and refuses the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, MinMaxScaler, StandardScaler
from sklearn.svm import SVC

import roadworthy as rw
from bench.foreign import halves
from roadworthy.foundation.errors import InputRefused
from roadworthy.gateway.http.problems import problem
from roadworthy.package.archive import unpack
from roadworthy.package.construct import construct
from roadworthy.runtime.pending import Answer
from roadworthy.runtime.queue.batching import run_joined
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.schema.batch import Layout
from roadworthy.schema.tables import to_batch

COLUMNS = ["hours", "age", "visits"]


class RandomForestRegressor(LinearRegression):
    """A user's own class with the name of a scikit-learn class and different behaviour."""

    def predict(self, X: Any) -> Any:  # noqa: N803  scikit-learn's name
        """Twice the line."""
        return super().predict(X) * 2


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "boosted stumps": (lambda: make_pipeline(StandardScaler(), AdaBoostClassifier(n_estimators=20, random_state=0)), "native"),
    "calibrated": (
        lambda: make_pipeline(StandardScaler(), CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=10), cv=2)),
        "native",
    ),
    "bins": (lambda: make_pipeline(KBinsDiscretizer(10, strategy="uniform", encode="ordinal"), LinearRegression()), "native"),
    "support vectors": (lambda: make_pipeline(StandardScaler(), SVC()), "native"),
    "a user's own class of a known name": (RandomForestRegressor, "native"),
    "boosting": (lambda: make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=20)), "onnx-exact"),
    "forest in a search": (
        lambda: GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [3, 6]}, cv=2),
        "onnx-exact",
    ),
    "boosting by gradients": (
        lambda: make_pipeline(MinMaxScaler(), GradientBoostingRegressor(n_estimators=20, random_state=0)),
        "onnx-exact",
    ),
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "onnx-linear"),
}  # fmt: skip


def _training() -> tuple[pd.DataFrame, Any]:
    generator = np.random.default_rng(1)
    rows = pd.DataFrame(
        {name: generator.integers(0, top, 600).astype(float) for name, top in zip(COLUMNS, (60, 90, 30), strict=True)}
    )
    score = rows["hours"] * 2 + (rows["age"] > 45) * 30 + np.sin(rows["visits"]) * 10 + generator.normal(0, 8, 600)
    return rows, (score > 75).astype(int)


@pytest.mark.parametrize("name", MODELS)
def test_g1_ordinary_rows_are_answered_as_by_the_original(name: str, tmp_path: Path) -> None:
    """Whole and half numbers, as people type them; the original or a constructed runtime serves."""
    make, runtime = MODELS[name]
    rows, target = _training()
    model = make().fit(rows, target)
    package = rw.pack(model, name="case", inputs=rows, out=tmp_path)
    assert package.runtimes[0] == runtime
    asked = pd.DataFrame(halves(500, 3), columns=COLUMNS)
    with rw.load(str(package.path), allow_code=package.digest) as served:
        found = served.predict(asked)
    if "probabilities" in found:
        expected, answers = model.predict_proba(asked), np.array(found["probabilities"].tolist())
        assert np.array_equal(found["label"], model.predict(asked))
    else:
        expected, answers = model.predict(asked), found.iloc[:, 0].to_numpy()
    np.testing.assert_allclose(answers, expected, rtol=1e-12, atol=1e-14)


def test_g1_small_probabilities_keep_their_digits(tmp_path: Path) -> None:
    """Far on one side of a logistic model, the other class has 1e-18, not 0; ONNX Runtime's own Sigmoid gives 0."""
    rows = np.linspace(-1, 1, 200).reshape(-1, 1)
    model = LogisticRegression(C=100.0).fit(rows, rows[:, 0] > 0)
    package = rw.pack(model, name="tail", inputs=rows, out=tmp_path)
    assert package.runtimes[0] == "onnx-linear"
    asked = np.linspace(-20, 20, 101).reshape(-1, 1)
    with rw.load(str(package.path)) as served:
        found = served.predict(asked)["probabilities"]
    expected = model.predict_proba(asked)
    assert 0 < expected[:, 1].min() < 1e-100
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-12)


def test_g1_what_the_original_refuses_is_refused_alone(tmp_path: Path) -> None:
    """1e39 is refused with 422, the column, the row and scikit-learn's text; requests in the same run are answered."""
    rows, target = _training()
    model = RandomForestClassifier(5, random_state=0).fit(rows, target)
    package = rw.pack(model, name="forest", inputs=rows, out=tmp_path)
    unpacked = unpack(package.path, tmp_path / "unpacked")
    constructed = construct(unpacked)
    assert constructed.runtime == "onnx-exact"
    layout = Layout(package.signature.inputs)
    good = to_batch(layout, rows.iloc[:2])
    bad = to_batch(layout, pd.DataFrame([[1.0, 1e39, 2.0]], columns=COLUMNS))
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="float32"):
        model.predict(pd.DataFrame([[1.0, 1e39, 2.0]], columns=COLUMNS))
    first, refused, last = run_joined(InlineRunner(constructed), [good, bad, good])
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert isinstance(refused, InputRefused)
    assert refused.message.startswith("the model refuses 1e+39 in column 'age', row 0: expected a value from -3.4")
    assert "too large for dtype('float32')" in str(refused.hint)
    assert problem(refused, "r").status == 422
    constructed.close()


@pytest.mark.parametrize("value", [3.4028235677973362e38, -3.4028235677973362e38])
def test_g1_the_limits_are_the_originals_to_the_last_float(value: float, tmp_path: Path) -> None:
    """The largest float64 that rounds to a finite float32 is answered; both refuse its neighbour."""
    rows, target = _training()
    model = RandomForestClassifier(5, random_state=0).fit(rows.to_numpy(), target)
    package = rw.pack(model, name="forest", inputs=rows.to_numpy(), out=tmp_path)
    inside = np.array([[1.0, value, 2.0]])
    outside = np.array([[1.0, np.nextafter(value, np.inf * np.sign(value)), 2.0]])
    with rw.load(str(package.path)) as served:
        assert np.array_equal(served.predict(inside)["probabilities"], model.predict_proba(inside))
        with np.errstate(over="ignore"), pytest.raises(ValueError, match="float32"):
            model.predict_proba(outside)
        with pytest.raises(InputRefused):
            served.predict(outside)


def test_g1_integers_beyond_what_float64_holds_do_not_change_sides(tmp_path: Path) -> None:
    """Nanoseconds since 1970 as int64: at the thresholds, neighbouring integers are the same float64. Answers are right."""
    generator = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"ns": generator.integers(1_700_000_000, 1_800_000_000, 400) * 1_000_000_000, "n": generator.normal(size=400)}
    )
    model = RandomForestClassifier(5, random_state=0).fit(rows, rows["ns"] > 1_750_000_000_000_000_000)
    package = rw.pack(model, name="times", inputs=rows, out=tmp_path)
    edges = [
        int(t) for tree in model.estimators_ for f, t in zip(tree.tree_.feature, tree.tree_.threshold, strict=True) if f == 0
    ]
    near = [edge + step for edge in edges[:20] for step in (-(2**36), -1, 0, 1, 2**36, 2**36 + 1)]
    asked = pd.DataFrame({"ns": near, "n": 0.0})
    with rw.load(str(package.path), allow_code=package.digest) as served:
        found = np.array(served.predict(asked)["probabilities"].tolist())
    assert np.array_equal(found, model.predict_proba(asked))


def test_g1_an_overflow_that_a_clip_hides_is_refused(tmp_path: Path) -> None:
    """The scaler makes 1.7e308 infinite, which the next scaler refuses before it would clip."""
    rows = pd.DataFrame(np.random.default_rng(0).normal(0, 0.3, (200, 2)), columns=["a", "b"])
    model = make_pipeline(StandardScaler(), MinMaxScaler(clip=True), LogisticRegression()).fit(rows, rows["a"] > 0)
    _refused_by_both(model, rows, pd.DataFrame({"a": [1.7e308], "b": [0.1]}), tmp_path)


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), RandomForestClassifier(5), HistGradientBoostingClassifier(max_iter=5)]
)
def test_g1_a_column_that_is_dropped_later_is_checked_all_the_same(estimator: Any, tmp_path: Path) -> None:
    """The scaler makes the column infinite, and the selection refuses that, although it would drop the column."""
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({"kept": generator.normal(size=300), "dropped": generator.normal(0, 0.1, 300)})
    model = make_pipeline(StandardScaler(), SelectKBest(k=1), estimator).fit(rows, rows["kept"] > 0)
    _refused_by_both(model, rows, pd.DataFrame({"kept": [0.5], "dropped": [1.7e308]}), tmp_path)


def _refused_by_both(model: Any, rows: pd.DataFrame, asked: pd.DataFrame, out: Path) -> None:
    """Check that the model is compiled, and that both refuse the rows."""
    package = rw.pack(model, name="refusing", inputs=rows, out=out)
    assert package.runtimes[0].startswith("onnx-")
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="infinity"):
        model.predict(asked)
    with rw.load(str(package.path)) as served:
        assert len(served.predict(rows.iloc[:3])) == 3
        with pytest.raises(InputRefused):
            served.predict(asked)


def test_g1_an_element_that_the_original_refuses_missing_is_not_answered(tmp_path: Path) -> None:
    """If one element of an array may be missing, all may; an earlier step refuses another one, so the original serves."""
    rows = np.random.default_rng(0).normal(size=(300, 3))
    target = rows[:, 0] > 0
    rows[::7, 2] = np.nan
    chosen = ColumnTransformer([("s", SelectKBest(k=1), [0, 1])], remainder="passthrough")
    model = make_pipeline(chosen, HistGradientBoostingClassifier(max_iter=5)).fit(rows, target)
    package = rw.pack(model, name="gaps", inputs=rows, out=tmp_path)
    assert package.runtimes == ("native",)
    said = package.attestations["compile"]["outcomes"][0]["reason"]
    assert said == "not convertible: a column may have missing values, and the original refuses them"


def test_labels_beyond_what_json_holds_exactly_are_packed(tmp_path: Path) -> None:
    """60-bit identifiers as classes: the signature lists no categories for them, and the answers are right."""
    rows = np.random.default_rng(0).normal(size=(200, 2))
    model = LogisticRegression().fit(rows, np.where(rows[:, 0] > 0, 2**60 + 1, 2**60))
    package = rw.pack(model, name="ids", inputs=rows, out=tmp_path)
    with rw.load(str(package.path), allow_code=package.digest) as served:
        assert np.array_equal(served.predict(rows[:20])["label"], model.predict(rows[:20]))
