"""Reads scikit-learn's tree ensembles into one plain form with the same trees, summed in the same order.

`folding.py` moves their thresholds into raw input space; `forest.py` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible
from roadworthy.optimize.exact.pipeline import is_sklearn
from roadworthy.schema.batch import Array

MAX_NODES = 2_000_000


class Head(Enum):
    """The step from the summed leaves to the answers."""

    PROBABILITIES = "probabilities"  # the sums divided by `divisor` are the classes' probabilities
    LOGISTIC = "logistic"  # one sum; its sigmoid is the second class's probability
    SOFTMAX = "softmax"
    IDENTITY = "identity"  # the sum divided by `divisor` is the prediction
    EXPONENTIAL = "exponential"


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree. A row goes left when its value is <= threshold, or is NaN and `missing_left`. All arrays: (nodes,).

    Attributes:
        target: the sum to which the leaves add.
        left, right: int64 positions of the children, greater than the node's own; -1 in leaves.
        feature: int64 column, threshold: float64, missing_left: bool; meaningless in leaves.
        value: float64, what a leaf adds.
    """

    target: int
    left: Array
    right: Array
    feature: Array
    threshold: Array
    missing_left: Array
    value: Array

    @property
    def inner(self) -> Array:
        """bool: which nodes split."""
        return np.asarray(self.left >= 0)


@dataclass(frozen=True)
class Ensemble:
    """Trees in the order in which scikit-learn adds them up.

    Attributes:
        start: float64 (targets,), the initial value of each sum.
        divisor: the final sums are divided by it.
        cast: float32 or float64, the type to which the estimator casts its columns before comparing.
        takes_missing: whether the estimator accepts NaN.
        classes: the labels in order, or None for a regressor.
        zero_is_second: for LOGISTIC, whether a sum of exactly 0 is the second class.
        takes_infinite: whether the estimator accepts infinities.
    """

    trees: tuple[Tree, ...]
    start: Array
    divisor: float
    head: Head
    cast: type[np.floating[Any]]
    takes_missing: bool
    classes: Array | None = None
    zero_is_second: bool = False
    takes_infinite: bool = False


def read_ensemble(estimator: Any) -> Ensemble:
    """Read the trees of a fitted HistGradientBoosting, GradientBoosting, RandomForest, ExtraTrees or decision tree.

    Raises:
        NotConvertible: another estimator, or one with an unsupported feature, named in the text.
    """
    reader = _READERS.get(type(estimator).__name__) if is_sklearn(estimator) else None
    if reader is None:
        raise NotConvertible(f"{type(estimator).__name__} is not a supported tree ensemble")
    ensemble = reader(estimator)
    _refuse_large(sum(len(tree.left) for tree in ensemble.trees))
    return ensemble


def _refuse_large(nodes: int) -> None:
    if nodes > MAX_NODES:
        raise NotConvertible(f"the trees have more than {MAX_NODES:,} nodes")


def _read_histogram(estimator: Any) -> Ensemble:
    if getattr(estimator, "is_categorical_", None) is not None:
        raise NotConvertible("categorical splits")
    trees: list[Tree] = []
    for iteration in estimator._predictors:  # noqa: SLF001  scikit-learn has no public access to the trees
        for target, predictor in enumerate(iteration):
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            trees.append(
                Tree(
                    target,
                    np.where(leaf, -1, nodes["left"].astype(np.int64)),
                    np.where(leaf, -1, nodes["right"].astype(np.int64)),
                    nodes["feature_idx"].astype(np.int64),
                    nodes["num_threshold"].astype(np.float64),
                    nodes["missing_go_to_left"].astype(bool),
                    nodes["value"].astype(np.float64),
                )
            )
    start = np.asarray(estimator._baseline_prediction, dtype=np.float64).reshape(-1)  # noqa: SLF001
    classes = getattr(estimator, "classes_", None)
    head = _head(estimator, classes)
    return Ensemble(tuple(trees), start, 1.0, head, np.float64, takes_missing=True, classes=classes, takes_infinite=True)


def _head(estimator: Any, classes: Array | None) -> Head:
    link = type(estimator._loss.link).__name__  # noqa: SLF001
    heads = {"IdentityLink": Head.IDENTITY, "LogLink": Head.EXPONENTIAL}
    if classes is not None:
        heads = {"LogitLink": Head.LOGISTIC, "MultinomialLogit": Head.SOFTMAX}
    if link not in heads:
        raise NotConvertible(f"unsupported link function {link}")
    return heads[link]


def _read_boosting(estimator: Any) -> Ensemble:
    init = estimator.init_
    if not (isinstance(init, str) and init == "zero") and type(init).__name__ not in (
        "DummyClassifier",
        "DummyRegressor",
    ):
        raise NotConvertible("the boosting starts from another model")
    rate = estimator.learning_rate
    trees = tuple(
        _read_tree(tree, target, rate * tree.tree_.value[:, 0, 0])
        for stage in estimator.estimators_
        for target, tree in enumerate(stage)
    )
    probe = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    start = np.asarray(estimator._raw_predict_init(probe), dtype=np.float64).reshape(-1)  # noqa: SLF001
    classes = getattr(estimator, "classes_", None)
    head = Head.IDENTITY if classes is None else _head(estimator, classes)
    return Ensemble(trees, start, 1.0, head, np.float32, takes_missing=False, classes=classes, zero_is_second=True)


