"""Converts tree ensembles behind per-column preprocessing to one double ONNX graph that takes the same branch for every input.

The arithmetic: a row goes left if the transformed value, cast by the estimator, is at most the threshold. The transformers are
monotonic, so this equals a comparison of the raw value with a float that is found by bisection (`exact/folding.py`), without
rounding. Leaves are added in double in the estimator's order; `exact/trees.py` states each link function. Values that the
estimator refuses are refused before the graph (`exact/admitted.py`).
"""

from __future__ import annotations

from pathlib import Path

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import Source
from roadworthy.optimize.exact.admitted import guards
from roadworthy.optimize.exact.folding import fold
from roadworthy.optimize.exact.forest import write_folded
from roadworthy.optimize.exact.graph import Writer
from roadworthy.optimize.exact.pipeline import Parts
from roadworthy.optimize.exact.trees import arithmetic


class ExactTrees:
    """The candidate "onnx-exact" for trees."""

    name = "onnx-exact"
    framework = "onnx"
    has_ties = False

    def convert(self, source: Source, folder: Path) -> Saved:
        """As Candidate.convert."""
        writer = Writer()
        folded = fold(source)
        write_folded(writer, folded, source.signature)
        ensemble, parts = folded.ensemble, folded.parts
        stated = (*_folded_steps(parts), *arithmetic(ensemble, type(parts.estimator).__name__))
        limits = guards(source, parts, ensemble.cast, takes_infinite=ensemble.takes_infinite)
        return writer.save(folder, stated, limits)


def _folded_steps(parts: Parts) -> tuple[str, ...]:
    """States which transformers were folded into the thresholds."""
    if not parts.transformers:
        return ()
    names = ", ".join(parts.transformers)
    return (f"{names}: folded into thresholds on raw values, each found to the neighbouring float",)


CANDIDATES = (ExactTrees(),)
