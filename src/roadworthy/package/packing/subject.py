"""The live model that is packed, and the check that it answers rows from a request as it answers the user's own rows.

The model gets the user's own rows unconverted. The same rows, restored from a batch as for a request (`schema/restore.py`),
must get the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roadworthy.foundation.errors import ModelFault, PackError, RoadworthyError
from roadworthy.frameworks.framework import Framework, Preprocess
from roadworthy.optimize.equal import Difference, Tolerance, compare
from roadworthy.package.packing.own_rows import own_rows, with_column, with_index
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.restore import Restorer
from roadworthy.schema.signature import Container, Field, Signature
from roadworthy.schema.tables import answers_to_batch

_REPEATED = 256


@dataclass(frozen=True)
class Subject:
    """The live objects that are packed."""

    framework: Framework
    model: Any
    preprocess: Preprocess | None

    @property
    def yields_parts(self) -> bool:
        """Whether the model answers in parts."""
        asked = getattr(self.framework, "yields_parts", None)
        return asked is not None and bool(asked(self.model))

    def answer(self, rows: Any) -> Mapping[str, Array]:
        """Raw rows in the training container → named answers.

        Raises:
            PackError: "model-fails-on-sample", or the framework's error about the form of the answers.
        """
        try:
            return self.framework.answer(self.model, rows if self.preprocess is None else self.preprocess(rows))
        except RoadworthyError:
            raise
        except Exception as error:  # the model's own code may raise anything
            raise PackError(
                f"the model failed on the sample with {type(error).__name__}: {error}",
                code="model-fails-on-sample",
                hint="pass the raw rows as inputs=, and the function that prepares them for the model as preprocess=",
            ) from error


@dataclass(frozen=True)
class Sample:
    """The same training rows twice: `own` in the user's own container, `rows` as a batch; `numbers` are their row numbers."""

    signature: Signature
    own: Any
    rows: Batch
    numbers: Array


def answers_as_batch(layout: Layout, answers: Mapping[str, Array], rows: int) -> Batch:
    """Convert named answers to the form of the signature's outputs.

    Raises:
        PackError: "unsupported-output".
    """
    try:
        return answers_to_batch(layout, answers, rows)
    except ModelFault as error:
        raise PackError(error.message, code="unsupported-output") from error


def check_repeatable(subject: Subject, own: Any, answers: Batch) -> None:
    """Ask the model about the first rows again, and compare.

    Raises:
        PackError: "not-deterministic".
    """
    few = min(answers.rows, _REPEATED)
    again = answers_as_batch(answers.layout, subject.answer(own_rows(own, np.arange(few))), few)
    difference = compare(answers.slice(0, few), again, Tolerance())
    if difference is not None:
        raise not_repeatable(difference)


def not_repeatable(difference: object) -> PackError:
    """The error for a model that gives different answers to the same rows."""
    return PackError(
        f"the model gave different answers to the same rows: {difference}",
        code="not-deterministic",
        hint="fix the model's random seeds; an answer must not depend on the other rows of the request",
    )


def check_form(subject: Subject, sample: Sample, answers: Batch, tolerance: Tolerance) -> None:
    """Ask the model about the rows as a request would bring them, and compare with `answers`, those to the user's own rows.

    Raises:
        PackError: "training-form-lost", naming the first difference and, if known, the column; "not-deterministic".
    """
    restore = Restorer.of(sample.signature).restore
    found = _difference(subject, restore(sample.rows), answers, tolerance)
    if found is None:
        return
    again = _difference(subject, own_rows(sample.own), answers, tolerance)
    if again is not None:  # the form is not the cause
        raise not_repeatable(again)
    shown = found.renumbered(sample.numbers) if isinstance(found, Difference) else found
    if isinstance(found, Difference) and found.row is not None:
        alone = np.array([found.row])
        one = replace(sample, own=own_rows(sample.own, alone), rows=sample.rows.take(alone), numbers=alone)
        said = answers.take(alone)
        if _difference(subject, restore(one.rows), said, tolerance) is not None:
            sample, answers = one, said
    where, hint = _lost(subject, sample, restore(sample.rows), answers, tolerance)
    raise PackError(
        f"the model's answers change when the rows come from a request: {shown}{where}",
        code="training-form-lost",
        hint=hint,
        facts={"row": getattr(shown, "row", None), "field": getattr(shown, "field", None)},
    )


def _difference(subject: Subject, rows: Any, answers: Batch, tolerance: Tolerance) -> Difference | str | None:
    """The first difference between the answers to `rows` and `answers`; the model's error as text when it raises."""
    try:
        found = answers_as_batch(answers.layout, subject.answer(rows), answers.rows)
    except PackError as error:
        return error.message
    return compare(answers, found, tolerance)


def _lost(subject: Subject, sample: Sample, restored: Any, answers: Batch, tolerance: Tolerance) -> tuple[str, str]:
    """Which column loses its form, found by trying one column at a time, and what to do about it."""
    bare = with_index(sample.own)
    if bare is not None and _difference(subject, bare, answers, tolerance) is not None:
        return "; the answers depend on the index of the rows", "make the index a column: frame.reset_index()"
    if sample.signature.container in (Container.ARRAY, Container.LISTS):
        return "", "give the rows as numbers or text of one type, with NaN where a value is missing"
    for field in sample.signature.inputs:
        mixed = with_column(sample.own, restored, field.name)
        if _difference(subject, mixed, answers, tolerance) is not None:
            return f"; a request cannot carry the exact form of column {field.name!r}", _advice(field)
    return "", "give each column one type and one form of missing value"


def _advice(field: Field) -> str:
    if field.missing is not None:
        return f"give the column one type and one form of missing value; most of its rows use {field.missing.value!r}"
    return "give the column one type before training"
