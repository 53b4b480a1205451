"""How far a row can walk down the trees of an ai.onnx.ml operator. Children are numbers, so a tree can have a loop in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from roadworthy.schema.batch import Array

MAX_DEPTH = 1_000
_SHARED = 4
"""How often a node may be reached on average: converters share nodes between branches."""


def tree_steps(attributes: Mapping[str, Any]) -> int:
    """Nodes that one row visits at most.

    Raises:
        ValueError: children that are not there, trees that are very deep, or without an end.
    """
    children, roots = _by_index(attributes) if "tree_roots" in attributes else _by_name(attributes)
    if children.size and (children.min() < -1 or children.max() >= len(children)):
        raise ValueError("a child is not there")
    frontier, levels, visited = roots, 0, 0
    while len(frontier):
        levels, visited = levels + 1, visited + len(frontier)
        if levels > MAX_DEPTH or visited > _SHARED * len(children):
            raise ValueError("a tree is very deep, or has no end")
        frontier = children[frontier].ravel()
        frontier = frontier[frontier >= 0]
    return levels * len(roots)


def _by_index(attributes: Mapping[str, Any]) -> tuple[Array, Array]:
    """TreeEnsemble of version 5: children are places in the list of nodes, or of leaves."""
    columns = []
    for side in ("true", "false"):
        child, leaf = (_numbers(attributes, name) for name in (f"nodes_{side}nodeids", f"nodes_{side}leafs"))
        columns.append(np.where(leaf != 0, -1, child))
    roots = _numbers(attributes, "tree_roots")
    if len(roots) and (roots.min() < 0 or roots.max() >= len(columns[0])):
        raise ValueError("a root is not there")
    return np.stack(columns, axis=1), roots


def _by_name(attributes: Mapping[str, Any]) -> tuple[Array, Array]:
    """Versions 1 to 4: nodes have a tree and a number in it; of a leaf the children mean nothing."""
    trees, names = _numbers(attributes, "nodes_treeids"), _numbers(attributes, "nodes_nodeids")
    leaf = np.array([mode == b"LEAF" for mode in attributes["nodes_modes"].strings], dtype=bool)
    if len(names) and (min(trees.min(), names.min()) < 0 or max(trees.max(), names.max()) >= 1 << 31):
        raise ValueError("numbers of nodes are not usual")
    keys = trees << 31 | names
    order = np.argsort(keys, kind="stable")
    columns = []
    for side in ("true", "false"):
        wanted = trees << 31 | np.where(leaf, names, _numbers(attributes, f"nodes_{side}nodeids"))
        places = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
        if (keys[places] != wanted).any():
            raise ValueError("a child is not there")
        columns.append(np.where(leaf, -1, places))
    children = np.stack(columns, axis=1)
    is_child = np.zeros(len(keys), dtype=bool)
    is_child[children[children >= 0]] = True
    roots = np.flatnonzero(~is_child)
    if not np.array_equal(np.sort(trees[roots]), np.unique(trees)):
        raise ValueError("a tree without a root, or with several")
    return children, roots


def _numbers(attributes: Mapping[str, Any], name: str) -> Array:
    values = attributes[name].ints
    return np.fromiter(values, dtype=np.int64, count=len(values))
