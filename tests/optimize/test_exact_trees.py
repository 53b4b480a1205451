"""Folded trees take the original's branch for training rows, rows at thresholds and rows one float next to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import ensemble, tree
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OrdinalEncoder, RobustScaler, StandardScaler

from roadworthy.frameworks.discovery import framework_named
from roadworthy.frameworks.framework import ModelFolder
from roadworthy.optimize.candidates.candidate import NotConvertible, Source
from roadworthy.optimize.candidates.exact_trees import ExactTrees
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.optimize.exact.folding import fold
from roadworthy.optimize.rows import at_thresholds, perturbed, with_unseen_words
from roadworthy.schema.batch import Batch

MakeSource = Callable[[Any, Any], Source]
SUMS_ONLY = Tolerance(rtol=0.0, atol=1e-12)
"""Permitted difference in the last digits of sums and sigmoids; a row on another branch differs by a leaf, far more."""

SCALERS = [StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler]
ESTIMATORS = [
    lambda seed: ensemble.HistGradientBoostingClassifier(max_iter=4, min_samples_leaf=3, random_state=seed),
    lambda seed: ensemble.HistGradientBoostingRegressor(max_iter=4, min_samples_leaf=3, random_state=seed),
    lambda seed: ensemble.GradientBoostingClassifier(n_estimators=4, random_state=seed),
    lambda seed: ensemble.GradientBoostingRegressor(n_estimators=4, random_state=seed),
    lambda seed: ensemble.RandomForestClassifier(4, random_state=seed),
    lambda seed: ensemble.RandomForestRegressor(4, random_state=seed),
    lambda seed: ensemble.ExtraTreesClassifier(4, random_state=seed),
    lambda seed: ensemble.ExtraTreesRegressor(4, random_state=seed),
    lambda seed: tree.DecisionTreeClassifier(random_state=seed),
    lambda seed: tree.DecisionTreeRegressor(random_state=seed),
]


def _assert_same_branches(source: Source, candidate: Any = ExactTrees()) -> int:  # noqa: B008
    """Convert, load as served, compare on all kinds of rows; return the number of rows at or next to thresholds."""
    thresholds = at_thresholds(source.training, fold(source).edges)
    batches = [source.training, perturbed(source.training), with_unseen_words(source.training), thresholds]
    with TemporaryDirectory() as folder:
        saved = candidate.convert(source, Path(folder))
        files = ModelFolder(Path(folder))
        assert framework_named(candidate.framework).examine(files, saved.options).isolated is None
        loaded = framework_named(candidate.framework).load(files, saved.options, source.signature, 1, None)
        for batch in batches:
            if batch is not None:
                assert compare(source.reference(batch), loaded.run(batch), SUMS_ONLY) is None
                one = batch.slice(0, 1)
                assert compare(source.reference(one), loaded.run(one), SUMS_ONLY) is None
        loaded.close()
    return 0 if thresholds is None else thresholds.rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    estimator=st.sampled_from(ESTIMATORS),
    scalers=st.lists(st.sampled_from(SCALERS), max_size=2),
    form=st.tuples(st.sampled_from([1e-6, 1.0, 1e9]), st.sampled_from([np.float64, np.float32])),
    classes=st.sampled_from([2, 3]),
)
def test_no_row_takes_another_branch(
    seed: int,
    estimator: Callable[[int], Any],
    scalers: list[type[Any]],
    form: tuple[float, type[np.floating[Any]]],
    classes: int,
    make_source: MakeSource,
) -> None:
    """Random trees of every kind behind random scalers, with inputs of both widths and very different magnitudes."""
    scale, width = form
    generator = np.random.default_rng(seed)
    rows = (generator.normal(3.0, 1.0, (90, 4)) * scale).astype(width)
    rows[:, 3] = generator.integers(0, 5, 90)
    labels = generator.integers(0, classes, 90)
    model = make_pipeline(*[scaler() for scaler in scalers], estimator(seed)).fit(rows, labels)
    assert _assert_same_branches(make_source(model, rows)) > 0


@pytest.mark.parametrize("estimator", [ESTIMATORS[0], ESTIMATORS[1], ESTIMATORS[4], ESTIMATORS[9]])
def test_missing_values_go_where_the_original_sends_them(estimator: Callable[[int], Any], make_source: MakeSource) -> None:
    """NaN follows each split's own direction, and an imputed column never contains NaN."""
    generator = np.random.default_rng(5)
    table = pd.DataFrame(generator.normal(size=(200, 4)), columns=list("abcd"))
    target = (table["a"] + table["b"] > 0).astype(int) + (table["c"] > 1)
    for name in "abc":
        table.loc[generator.random(200) < 0.2, name] = np.nan
    imputed = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = ColumnTransformer([("imputed", imputed, ["a", "d"]), ("rest", MinMaxScaler(), ["b", "c"])])
    model = make_pipeline(columns, estimator(0)).fit(table, target)
    source = make_source(model, table)
    assert source.signature.inputs[0].nullable
    _assert_same_branches(source)


