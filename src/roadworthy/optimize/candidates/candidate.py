"""The interface that every candidate file fills: from a live model to files that another framework loads.

A candidate file holds a module-level tuple CANDIDATES. `discovery.py` finds the files by looking; no list names them. A candidate
is equal by construction: it reproduces the arithmetic of every step that it converts, states it, and refuses what it cannot
reproduce. `compile.py` compares and searches all the same, so that a fault in a converter is found before it serves.
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
"""The option of a converted runtime that states the arithmetic which it reproduces, one sentence a step. A runtime without it was
only compared with its original, and may not serve."""


@dataclass(frozen=True)
class Source:
    """The original that is to be converted, and the rows on which a conversion has to answer as it does.

    Attributes:
        model: the live object.
        signature: of the raw rows that it gets and of its answers.
        reference: the native runtime: raw rows to answers.
        golden, training: raw rows; training rows are those that were given, or a part of them.
        preprocess: a Python function that runs before the model, or None.
        tolerance: how far floats may lie apart where the rows are compared with a graph that was not constructed here; None
            for constructed ones, which may only round.
    """

    model: Any
    signature: Signature
    reference: Callable[[Batch], Batch]
    golden: Batch
    training: Batch
    preprocess: Preprocess | None = None
    tolerance: Tolerance | None = None


class NotConvertible(Exception):
    """This candidate does not know how to convert that model; the text says what it met. Never leaves the room: it becomes an
    outcome's reason."""


class Candidate(Protocol):
    """One way to convert. Stateless."""

    @property
    def name(self) -> str:
        """What the card and `roadworthy status` call the runtime: "onnx-exact"."""
        ...

    @property
    def framework(self) -> str:
        """The framework file that loads what `convert` wrote."""
        ...

    @property
    def has_ties(self) -> bool:
        """Whether labels come from sums that round, so that a row on a decision boundary may have either label."""
        ...

    def convert(self, source: Source, folder: Path) -> Saved:
        """Write the converted model into the empty `folder`. The option "construction" of what is returned states, step by step,
        the arithmetic that it reproduces and how far each step can round; "guards" and "refusal" what the original refuses.

        Raises:
            NotConvertible: with the reason, for people.
            Exception: whatever a converter's library raises.
        """
        ...
