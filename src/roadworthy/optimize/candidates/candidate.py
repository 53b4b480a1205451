"""The interface of candidate files, which convert a live model to files that another framework loads.

A candidate file has a module-level tuple CANDIDATES. `discovery.py` finds the files; no list names them. A candidate is equal by
construction: it reproduces the arithmetic of every step that it converts, states it, and refuses steps that it cannot reproduce.
`compile.py` nevertheless compares and searches, so that an error in a converter is found before the runtime serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from roadworthy.frameworks.framework import Preprocess, Saved
from roadworthy.optimize.equal import Tolerance
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature

CONSTRUCTION = "construction"
"""The option of a converted runtime that states the arithmetic it reproduces, one sentence per step. A runtime without it was
only compared with its original, and may not serve."""


@dataclass(frozen=True)
class Source:
    """The original to convert, and the rows on which a conversion must give the same answers.

    Attributes:
        model: the live object.
        signature: of its raw rows and its answers.
        reference: the native runtime: raw rows to answers.
        golden, training: raw rows; `training` are the user's training rows, or a part of them.
        preprocess: a Python function that runs before the model, or None.
        tolerance: how far floats may differ when the original is compared with a graph that was not constructed here; None
            for constructed graphs, which may only round.
    """

    model: Any
    signature: Signature
    reference: Callable[[Batch], Batch]
    golden: Batch
    training: Batch
    preprocess: Preprocess | None = None
    tolerance: Tolerance | None = None


class NotConvertible(Exception):
    """The candidate cannot convert the model; the text says why. it becomes an outcome's reason."""


class Candidate(Protocol):
    """A conversion. Stateless."""

    @property
    def name(self) -> str:
        """The runtime's name on the card and in `roadworthy status`: "onnx-exact"."""
        ...

    @property
    def framework(self) -> str:
        """The framework that loads the files of `convert`."""
        ...

    @property
    def has_ties(self) -> bool:
        """Whether labels come from rounded sums, so that a row on a decision boundary may get either label."""
        ...

    def convert(self, source: Source, folder: Path) -> Saved:
        """Write the converted model into the empty `folder`. The returned option "construction" states, step by step, the
        arithmetic that the model reproduces and its rounding; "guards" and "refusal" state what the original refuses.

        Raises:
            NotConvertible: with the reason.
            Exception: any error of a converter's library.
        """
        ...
