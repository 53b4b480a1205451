"""Tree ensembles behind per-column preprocessing, as one double ONNX graph that takes the same branch for every input."""

from __future__ import annotations

from pathlib import Path

from roadworthy.frameworks.framework import Saved
from roadworthy.optimize.candidates.candidate import Source
from roadworthy.optimize.exact.folding import fold
from roadworthy.optimize.exact.forest import write_folded
from roadworthy.optimize.exact.graph import Writer


class ExactTrees:
    """The candidate "onnx-exact" for trees."""

    name = "onnx-exact"
    framework = "onnx"
    by_construction = True

    def convert(self, source: Source, folder: Path) -> Saved:
        """As Candidate.convert."""
        writer = Writer()
        write_folded(writer, fold(source), source.signature)
        return writer.save(folder)


CANDIDATES = (ExactTrees(),)
