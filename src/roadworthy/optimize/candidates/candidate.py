"""The interface that every candidate file fills: from a live model to files that another framework loads.

A candidate file holds a module-level tuple CANDIDATES. `discovery.py` finds the files by looking; no list names them. Whether a
candidate answers as the original does is not its own business: `compile.py` compares and measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from roadworthy.frameworks.framework import Preprocess, Saved
from roadworthy.optimize.equal import Tolerance
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature


@dataclass(frozen=True)
class Source:
    """The original that is to be converted, and the rows on which a conversion has to answer as it does.

    Attributes:
        model: the live object.
        signature: of the raw rows that it gets and of its answers.
        reference: the native runtime: raw rows to answers.
        golden, training: raw rows; training rows are those that were given, or a part of them.
        preprocess: a Python function that runs before the model, or None.
        tolerance: how far floats may lie apart.
    """

    model: Any
    signature: Signature
    reference: Callable[[Batch], Batch]
    golden: Batch
    training: Batch
    preprocess: Preprocess | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)


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
    def by_construction(self) -> bool:
        """Whether it answers as the original by the way it is made, and comparing only confirms it."""
        ...

    def convert(self, source: Source, folder: Path) -> Saved:
        """Write the converted model into the empty `folder`.

        Raises:
            NotConvertible: with the reason, for people.
            Exception: whatever a converter's library raises.
        """
        ...
