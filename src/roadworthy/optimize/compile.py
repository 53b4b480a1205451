"""Finds a faster runtime with the same answers as the original. `package/packing/pack.py` calls it before sealing a package.

Each candidate converts the live model by construction: it reproduces the arithmetic of every step and states it. The converted
model is loaded as for serving and compared with the original on all rows of `exams.py`. A search also looks for places where it
jumps and the original does not, so that a converter's error is found here and not by a caller. A candidate is kept only if it is
equal on all of these rows and faster. A failed conversion is an outcome with a reason, never an error.
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
"""How far an answer in double may differ from the original's, relative to it and to the largest answer of the same rows."""
_NARROW_ROUNDING = 1e-6
"""As ROUNDING, for answers in float32."""


@dataclass(frozen=True)
class Outcome:
    """The result of one candidate.

    Attributes:
        name: of the candidate and its folder.
        framework: the framework that loads it.
        kept: whether it may serve.
        reason: how it was proved, or why it was not kept; one sentence.
        saved: the information needed to load it, or None when nothing is kept.
        constructed: the arithmetic that it reproduces, one statement per step; empty if it could not be constructed.
        compared: number of compared rows by kind (golden, training, ordinary …).
        speedup, speedup_100: speed relative to the original for 1 and for 100 rows; None when not measured.
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
    """Try every candidate; return one outcome for each. `folder`/<name>/ holds the files of a kept candidate only.

    At most one is kept. It must be equal, at least 1.1 times as fast as the original for one row, and not slower for 100 (0.95
    allows for noise). Among several, the first by name is kept: the choice is sealed into the package and must not depend on
    noise.

    Raises:
        Exception: any error of the original on the golden examples or the training rows.
    """
    if source.preprocess is not None:
        reason = "a Python preprocessing function comes before the model"
        return tuple(Outcome(c.name, c.framework, kept=False, reason=reason) for c in candidates())
    asked = cache(lambda: tuple(exams(source)))  # not made until a candidate has converted the model
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
            warnings.simplefilter("ignore")  # runtimes warn about graphs that they then run correctly
            files = ModelFolder(folder)
            loaded = framework_named(candidate.framework).load(files, saved.options, source.signature, 1, None)
    except NotConvertible as error:
        return replace(outcome, reason=f"not convertible: {error}")
    except TimeoutError as error:
        return replace(outcome, reason=f"not convertible in time: {error}")
    except Exception as error:  # noqa: BLE001  converters and runtimes may raise any exception; the original still serves
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
    """Compare a runtime with the original; add the compared rows to `outcome`, and a reason if the answers differ.

    Args:
        outcome: so far. source: the original. asked: rows with its answers. run: the runtime to compare.
        ties: relative change of one value; a row whose label changes with it may get either label.
    """
    raws = searchable(source.signature) if ties else ()
    compared: dict[str, int] = {}
    for exam in _all(source, asked, run):
        compared[exam.kind] = compared.get(exam.kind, 0) + exam.rows.rows
        outcome = replace(outcome, compared=compared)
        if exam.expected is None:
            answers = _answering(run, exam.rows)
            if answers is not None:
                reason = f"it answers {exam.kind} rows that the original refuses, the first is row {answers}"
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
    """The exams for every candidate, then those from the search for this candidate's jumps."""
    yield from asked
    jumps = find_jumps(run, source.training, searchable(source.signature), seed=1)
    if jumps is not None:
        yield from answered(source, SEARCHED, jumps.rows)


def _answering(run: Run, rows: Batch) -> int | None:
    """The first row that `run` answers when asked row by row; None when it refuses all rows."""
    for row in range(rows.rows):
        try:
            run(rows.slice(row, row + 1))
        except Exception:  # noqa: BLE001, S112  any exception is a refusal, which is the expected result
            continue
        return row
    return None


def _tolerance(source: Source, expected: Batch) -> Tolerance:
    """How far a constructed runtime may round, or a foreign graph may differ: sums of large terms lose digits."""
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
    """The first line of a library's message, shortened for the card."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
