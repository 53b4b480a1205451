"""Finds a runtime that answers as the original does, only faster. Called by `package/packing/pack.py` before a package is sealed.

Each candidate converts the live model by construction: it reproduces the arithmetic of every step, and says which. What it wrote
is loaded as it would be served and compared with the original on everything in `exams.py`, and a search looks for places where it
jumps and the original does not: a fault in a converter is to be found here and not by a caller. Only one that is equal on all of
it and faster is kept; a failed conversion is an outcome with a reason, never an error.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from roadworthy.frameworks.discovery import framework_named
from roadworthy.frameworks.framework import Loaded, ModelFolder, Saved
from roadworthy.optimize.candidates.candidate import CONSTRUCTION, Candidate, NotConvertible, Source
from roadworthy.optimize.deadline import within
from roadworthy.optimize.discovery import candidates
from roadworthy.optimize.equal import Difference, Tolerance, compare
from roadworthy.optimize.exams import SEARCHED, Exam, answered, exams
from roadworthy.optimize.measure import speedup
from roadworthy.optimize.search import Run, find_jumps, searchable
from roadworthy.optimize.ties import settle_ties
from roadworthy.schema.batch import Batch
from roadworthy.schema.dtypes import DType

__all__ = ["Outcome", "Source", "compile_runtimes", "judge"]

FASTER_AT_ONE = 1.1
NOT_SLOWER_AT_HUNDRED = 0.95
CONVERSION_LIMIT_S = 60.0


ROUNDING = 1e-12
"""How far an answer in double may lie from the original's, relative to it and to the largest answer of the same rows."""
_NARROW_ROUNDING = 1e-6
"""The same for answers in float32."""


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate.

    Attributes:
        name: of the candidate and of its folder.
        framework: the framework file that loads it.
        kept: whether it may serve.
        reason: how it was proved, or why it was not kept; one sentence for people.
        saved: what loading needs, or None when nothing is kept.
        constructed: the arithmetic that it reproduces, one statement a step; empty when it could not be constructed.
        compared: rows by kind (golden, training, ordinary …) on which the comparison was made.
        speedup, speedup_100: how many times faster than the original for 1 and for 100 rows; None when not measured.
        difference: the first difference, when the answers differ.
    """

    name: str
    framework: str
    kept: bool
    reason: str
    saved: Saved | None = None
    constructed: tuple[str, ...] = ()
    compared: Mapping[str, int] = field(default_factory=dict)
    speedup: float | None = None
    speedup_100: float | None = None
    difference: Difference | None = None


def compile_runtimes(source: Source, folder: Path) -> tuple[Outcome, ...]:
    """One outcome a candidate. The files of a kept one are in `folder`/<name>/, of others nothing is left.

    At most one is kept: it must be equal, at least 1.1 times as fast as the original for one row and not slower for 100 (0.95
    leaves room for noise). Among several the first by name is kept: the choice is sealed into the package, so noise must not
    make it.

    Raises:
        Exception: what the original raises on the golden examples or the training rows.
    """
    if source.preprocess is not None:
        reason = "a Python preprocessing function comes before the model"
        return tuple(Outcome(c.name, c.framework, kept=False, reason=reason) for c in candidates())
    asked = cache(lambda: tuple(exams(source)))  # made when the first candidate has converted the model
    outcomes: list[Outcome] = []
    for candidate in candidates():
        tried = _try(candidate, source, asked, folder / candidate.name)
        first = next((outcome for outcome in outcomes if outcome.kept), None)
        if tried.kept and first is not None:
            tried = replace(tried, kept=False, saved=None, reason=f"{tried.reason}: {first.name} is kept instead")
        outcomes.append(tried)
    for outcome in outcomes:
        if not outcome.kept:
            shutil.rmtree(folder / outcome.name, ignore_errors=True)
    return tuple(outcomes)


def _try(candidate: Candidate, source: Source, asked: Callable[[], tuple[Exam, ...]], folder: Path) -> Outcome:
    """Convert, load, compare, measure."""
    outcome = Outcome(candidate.name, candidate.framework, kept=False, reason="")
    try:
        folder.mkdir(parents=True)
        saved = within(CONVERSION_LIMIT_S, lambda: candidate.convert(source, folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of runtimes, about graphs that they then run
            files = ModelFolder(folder)
            loaded = framework_named(candidate.framework).load(files, saved.options, source.signature, 1, None)
    except NotConvertible as error:
        return replace(outcome, reason=f"not convertible: {error}")
    except TimeoutError as error:
        return replace(outcome, reason=f"not convertible in time: {error}")
    except Exception as error:  # noqa: BLE001  converters and runtimes raise whatever they like; the original still serves
        return replace(outcome, reason=f"the conversion failed: {_first_line(error)}")
    try:
        stated = tuple(saved.options.get(CONSTRUCTION, ()))
        if not stated:
            return replace(outcome, reason="it does not state how it was constructed")
        examined = judge(
            replace(outcome, constructed=stated),
            source,
            asked(),
            loaded.run,
            ties=ROUNDING if candidate.has_ties else 0.0,
        )
        if examined.reason:
            return examined
        return _race(replace(examined, saved=saved), source, loaded)
    finally:
        loaded.close()


def judge(outcome: Outcome, source: Source, asked: tuple[Exam, ...], run: Run, *, ties: float = 0.0) -> Outcome:
    """`outcome` with the rows that were compared, and with a reason when `run` does not answer as the original does.

    Args:
        outcome: so far. source: the original. asked: rows with its answers. run: the runtime that is judged.
        ties: a row that gets another label when one of its values moves by this part of itself may have either label.
    """
    raws = searchable(source.signature) if ties else ()
    compared: dict[str, int] = {}
    for exam in _all(source, asked, run):
        compared[exam.kind] = compared.get(exam.kind, 0) + exam.rows.rows
        outcome = replace(outcome, compared=compared)
        if exam.expected is None:
            answers = _answering(run, exam.rows)
            if answers is not None:
                reason = f"it answers {exam.kind} rows that the original refuses: row {answers} of them"
                return replace(outcome, reason=reason)
            continue
        try:
            found = run(exam.rows)
            if ties:
                found = settle_ties(source.reference, raws, exam.rows, (exam.expected, found), ties)
            difference = compare(exam.expected, found, _tolerance(source, exam.expected))
        except Exception as error:  # noqa: BLE001  a converted model that fails is a candidate that is not kept
            return replace(outcome, reason=f"it fails on {exam.kind} rows: {_first_line(error)}")
        if difference is not None:
            return replace(outcome, difference=difference, reason=f"answers differ on {exam.kind} rows: {difference}")
    return outcome


def _all(source: Source, asked: tuple[Exam, ...], run: Run) -> Iterator[Exam]:
    """The exams that every candidate sits, then those that a search of this one makes."""
    yield from asked
    jumps = find_jumps(run, source.training, searchable(source.signature), seed=1)
    if jumps is not None:
        yield from answered(source, SEARCHED, jumps.rows)


def _answering(run: Run, rows: Batch) -> int | None:
    """The first row that `run` answers, asked one by one; None when it refuses all of them."""
    for row in range(rows.rows):
        try:
            run(rows.slice(row, row + 1))
        except Exception:  # noqa: BLE001, S112  refusing is what is wanted, in whatever way
            continue
        return row
    return None


def _tolerance(source: Source, expected: Batch) -> Tolerance:
    """How far a constructed runtime may round, or a foreign graph lie from its original: sums of large terms lose digits."""
    floats = [position for position, field in enumerate(expected.layout.fields) if field.dtype.is_float]
    narrow = any(expected.layout.fields[position].dtype is DType.FLOAT32 for position in floats)
    largest = 1.0
    for position in floats:
        values = np.abs(expected.column_at(position)[0].astype(np.float64))
        largest = max(largest, float(np.max(values, initial=0.0, where=np.isfinite(values))))
    if source.tolerance is not None:
        return Tolerance(source.tolerance.rtol, max(source.tolerance.atol, source.tolerance.rtol * largest))
    rounding = _NARROW_ROUNDING if narrow else ROUNDING
    return Tolerance(rtol=rounding, atol=rounding * largest)


def _race(outcome: Outcome, source: Source, loaded: Loaded) -> Outcome:
    """Measure an equal candidate against the original."""
    hundred = source.training.take(np.resize(np.arange(source.training.rows), 100))
    one = speedup(source.reference, loaded.run, hundred.slice(0, 1))
    many = speedup(source.reference, loaded.run, hundred)
    rows = ", ".join(f"{count:,} {kind}" for kind, count in outcome.compared.items())
    speeds = f"{one:.1f} times as fast for 1 row, {many:.1f} for 100"
    reason = f"equal by construction, and on {rows} rows; {speeds}"
    outcome = replace(outcome, reason=reason, speedup=one, speedup_100=many)
    if one < FASTER_AT_ONE or many < NOT_SLOWER_AT_HUNDRED:
        return replace(outcome, saved=None, reason=f"{reason}: not faster than the original")
    return replace(outcome, kept=True)


def _first_line(error: Exception) -> str:
    """A library's message, cut to one line that a card can hold."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
