"""Finds a runtime that answers as the original does, only faster. Called by `package/pack.py` before a package is sealed.

Each candidate converts the live model. What it wrote is loaded as it would be served, and compared with the original on golden
examples, training rows, rows perturbed from them and rows at split thresholds. Only one that is equal on all of them and faster
is kept; a failed conversion is an outcome with a reason, never an error.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from roadworthy.frameworks.discovery import framework_named
from roadworthy.frameworks.framework import Loaded, Saved
from roadworthy.optimize.candidates.candidate import Candidate, NotConvertible, Source
from roadworthy.optimize.deadline import within
from roadworthy.optimize.discovery import candidates
from roadworthy.optimize.equal import Difference, compare
from roadworthy.optimize.exact.folding import fold
from roadworthy.optimize.measure import speedup
from roadworthy.optimize.rows import MAX_TRAINING, at_thresholds, chunks, perturbed, spread, with_unseen_words
from roadworthy.schema.batch import Batch

__all__ = ["Outcome", "Source", "compile_runtimes"]

FASTER_AT_ONE = 1.1
NOT_SLOWER_AT_HUNDRED = 0.95
MUCH_FASTER = 1.5
CONVERSION_LIMIT_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate.

    Attributes:
        name: of the candidate and of its folder.
        framework: the framework file that loads it.
        kept: whether it may serve.
        reason: how it was proved, or why it was not kept; one sentence for people.
        saved: what loading needs, or None when nothing is kept.
        compared: rows by kind (golden, training, perturbed, thresholds) on which the comparison was made.
        speedup, speedup_100: how many times faster than the original for 1 and for 100 rows; None when not measured.
        difference: the first difference, when the answers differ.
    """

    name: str
    framework: str
    kept: bool
    reason: str
    saved: Saved | None = None
    compared: Mapping[str, int] = field(default_factory=dict)
    speedup: float | None = None
    speedup_100: float | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class _Exam:
    """Rows of one kind with the answers that the original gives."""

    kind: str
    rows: Batch
    expected: Batch


@dataclass(frozen=True)
class _Tried:
    """What became of one candidate so far, and its median time for one row when it is equal and faster."""

    outcome: Outcome
    by_construction: bool = False
    time_s: float | None = None


def compile_runtimes(source: Source, folder: Path) -> tuple[Outcome, ...]:
    """One outcome a candidate. The files of a kept one are in `folder`/<name>/, of others nothing is left.

    At most one is kept: it must be equal, at least 1.1 times as fast as the original for one row and not slower for 100 (0.95
    leaves room for noise). Among several, one that is equal by construction goes before one that was only compared, and one of
    the same kind replaces another only when it is 1.5 times as fast for one row: the choice is sealed into the package, so noise
    must not make it.

    Raises:
        Exception: what the original raises on the golden examples or the training rows.
    """
    if source.preprocess is not None:
        reason = "a Python preprocessing function comes before the model"
        return tuple(Outcome(c.name, c.framework, kept=False, reason=reason) for c in candidates())
    exams = tuple(_exams(source))
    tried = [_try(candidate, source, exams, folder / candidate.name) for candidate in candidates()]
    chosen = _choose(tried)
    outcomes = tuple(_settle(found, chosen) for found in tried)
    for outcome in outcomes:
        if not outcome.kept:
            shutil.rmtree(folder / outcome.name, ignore_errors=True)
    return outcomes


def _exams(source: Source) -> Iterator[_Exam]:
    """All rows to be compared on, answered by the original once."""
    for kind, rows in (("golden", source.golden), ("training", spread(source.training, MAX_TRAINING))):
        for part in chunks(rows):
            yield _Exam(kind, part, source.reference(part))
    for kind, rows in _made_rows(source):
        for part in chunks(rows):
            expected = _answered(source, part)
            if expected is not None:
                yield _Exam(kind, part, expected)


