"""Writes folded trees as one operator of an ONNX graph, summed in double in scikit-learn's order.

`ai.onnx.ml` TreeEnsemble (version 5) is the first operator of its kind whose input, thresholds, weights and result may all be
double; its predecessor, TreeEnsembleRegressor, returns float32. Called by the exact trees candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadworthy.optimize.exact.folding import Folded
from roadworthy.optimize.exact.graph import (
    Writer,
    label_dtype,
    write_largest,
    write_logistic,
    write_matrix,
    write_outputs,
    write_prediction,
    write_sign,
)
from roadworthy.optimize.exact.trees import Ensemble, Head, Tree, constant_tree
from roadworthy.schema.batch import Array
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

_LESS_OR_EQUAL = 0


def write_folded(writer: Writer, folded: Folded, signature: Signature) -> None:
    """Write inputs, trees and answers.

    Raises:
        NotConvertible: the signature has an output with an unknown name.
    """
    matrix, found = write_matrix(writer, signature, folded.raws, folded.words)
    places = [found[raw] for raw in folded.raws] + [found[table] for table in folded.words]
    sums = write_trees(writer, matrix, folded.ensemble, np.array(places, dtype=np.int64))
    write_answers(writer, sums, folded.ensemble, signature)


def write_trees(writer: Writer, matrix: str, ensemble: Ensemble, places: Array) -> str:
    """Write all trees and the initial sums as one operator; returns the (rows, targets) double sums."""
    from onnx import numpy_helper

    starts = tuple(constant_tree(target, float(value)) for target, value in enumerate(ensemble.start) if value != 0.0)
    trees = tuple(tree if tree.inner.any() else constant_tree(tree.target, tree.value[0]) for tree in ensemble.trees)
    forest = _Forest.of(starts + trees, places)
    return writer.add(
        "TreeEnsemble",
        matrix,
        domain="ai.onnx.ml",
        n_targets=len(ensemble.start),
        aggregate_function=1,
        post_transform=0,
        tree_roots=forest.roots.tolist(),
        nodes_modes=numpy_helper.from_array(np.full(len(forest.feature), _LESS_OR_EQUAL, dtype=np.uint8), "modes"),
        nodes_featureids=forest.feature.tolist(),
        nodes_splits=numpy_helper.from_array(forest.threshold, "splits"),
        nodes_missing_value_tracks_true=forest.missing_left.tolist(),
        nodes_truenodeids=forest.left.tolist(),
        nodes_trueleafs=forest.left_is_leaf.tolist(),
        nodes_falsenodeids=forest.right.tolist(),
        nodes_falseleafs=forest.right_is_leaf.tolist(),
        leaf_targetids=forest.leaf_target.tolist(),
        leaf_weights=numpy_helper.from_array(forest.leaf_value, "weights"),
    )


@dataclass(frozen=True)
class _Forest:
    """All trees, with inner nodes and leaves numbered consecutively as the operator requires."""

    roots: Array
    feature: Array
    threshold: Array
    missing_left: Array
    left: Array
    right: Array
    left_is_leaf: Array
    right_is_leaf: Array
    leaf_target: Array
    leaf_value: Array

    @classmethod
    def of(cls, trees: tuple[Tree, ...], places: Array) -> _Forest:
        columns: list[list[Array]] = [[] for _ in range(10)]
        nodes = leaves = 0
        for tree in trees:
            inner = tree.inner
            number = np.where(inner, nodes + np.cumsum(inner) - 1, leaves + np.cumsum(~inner) - 1)
            left, right = tree.left[inner], tree.right[inner]
            found = (
                number[:1],
                places[tree.feature[inner]],
                tree.threshold[inner],
                tree.missing_left[inner].astype(np.int64),
                number[left],
                number[right],
                (~inner[left]).astype(np.int64),
                (~inner[right]).astype(np.int64),
                np.full(np.count_nonzero(~inner), tree.target),
                tree.value[~inner],
            )
            for column, part in zip(columns, found, strict=True):
                column.append(part)
            nodes += int(np.count_nonzero(inner))
            leaves += int(np.count_nonzero(~inner))
        return cls(*(np.concatenate(column) for column in columns))


def write_answers(writer: Writer, sums: str, ensemble: Ensemble, signature: Signature) -> None:
    """Write the step from the sums to the outputs of the signature."""
    if ensemble.divisor != 1.0:
        sums = writer.add("Div", sums, writer.constant(np.array([ensemble.divisor])))
    results: dict[str, str] = {}
    if ensemble.classes is None:
        final = writer.add("Exp", sums) if ensemble.head is Head.EXPONENTIAL else sums
        results["prediction"] = write_prediction(writer, final)
    else:
        results["probabilities"] = _write_probabilities(writer, sums, ensemble.head)
        dtype = label_dtype(signature)
        if dtype is not None:
            results["label"] = _write_label(writer, sums, ensemble, ensemble.classes, dtype)
    write_outputs(writer, results, signature)


def _write_probabilities(writer: Writer, sums: str, head: Head) -> str:
    if head is Head.PROBABILITIES:
        return sums
    return writer.add("Softmax", sums, axis=1) if head is Head.SOFTMAX else write_logistic(writer, sums)


def _write_label(writer: Writer, sums: str, ensemble: Ensemble, classes: Array, dtype: DType) -> str:
    if ensemble.head is Head.LOGISTIC:
        return write_sign(writer, sums, classes, dtype, zero_is_second=ensemble.zero_is_second)
    return write_largest(writer, sums, classes, dtype)
