"""Folded trees for Treelite's interpreter: a runtime without ONNX, from the same trees as the exact ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import NotConvertible, Source
from roadworthy.optimize.exact.folding import fold
from roadworthy.optimize.exact.trees import Ensemble, Head, Tree, constant_tree

_FILE = "trees.treelite"
_LARGEST = float(np.finfo(np.float64).max)


class TreeliteTrees:
    """The candidate "treelite"."""

    name = "treelite"
    framework = "treelite"
    by_construction = True

    def convert(self, source: Source, folder: Path) -> Saved:
        """As Candidate.convert."""
        folded = fold(source)
        ensemble = folded.ensemble
        if folded.words:
            raise NotConvertible("text columns have no place in Treelite")
        if ensemble.head is Head.EXPONENTIAL:
            raise NotConvertible("the prediction is an exponential")
        try:
            from treelite import model_builder
        except ImportError as error:
            raise NotConvertible("treelite is not installed") from error
        _build(model_builder, ensemble, len(folded.raws)).serialize(folder / _FILE)
        options: dict[str, Any] = {
            "file": _FILE,
            "columns": [[raw.block, raw.column] for raw in folded.raws],
            "head": ensemble.head.value,
            "zero_is_second": ensemble.zero_is_second,
            "divisor": int(ensemble.divisor),
        }
        if ensemble.classes is not None:
            labels = ensemble.classes.tolist()
            if not all(isinstance(label, (bool, int, str)) for label in labels):
                raise NotConvertible("labels are neither text, integers nor booleans")
            options["classes"] = labels
        return Saved(options, ("treelite",))


def _build(builder: Any, ensemble: Ensemble, features: int) -> Any:
    targets = len(ensemble.start)
    starts = tuple(constant_tree(target, float(value)) for target, value in enumerate(ensemble.start))
    trees = starts + ensemble.trees
    made = builder.ModelBuilder(
        threshold_type="float64",
        leaf_output_type="float64",
        metadata=builder.Metadata(
            num_feature=features,
            task_type="kMultiClf" if targets > 1 else "kRegressor",
            average_tree_output=False,
            num_target=1,
            num_class=[targets],
            leaf_vector_shape=(1, 1),
        ),
        tree_annotation=builder.TreeAnnotation(
            num_tree=len(trees),
            target_id=[0] * len(trees),
            class_id=[tree.target for tree in trees],
        ),
        postprocessor=builder.PostProcessorFunc(name="identity_multiclass" if targets > 1 else "identity"),
        base_scores=[0.0] * targets,
    )
    for tree in trees:
        _add(made, tree)
    return made.commit()


def _add(made: Any, tree: Tree) -> None:
    made.start_tree()
    for node in range(len(tree.left)):
        made.start_node(node)
        if tree.left[node] < 0:
            made.leaf(float(tree.value[node]))
        else:
            made.numerical_test(
                feature_id=int(tree.feature[node]),
                threshold=float(np.clip(tree.threshold[node], -np.inf, _LARGEST)),
                default_left=bool(tree.missing_left[node]),
                opname="<=",
                left_child_key=int(tree.left[node]),
                right_child_key=int(tree.right[node]),
            )
        made.end_node()
    made.end_tree()


CANDIDATES = (TreeliteTrees(),)