def _answered(source: Source, rows: Batch) -> Batch | None:
    """The original's answers to made-up rows, or None when it refuses them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return source.reference(rows)
    except Exception:  # noqa: BLE001  the original may refuse rows that nobody sent, in any way it likes
        return None


def _made_rows(source: Source) -> Iterator[tuple[str, Batch]]:
    yield "perturbed", perturbed(source.training)
    strange = with_unseen_words(source.training)
    if strange is not None:
        yield "perturbed", strange
    try:
        edges = fold(source).edges
    except Exception:  # noqa: BLE001  thresholds that cannot be read, for any reason, leave the other kinds of rows
        return
    rows = at_thresholds(source.training, edges)
    if rows is not None:
        yield "thresholds", rows


def _try(candidate: Candidate, source: Source, exams: tuple[_Exam, ...], folder: Path) -> _Tried:
    """Convert, load, compare, measure."""
    outcome = Outcome(candidate.name, candidate.framework, kept=False, reason="")
    try:
        folder.mkdir(parents=True)
        saved = within(CONVERSION_LIMIT_S, lambda: candidate.convert(source, folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of runtimes, about graphs that they then run
            loaded = framework_named(candidate.framework).load(folder, saved.options, source.signature, 1, None)
    except NotConvertible as error:
        return _Tried(replace(outcome, reason=f"not convertible: {error}"))
    except TimeoutError as error:
        return _Tried(replace(outcome, reason=f"not convertible in time: {error}"))
    except Exception as error:  # noqa: BLE001  converters and runtimes raise whatever they like; the original still serves
        return _Tried(replace(outcome, reason=f"the conversion failed: {_first_line(error)}"))
    try:
        tried = _examine(replace(outcome, saved=saved), source, exams, loaded)
        return replace(tried, by_construction=candidate.by_construction)
    finally:
        loaded.close()


def _examine(outcome: Outcome, source: Source, exams: tuple[_Exam, ...], loaded: Loaded) -> _Tried:
    compared: dict[str, int] = {}
    for exam in exams:
        try:
            difference = compare(exam.expected, loaded.run(exam.rows), source.tolerance)
        except Exception as error:  # noqa: BLE001  a converted model that fails is a candidate that is not kept
            reason = f"it fails on {exam.kind} rows: {_first_line(error)}"
            return _Tried(replace(outcome, saved=None, compared=compared, reason=reason))
        compared[exam.kind] = compared.get(exam.kind, 0) + exam.rows.rows
        if difference is not None:
            reason = f"answers differ on {exam.kind} rows: {difference}"
            return _Tried(replace(outcome, saved=None, compared=compared, difference=difference, reason=reason))
    return _race(replace(outcome, compared=compared), source, loaded)


def _race(outcome: Outcome, source: Source, loaded: Loaded) -> _Tried:
    """Measure an equal candidate against the original."""
    hundred = source.training.take(np.resize(np.arange(source.training.rows), 100))
    one, time_1 = speedup(source.reference, loaded.run, hundred.slice(0, 1))
    many, _ = speedup(source.reference, loaded.run, hundred)
    rows = ", ".join(f"{count:,} {kind}" for kind, count in outcome.compared.items())
    speeds = f"{one:.1f} times as fast for 1 row, {many:.1f} for 100"
    reason = f"equal on {rows} rows; {speeds}"
    outcome = replace(outcome, reason=reason, speedup=one, speedup_100=many)
    if one < FASTER_AT_ONE or many < NOT_SLOWER_AT_HUNDRED:
        return _Tried(replace(outcome, saved=None, reason=f"{reason}: not faster than the original"))
    return _Tried(outcome, time_s=time_1)


def _choose(tried: list[_Tried]) -> _Tried | None:
    """The one that is kept, or None."""
    chosen: _Tried | None = None
    for found in sorted(tried, key=lambda found: not found.by_construction):
        if found.time_s is None:
            continue
        same_kind = chosen is not None and chosen.by_construction == found.by_construction
        if chosen is None or (same_kind and found.time_s * MUCH_FASTER < (chosen.time_s or 0.0)):
            chosen = found
    return chosen


def _settle(found: _Tried, chosen: _Tried | None) -> Outcome:
    if found is chosen:
        return replace(found.outcome, kept=True)
    if found.time_s is None or chosen is None:
        return found.outcome
    return replace(found.outcome, saved=None, reason=f"{found.outcome.reason}: {chosen.outcome.name} is kept instead")


def _first_line(error: Exception) -> str:
    """A library's message, cut to one line that a card can hold."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
