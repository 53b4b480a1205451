"""Proof before traffic: replay a package's golden examples through the whole path, and compare. Run wherever one is loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass

from roadworthy.foundation.errors import ProofFailed, RoadworthyError
from roadworthy.optimize.equal import Difference, Tolerance, compare
from roadworthy.package.construct import Constructed
from roadworthy.schema.batch import Batch


@dataclass(frozen=True, slots=True)
class Proof:
    """That a constructed package answers as in training.

    Attributes:
        digest, runtime: what was proved.
        rows: golden examples that were compared.
        seconds: how long it took.
        one_row_s: how long the run of a single row took.
    """

    digest: str
    runtime: str
    rows: int
    seconds: float
    one_row_s: float = 0.0


def prove(constructed: Constructed) -> Proof:
    """Replay all golden examples in one run, and the first alone.

    Raises:
        ProofFailed: "proof-failed", naming the first difference; "model-failed-on-golden" when the model raises.
    """
    started = time.monotonic()
    package = constructed.package
    inputs, expected = package.golden()
    tolerance = tolerance_of(constructed)
    began = started
    for rows in (inputs.rows, 1):
        began = time.monotonic()
        found = _run(constructed, inputs.slice(0, rows))
        difference = compare(expected.slice(0, rows), found, tolerance)
        if difference is not None:
            raise refuse(difference, constructed.runtime)
    now = time.monotonic()
    return Proof(package.digest, constructed.runtime, inputs.rows, now - started, now - began)


def tolerance_of(constructed: Constructed) -> Tolerance:
    """The package's own tolerance."""
    said = constructed.package.manifest.tolerance
    return Tolerance(rtol=float(said.relative), atol=float(said.absolute))


def refuse(difference: Difference, runtime: str) -> ProofFailed:
    """The error that names a difference."""
    return ProofFailed(
        f"the model's answers are not those of training: {difference}",
        hint="look for preprocessing that was left out, or a library of another version, and pack again",
        facts={
            "runtime": runtime,
            "row": difference.row,
            "field": difference.field,
            "expected": difference.expected,
            "found": difference.found,
            "rows_differing": difference.rows,
        },
    )


def _run(constructed: Constructed, batch: Batch) -> Batch:
    try:
        return constructed.run(batch)
    except RoadworthyError as error:
        raise ProofFailed(
            f"the model failed on its golden examples: {error.message}",
            code="model-failed-on-golden",
            hint=error.hint,
            facts={"runtime": constructed.runtime},
        ) from error
    except Exception as error:  # the model's own code may raise anything
        raise ProofFailed(
            f"the model failed on its golden examples with {type(error).__name__}",
            code="model-failed-on-golden",
            hint="run the model on its own training rows in a fresh process, mend it, and pack again",
            facts={"runtime": constructed.runtime},
        ) from error
