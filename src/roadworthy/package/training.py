"""What the training process shows at pack time: rows, labels, answers; and the checks that they belong together.

`pack.py` looks at a model through this. Every fault here says what to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roadworthy.foundation.errors import InvalidInput, ModelFault, PackError, ProofFailed, RoadworthyError
from roadworthy.frameworks.answers import named_answers
from roadworthy.frameworks.framework import Framework, Preprocess
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.infer import infer_inputs, infer_outputs
from roadworthy.schema.signature import Container, Field, Privacy, Signature
from roadworthy.schema.tables import answers_to_batch, from_batch, to_batch

MAX_SAMPLE_ROWS = 20_000
"""Rows that the model is asked at pack time; more are still counted in the profile."""


@dataclass(frozen=True)
class Subject:
    """The live objects that are packed."""

    framework: Framework
    model: Any
    preprocess: Preprocess | None

    def answer(self, rows: Any) -> Mapping[str, Array]:
        """Raw rows in the training container → named answers.

        Raises:
            PackError: "model-fails-on-sample", or what the framework says about the form of the answers.
        """
        try:
            return self.framework.answer(self.model, rows if self.preprocess is None else self.preprocess(rows))
        except RoadworthyError:
            raise
        except Exception as error:  # the model's own code may raise anything
            raise PackError(
                f"the model fails on its own sample with {type(error).__name__}: {error}",
                code="model-fails-on-sample",
                hint="give the raw rows that the preprocessing takes, and the preprocessing itself with preprocess=",
            ) from error


@dataclass(frozen=True)
class Training:
    """The sample as batches.

    Attributes:
        signature: inferred from rows and answers.
        rows: all rows that were given.
        sample: up to MAX_SAMPLE_ROWS of them, spread over the whole; answers: what the live model says of these.
        labels: one field "label" for all rows, or None.
    """

    signature: Signature
    rows: Batch
    sample: Batch
    answers: Batch
    labels: Batch | None


def look_at(
    subject: Subject, inputs: Any, labels: Any, outputs: Any, privacy: Mapping[str, Privacy], tolerance: Tolerance
) -> Training:
    """Ask the live model about its training rows, and check that all that was given belongs together.

    Raises:
        PackError: "empty-sample", "labels-length", "outputs-length", "model-fails-on-sample", "answers-length",
            "not-deterministic", and those of `schema/infer.py`.
        ProofFailed: "training-outputs-differ": the live objects do not answer what training saw.
    """
    fields, container = infer_inputs(inputs, privacy=privacy)
    layout = Layout(fields)
    try:
        rows = to_batch(layout, inputs)
    except InvalidInput as error:
        raise PackError(error.message, code=error.code, hint=error.hint, facts=error.facts) from error
    chosen = _spread(rows.rows)
    sample = rows.take(chosen) if len(chosen) < rows.rows else rows
    try:
        raw = subject.answer(from_batch(sample, container))
    except PackError as error:
        raise _at_row(error, subject, sample, container, chosen) from error
    signature = Signature(fields, _output_fields(subject, raw, sample.rows), container)
    answers = _as_batch(Layout(signature.outputs), raw, sample.rows)
    _check_repeatable(subject, signature, sample, answers)
    if outputs is not None:
        answers = _seen_in_training(outputs, chosen, rows.rows, answers, tolerance)
    return Training(signature, rows, sample, answers, _labels(labels, rows.rows))


def _at_row(error: PackError, subject: Subject, sample: Batch, container: Container, chosen: Array) -> PackError:
    """The error with the number of a row that fails by itself, when there is one: found by halving."""
    if error.code != "model-fails-on-sample":
        return error
    start, stop = 0, sample.rows
    while stop - start > 1:
        middle = (start + stop) // 2
        if _fails(subject, sample.slice(start, middle), container):
            stop = middle
        elif _fails(subject, sample.slice(middle, stop), container):
            start = middle
        else:
            return error
    row = int(chosen[start])
    facts = {**error.facts, "row": row}
    return PackError(f"row {row} of the sample: {error.message}", code=error.code, hint=error.hint, facts=facts)


def _fails(subject: Subject, rows: Batch, container: Container) -> bool:
    try:
        subject.answer(from_batch(rows, container))
    except PackError:
        return True
    return False


def _spread(rows: int) -> Array:
    """Row numbers of the sample: all, or evenly spread ones."""
    if rows <= MAX_SAMPLE_ROWS:
        return np.arange(rows)
    return np.unique(np.linspace(0, rows - 1, MAX_SAMPLE_ROWS).astype(np.intp))


def _output_fields(subject: Subject, answers: Mapping[str, Array], rows: int) -> tuple[Field, ...]:
    for name, values in answers.items():
        if np.ndim(values) == 0 or len(values) != rows:
            found = len(values) if np.ndim(values) else "one value"
            raise PackError(
                f"the model answered {found} for {rows} rows ({name!r})",
                code="answers-length",
                hint="answer one row for each row asked; do not drop or add rows in the preprocessing",
            )
    return infer_outputs(answers, categories=subject.framework.categories(subject.model))


def _as_batch(layout: Layout, answers: Mapping[str, Array], rows: int) -> Batch:
    try:
        return answers_to_batch(layout, answers, rows)
    except ModelFault as error:
        raise PackError(error.message, code="unsupported-output") from error


def _check_repeatable(subject: Subject, signature: Signature, sample: Batch, answers: Batch) -> None:
    few = min(sample.rows, 256)
    again = subject.answer(from_batch(sample.slice(0, few), signature.container))
    found = _as_batch(Layout(signature.outputs), again, few)
    difference = compare(answers.slice(0, few), found, Tolerance())
    if difference is not None:
        raise PackError(
            f"the model gives other answers when asked again: {difference}",
            code="not-deterministic",
            hint="fix its random seeds; answers must not depend on the other rows of a request",
        )


def _seen_in_training(outputs: Any, chosen: Array, rows: int, answers: Batch, tolerance: Tolerance) -> Batch:
    """Compare what training saw with what the live objects answer now, for the outputs that were given; return the answers with
    those that training saw in their places."""
    given = _named(outputs, answers.layout)
    fields = tuple(field for field in answers.layout.fields if field.name in given)
    for name, values in given.items():
        if name not in answers.layout.positions:
            raise PackError(
                f"outputs= names {name!r}, which the model does not answer",
                code="outputs-unknown",
                hint=f"the model answers: {', '.join(answers.layout.positions)}",
            )
        if len(values) != rows:
            raise PackError(
                f"outputs= has {len(values)} rows of {name!r}, inputs= has {rows}",
                code="outputs-length",
                hint="give the answers for exactly the rows of inputs=, in the same order",
            )
    layout = Layout(fields)
    seen = _as_batch(layout, {name: values[chosen] for name, values in given.items()}, len(chosen))
    now = Batch.from_columns(layout, [answers.column(field.name) for field in fields], answers.rows)
    difference = compare(seen, now, tolerance)
    if difference is not None:
        if difference.row is not None:
            difference = replace(difference, row=int(chosen[difference.row]))
        raise ProofFailed(
            f"the model does not answer what training saw: {difference}",
            code="training-outputs-differ",
            hint="was preprocessing left out? give it with preprocess=, or put it into the pipeline",
            facts={"row": difference.row, "field": difference.field, "rows_differing": difference.rows},
        )
    names = [field.name for field in answers.layout.fields]
    columns = [seen.column(name) if name in given else answers.column(name) for name in names]
    return Batch.from_columns(answers.layout, columns, answers.rows)


def _named(outputs: Any, layout: Layout) -> dict[str, Array]:
    """outputs= as named arrays: a bare array is the probabilities when it has columns, else the first output."""
    array = named_answers(outputs, "?")
    if "?" not in array:
        return array
    values = array["?"]
    wide = [field.name for field in layout.fields if field.shape]
    name = wide[0] if values.ndim > 1 and wide else layout.fields[0].name
    return {name: values}


def _labels(labels: Any, rows: int) -> Batch | None:
    if labels is None:
        return None
    values = next(iter(named_answers(labels, "label").values()))
    if len(values) != rows:
        raise PackError(
            f"labels= has {len(values)} rows, inputs= has {rows}",
            code="labels-length",
            hint="give the label of each row of inputs=, in the same order",
        )
    field = infer_outputs({"label": values})[0]
    return _as_batch(Layout((field,)), {"label": values}, rows)