def _read_forest(estimator: Any) -> Ensemble:
    members = getattr(estimator, "estimators_", [estimator])
    if estimator.n_outputs_ != 1:
        raise NotConvertible("the model has several outputs")
    classes = getattr(estimator, "classes_", None)
    targets = 1 if classes is None else len(classes)
    _refuse_large(sum(member.tree_.node_count for member in members))
    trees = tuple(
        pruned(_read_tree(member, target, member.tree_.value[:, 0, target])) for member in members for target in range(targets)
    )
    head = Head.IDENTITY if classes is None else Head.PROBABILITIES
    allows = bool(estimator.__sklearn_tags__().input_tags.allow_nan)
    missing = allows and getattr(members[0], "monotonic_cst", None) is None
    return Ensemble(trees, np.zeros(targets), float(len(members)), head, np.float32, missing, classes)


def _read_tree(member: Any, target: int, value: Array) -> Tree:
    tree = member.tree_
    return Tree(
        target,
        tree.children_left.astype(np.int64),
        tree.children_right.astype(np.int64),
        tree.feature.astype(np.int64),
        tree.threshold.astype(np.float64),
        tree.__getstate__()["nodes"]["missing_go_to_left"].astype(bool),
        value.astype(np.float64),
    )


def pruned(tree: Tree) -> Tree:
    """The same tree without splits whose two sides add the same value: a forest has one copy per class, mostly of zeros."""
    left, right, value = tree.left.tolist(), tree.right.tolist(), tree.value.tolist()
    for node in range(len(left) - 1, -1, -1):
        a, b = left[node], right[node]
        if a >= 0 and left[a] < 0 and left[b] < 0 and value[a] == value[b]:
            left[node] = right[node] = -1
            value[node] = value[a]
    kept = [False] * len(left)
    kept[0] = True
    for node in range(len(left)):
        if kept[node] and left[node] >= 0:
            kept[left[node]] = kept[right[node]] = True
    reached = np.array(kept)
    place = np.cumsum(reached) - 1

    def moved(children: list[int]) -> Array:
        chosen = np.array(children)[reached]
        return np.where(chosen < 0, -1, place[chosen])

    rest = (array[reached] for array in (tree.feature, tree.threshold, tree.missing_left, np.array(value)))
    return Tree(tree.target, moved(left), moved(right), *rest)


def arithmetic(ensemble: Ensemble, estimator: str) -> tuple[str, ...]:
    """States how an ensemble's trees are reproduced, and how far each step can round."""
    summed = f"{estimator}: thresholds compared as {ensemble.cast.__name__}, as the estimator does; leaves added in double"
    return (f"{summed}, in its order", _HEADS[ensemble.head], *_ties(ensemble))


def _ties(ensemble: Ensemble) -> tuple[str, ...]:
    if ensemble.classes is None:
        return ()
    if ensemble.head is Head.LOGISTIC:
        return (f"label: by the sign of the sum; a sum of 0 is the {'second' if ensemble.zero_is_second else 'first'} class",)
    return ("label: the class of the largest sum, the first of equal ones",)


_HEADS = {
    Head.PROBABILITIES: "probabilities: sums divided by the number of trees",
    Head.LOGISTIC: "probabilities: 1 / (1 + exp(-sum)) and 1 less that, within 1e-15",
    Head.SOFTMAX: "probabilities: softmax in double, within 1e-15",
    Head.IDENTITY: "prediction: the sum, divided by the number of trees where the estimator averages",
    Head.EXPONENTIAL: "prediction: exp(sum), within 1e-15 relatively",
}


def constant_tree(target: int, value: float) -> Tree:
    """A tree that adds the same value for every row. Such trees hold the initial sums, which keeps scikit-learn's order."""
    children, zeros = np.array([1, -1, -1]), np.zeros(3)
    return Tree(target, children, children * 2, zeros.astype(np.int64), zeros, zeros.astype(bool), np.full(3, value))


def splits(trees: tuple[Tree, ...]) -> Iterator[tuple[Array, Array]]:
    """(features, thresholds) of every tree's inner nodes."""
    for tree in trees:
        yield tree.feature[tree.inner], tree.threshold[tree.inner]


_READERS: dict[str, Callable[[Any], Ensemble]] = {
    "HistGradientBoostingClassifier": _read_histogram,
    "HistGradientBoostingRegressor": _read_histogram,
    "GradientBoostingClassifier": _read_boosting,
    "GradientBoostingRegressor": _read_boosting,
    "RandomForestClassifier": _read_forest,
    "RandomForestRegressor": _read_forest,
    "ExtraTreesClassifier": _read_forest,
    "ExtraTreesRegressor": _read_forest,
    "DecisionTreeClassifier": _read_forest,
    "DecisionTreeRegressor": _read_forest,
    "ExtraTreeClassifier": _read_forest,
    "ExtraTreeRegressor": _read_forest,
}
