"""Tree ensembles run by Treelite's own interpreter (GTIL), as `optimize` compiled them.

The checkpoint holds the trees only. Options that `load` understands besides "file":
    columns  [[block, column], …]: where in the batch each of the trees' features lies; nulls are given as NaN
    head     "logistic", "softmax", "probabilities" or "identity": how the sums become answers
    divisor  what the sums are divided by
    zero_is_second  for "logistic", whether a sum of exactly 0 is the second class
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackageRefused, PackError
from roadworthy.frameworks.framework import Loaded, Preprocess, Saved
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.signature import Scalar, Signature
from roadworthy.schema.tables import answers_to_batch

MODEL_FILE = "trees.treelite"


class Treelite:
    """Only loads: nobody hands in a Treelite model of their own."""

    name = "treelite"

    def recognises(self, model: object) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def answer(self, model: Any, rows: Any) -> Mapping[str, Array]:  # noqa: ARG002
        """Treelite models are made by `optimize` only."""
        raise _not_packable()

    def categories(self, _model: Any) -> Mapping[str, Sequence[Scalar]]:
        """A checkpoint does not tell its labels."""
        return {}

    def save(self, model: Any, folder: Path) -> Saved:  # noqa: ARG002
        """Treelite models are made by `optimize` only."""
        raise _not_packable()

    def load(
        self,
        folder: Path,
        options: Mapping[str, Any],
        signature: Signature,
        threads: int,
        preprocess: Preprocess | None,
    ) -> Loaded:
        """The trees in memory."""
        if preprocess is not None:
            raise PackageRefused("the trees take raw rows", code="graph-mismatch", hint="pack the model again")
        try:
            import treelite
        except ImportError as error:
            raise PackageRefused(
                "Treelite is not installed here",
                code="requirement-missing",
                hint='pip install "roadworthy[compile]"',
                facts={"requirement": "treelite"},
            ) from error
        model = treelite.Model.deserialize(folder / Path(str(options.get("file", MODEL_FILE))).name)
        return _Trees(lambda matrix: _sums(treelite, model, matrix, threads), options, signature)


def _not_packable() -> PackError:
    return PackError(
        "a Treelite model cannot be packed by itself", code="unsupported-model", hint="pack the model it was made from"
    )


def _sums(treelite: Any, model: Any, matrix: Array, threads: int) -> Array:
    """(rows, targets) double sums."""
    result = treelite.gtil.predict(model, matrix, nthread=threads, pred_margin=True)
    return np.asarray(result, dtype=np.float64).reshape(len(matrix), -1)


class _Trees:
    """Batch → matrix of doubles → sums → answers."""

    concurrent = False

    def __init__(self, sums: Callable[[Array], Array], options: Mapping[str, Any], signature: Signature) -> None:
        self._sums = sums
        self._columns = [(int(block), int(column)) for block, column in options["columns"]]
        self._head = str(options["head"])
        self._divisor = int(options.get("divisor", 1))
        self._zero_is_second = bool(options.get("zero_is_second", False))
        self._outputs = Layout(signature.outputs)
        label = next((field for field in signature.outputs if field.name == "label"), None)
        self._classes: Array | None = None
        if label is not None:
            self._classes = np.array(list(options["classes"]), dtype=label.dtype.numpy)

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order."""
        matrix = np.empty((batch.rows, len(self._columns)), dtype=np.float64)
        for place, (block, column) in enumerate(self._columns):
            source = batch.blocks[block]
            matrix[:, place] = source.values[:, column]
            if source.mask is not None:
                matrix[source.mask[:, column], place] = np.nan
        return answers_to_batch(self._outputs, self._answers(self._sums(matrix) / self._divisor), batch.rows)

    def _answers(self, sums: Array) -> dict[str, Array]:
        if self._classes is None:
            return {"prediction": sums[:, 0]}
        if self._head == "logistic":
            single = sums[:, 0]
            with np.errstate(over="ignore"):
                second = 1.0 / (1.0 + np.exp(-single))
            chosen = single >= 0 if self._zero_is_second else single > 0
            return {
                "probabilities": np.stack([1.0 - second, second], axis=1),
                "label": self._classes[chosen.astype(int)],
            }
        probabilities = sums
        if self._head == "softmax":
            raised = np.exp(sums - sums.max(axis=1, keepdims=True))
            probabilities = raised / raised.sum(axis=1, keepdims=True)
        return {"probabilities": probabilities, "label": self._classes[sums.argmax(axis=1)]}

    def close(self) -> None:
        """Let go of the trees."""
        self._sums = _closed


def _closed(_matrix: Array) -> Array:
    raise PackageRefused("the version is closed", code="version-closed")


FRAMEWORK = Treelite()
