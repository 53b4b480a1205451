"""Proof before traffic: replays a package's golden examples through the whole path, and compares. Runs at every load."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np

from roadworthy.foundation.errors import InvalidInput, ModelFault, ProofFailed, RoadworthyError
from roadworthy.frameworks.parts import BatchSteps
from roadworthy.optimize.equal import Difference, Tolerance, compare
from roadworthy.package.construct import Constructed
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.rows import decode_rows, encode_column

ALONE_S = 1.0
"""Time limit in seconds for single-row examples at load; `replay.py` allows more at pack and push."""

Column = tuple[Array, Array | None]


@dataclass(frozen=True, slots=True)
class Proof:
    """Evidence that a constructed package answers as in training.

    Attributes:
        digest, runtime: of the proved package.
        rows: number of golden examples that were compared.
        seconds: duration of the proof.
        one_row_s: median duration of a single-row run, in seconds.
    """

    digest: str
    runtime: str
    rows: int
    seconds: float
    one_row_s: float = 0.0


def prove(constructed: Constructed, *, alone_s: float = ALONE_S) -> Proof:
    """Replay all golden examples in one run, one by one, and decoded from a JSON request.

    Args:
        constructed: the live package.
        alone_s: time limit in seconds for single-row examples; rows with missing values come first.

    Raises:
        ProofFailed: "proof-failed", naming the first difference; "model-failed-on-golden" when the model raises.
    """
    started = time.monotonic()
    package = constructed.package
    if package.signature.parts:
        return _prove_parts(constructed, started)
    inputs, expected = package.golden()
    _compare(constructed, inputs, expected, (0, inputs.rows))
    times = []
    for row in _missing_first(inputs):
        times.append(_compare(constructed, inputs, expected, (row, row + 1)))
        if sum(times) > alone_s:
            break
    _compare(constructed, _through_json(inputs, constructed.runtime), expected, (0, inputs.rows))
    took = time.monotonic() - started
    return Proof(package.digest, constructed.runtime, inputs.rows, took, sorted(times)[len(times) // 2])


def _prove_parts(constructed: Constructed, started: float) -> Proof:
    """Replay the examples of a model that answers in parts, each alone and as decoded from JSON: all its parts must be there, in
    order."""
    begin = constructed.parts
    if begin is None:
        raise ProofFailed(
            "the model answers in parts, and what its kind of runner made of it does not",
            hint="report it to the author of the plug-in: the runner has no `parts`",
            facts={"runtime": constructed.runtime},
        )
    examples = constructed.package.examples()
    times = []
    for row, (given, expected) in enumerate(examples):
        began = time.monotonic()
        found = _run(constructed, _through_json(given, constructed.runtime), partial(_joined_parts, begin))
        times.append((time.monotonic() - began) / found.rows)
        if found.rows != expected.rows:
            raise ProofFailed(
                f"golden example {row}: expected {expected.rows} parts, got {found.rows}",
                hint="look for missing preprocessing or a library of a different version, and pack again",
                facts={"runtime": constructed.runtime, "row": row},
            )
        difference = compare(expected, found, tolerance_of(constructed))
        if difference is not None:
            raise refuse(difference.renumbered(np.full(found.rows, row)), constructed.runtime)
    seconds = time.monotonic() - started
    return Proof(constructed.package.digest, constructed.runtime, len(examples), seconds, sorted(times)[len(times) // 2])


def _compare(constructed: Constructed, inputs: Batch, expected: Batch, rows: tuple[int, int]) -> float:
    """Ask about some of the rows; return the duration of the run in seconds.

    Raises:
        ProofFailed: the answers differ from the expected ones.
    """
    began = time.monotonic()
    found = _run(constructed, inputs.slice(*rows))
    took = time.monotonic() - began
    difference = compare(expected.slice(*rows), found, tolerance_of(constructed))
    if difference is not None:
        raise refuse(difference.renumbered(range(*rows)), constructed.runtime)
    return took


def _missing_first(inputs: Batch) -> list[int]:
    """All row numbers, those with a missing value first."""
    missing = np.zeros(inputs.rows, dtype=bool)
    for block in inputs.blocks:
        if block.mask is not None:
            missing |= block.mask.reshape(inputs.rows, -1).any(axis=1)
    return [*np.flatnonzero(missing).tolist(), *np.flatnonzero(~missing).tolist()]


def _through_json(inputs: Batch, runtime: str) -> Batch:
    """The rows as decoded from a JSON request that holds them.

    Raises:
        ProofFailed: they are not identical to the last bit.
    """
    names = [field.name for field in inputs.layout.fields]
    columns = [encode_column(inputs, position) for position in range(len(names))]
    text = json.dumps([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])
    try:
        sent, _ = decode_rows(inputs.layout, json.loads(text))
    except InvalidInput as error:
        raise _lost_in_json(error.message, runtime) from error
    for position, field in enumerate(inputs.layout.fields):
        if not _same_bits(inputs.column_at(position), sent.column_at(position)):
            raise _lost_in_json(f"column {field.name!r} changes", runtime)
    return sent


def _same_bits(one: Column, other: Column) -> bool:
    values, mask = one
    found, nulls = other
    there = np.ones(values.shape, dtype=bool) if mask is None else ~mask
    if not np.array_equal(there, np.ones(found.shape, dtype=bool) if nulls is None else ~nulls):
        return False
    if values.dtype.kind == "O":
        return bool(values[there].tolist() == found[there].tolist())
    return values[there].tobytes() == found[there].tobytes()


def _lost_in_json(what: str, runtime: str) -> ProofFailed:
    return ProofFailed(
        f"the golden examples do not survive a JSON request: {what}",
        hint="use values that JSON can carry exactly in that column, and pack again",
        facts={"runtime": runtime},
    )


def tolerance_of(constructed: Constructed) -> Tolerance:
    """The package's own tolerance."""
    said = constructed.package.manifest.tolerance
    return Tolerance(rtol=float(said.relative), atol=float(said.absolute))


def refuse(difference: Difference, runtime: str) -> ProofFailed:
    """The error that names a difference."""
    return ProofFailed(
        f"the model's answers differ from those of training: {difference}",
        hint="look for missing preprocessing or a library of a different version, and pack again",
        facts={
            "runtime": runtime,
            "row": difference.row,
            "field": difference.field,
            "expected": difference.expected,
            "found": difference.found,
            "rows_differing": difference.rows,
        },
    )


def _joined_parts(begin: Callable[[Batch], BatchSteps], batch: Batch) -> Batch:
    """All parts, one below the other, by the way that requests take: what a kind of runner makes of `run` may differ.

    Raises:
        ModelFault: "no-parts", and as `begin`.
    """
    with closing(begin(batch)) as steps:
        found = list(iter(partial(next, steps, None), None))
    if not found:
        raise ModelFault("the model yielded no part", code="no-parts")
    return Batch.concatenate(found)


def _run(constructed: Constructed, batch: Batch, run: Callable[[Batch], Batch] | None = None) -> Batch:
    try:
        return (run or constructed.run)(batch)
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
            hint="run the model on its training rows in a new process, fix it, and pack again",
            facts={"runtime": constructed.runtime},
        ) from error