def test_a_table_of_many_types_with_words(make_source: MakeSource) -> None:
    """Integers, booleans, both floats, text with unknown words, and labels that are text."""
    generator = np.random.default_rng(6)
    count = 300
    table = pd.DataFrame(
        {
            "word": np.array(["ärger", "b", "c d"], dtype=object)[generator.integers(0, 3, count)],
            "whole": generator.integers(-1_000, 1_000, count),
            "small": generator.integers(0, 100, count).astype(np.int16),
            "flag": generator.random(count) < 0.5,
            "single": generator.normal(size=count).astype(np.float32),
            "double": generator.normal(size=count),
            "unused": np.array(["x", "y"], dtype=object)[generator.integers(0, 2, count)],
        }
    )
    target = np.where((table["word"] == "b") ^ (table["whole"] > 30) ^ table["flag"], "yes", "no")
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer(
        [("words", encoder, ["word"]), ("scaled", StandardScaler(), ["whole", "double"])], remainder="passthrough"
    )
    table = table.drop(columns="unused")
    for estimator in (ESTIMATORS[0](0), ESTIMATORS[2](0), ESTIMATORS[4](0)):
        source = make_source(make_pipeline(columns, estimator).fit(table, target), table)
        assert source.reference(source.golden).column("label")[0].dtype == object
        _assert_same_branches(source)


def test_ties_between_classes_fall_as_in_the_original(make_source: MakeSource) -> None:
    """Two trees that disagree give equal probabilities; on every such row, the label is the original's."""
    generator = np.random.default_rng(7)
    rows = generator.normal(size=(120, 3))
    labels = generator.integers(0, 3, 120)
    source = make_source(ensemble.RandomForestClassifier(2, random_state=0).fit(rows, labels), rows)
    batch = at_thresholds(source.training, fold(source).edges)
    assert isinstance(batch, Batch)
    top = np.sort(source.reference(batch).column("probabilities")[0], axis=1)
    assert (top[:, -1] == top[:, -2]).any()
    _assert_same_branches(source)


def test_a_tree_that_never_splits(make_source: MakeSource) -> None:
    """A constant answer is a tree of one leaf."""
    rows = np.arange(20.0).reshape(10, 2)
    source = make_source(tree.DecisionTreeRegressor().fit(rows, np.ones(10)), rows)
    assert _assert_same_branches(source) == 0


def test_the_links_of_regression_losses(make_source: MakeSource) -> None:
    """A Poisson loss predicts the exponential of the sum."""
    generator = np.random.default_rng(8)
    rows = generator.normal(size=(100, 2))
    model = ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=5)
    _assert_same_branches(make_source(model.fit(rows, generator.poisson(2, 100)), rows))


def test_what_cannot_be_exact_is_refused_by_name(make_source: MakeSource, tmp_path: Path) -> None:
    """Categorical splits, encoders that refuse words, transformers of unknown order: each reason names the cause."""
    table = pd.DataFrame({"n": np.arange(60.0), "w": np.array(["a", "b"] * 30, dtype=object)})
    target = np.arange(60) % 3 == 0
    forest = tree.DecisionTreeClassifier()
    strict = ColumnTransformer([("w", OrdinalEncoder(), ["w"])], remainder="passthrough")
    refused = make_source(make_pipeline(strict, forest).fit(table, target), table)
    with pytest.raises(NotConvertible, match="refuses unknown words in column 'w'"):
        ExactTrees().convert(refused, tmp_path)
    codes = table[["n"]].to_numpy()
    categorical = ensemble.HistGradientBoostingClassifier(categorical_features=[0], max_iter=2)
    refused = make_source(categorical.fit(codes, target), codes)
    with pytest.raises(NotConvertible, match="categorical splits"):
        ExactTrees().convert(refused, tmp_path)
    from sklearn.preprocessing import QuantileTransformer

    bent = make_pipeline(QuantileTransformer(n_quantiles=10), tree.DecisionTreeClassifier()).fit(codes, target)
    with pytest.raises(NotConvertible, match="QuantileTransformer"):
        ExactTrees().convert(make_source(bent, codes), tmp_path)
