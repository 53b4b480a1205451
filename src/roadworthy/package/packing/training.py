"""What the training process shows at pack time: rows, labels, answers; and the checks that they belong together.

`pack.py` looks at a model through this. Every fault here says what to change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roadworthy.foundation.errors import InvalidInput, PackError, ProofFailed
from roadworthy.frameworks.answers import named_answers
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.package.packing.own_rows import own_rows, with_missing
from roadworthy.package.packing.subject import Sample, Subject, answers_as_batch, check_form, check_repeatable
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.forms import form_of
from roadworthy.schema.infer import infer_inputs, infer_outputs
from roadworthy.schema.signature import Field, Privacy, Signature
from roadworthy.schema.tables import to_batch

MAX_SAMPLE_ROWS = 20_000
"""Rows that the model is asked at pack time; more are still counted in the profile."""


@dataclass(frozen=True)
class Training:
    """The sample as batches.

    Attributes:
        signature: inferred from rows and answers.
        rows: all rows that were given.
        sample: up to MAX_SAMPLE_ROWS of them, spread over the whole; answers: what the live model says of these.
        labels: one field "label" for all rows, or None.
        ask: the live model's answers to rows that were given, by their numbers, asked as they were given; or to one row of them
            with some elements of its tensor missing.
    """

    signature: Signature
    rows: Batch
    sample: Batch
    answers: Batch
    labels: Batch | None
    ask: Callable[[Array, Array | None], Batch]


def look_at(
    subject: Subject, inputs: Any, labels: Any, outputs: Any, privacy: Mapping[str, Privacy], tolerance: Tolerance
) -> Training:
    """Ask the live model about its training rows, and check that all that was given belongs together.

    The model is asked about the user's own rows in the user's own container. Then it is asked about the same rows as a request
    would bring them, and has to answer the same.

    Raises:
        PackError: "empty-sample", "labels-length", "outputs-length", "model-fails-on-sample", "answers-length",
            "not-deterministic", "training-form-lost", and those of `schema/infer.py`.
        ProofFailed: "training-outputs-differ": the live objects do not answer what training saw.
    """
    fields, container = infer_inputs(inputs, privacy=privacy)
    form = form_of(inputs)
    try:
        rows = to_batch(Layout(fields), inputs)
    except InvalidInput as error:
        raise PackError(error.message, code=error.code, hint=error.hint, facts=error.facts) from error
    chosen = _spread(rows.rows)
    every = len(chosen) == rows.rows
    own = own_rows(inputs, None if every else chosen)
    sample = rows if every else rows.take(chosen)
    try:
        raw = subject.answer(own_rows(own))
    except PackError as error:
        raise _at_row(error, subject, own, chosen) from error
    signature = Signature(fields, _output_fields(subject, raw, sample.rows), container, form)
    outputs_layout = Layout(signature.outputs)
    answers = answers_as_batch(outputs_layout, raw, sample.rows)
    check_repeatable(subject, own, answers)
    check_form(subject, Sample(signature, own, sample, chosen), answers, tolerance)

    def ask(numbers: Array, missing: Array | None) -> Batch:
        if missing is None:
            given = own_rows(inputs, numbers)
        else:
            given = with_missing(inputs, int(numbers[0]), missing, fields[0], form)
        return answers_as_batch(outputs_layout, subject.answer(given), len(numbers))

    if outputs is not None:
        answers = _seen_in_training(outputs, chosen, rows.rows, answers, tolerance)
    return Training(signature, rows, sample, answers, _labels(labels, rows.rows), ask)


def _at_row(error: PackError, subject: Subject, own: Any, chosen: Array) -> PackError:
    """The error with the number of a row that fails by itself, when there is one: found by halving."""
    if error.code != "model-fails-on-sample":
        return error
    start, stop = 0, len(chosen)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _fails(subject, own_rows(own, np.arange(start, middle))):
            stop = middle
        elif _fails(subject, own_rows(own, np.arange(middle, stop))):
            start = middle
        else:
            return error
    row = int(chosen[start])
    facts = {**error.facts, "row": row}
    return PackError(f"row {row} of the sample: {error.message}", code=error.code, hint=error.hint, facts=facts)


def _fails(subject: Subject, own: Any) -> bool:
    try:
        subject.answer(own)
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
                hint="answer one row for each row asked; do not drop or add rows in the preprocessing; a model of texts takes a "
                "list of them, frame[name].to_list(), and no DataFrame",
            )
    return infer_outputs(answers, categories=subject.framework.categories(subject.model))


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
    seen = answers_as_batch(layout, {name: values[chosen] for name, values in given.items()}, len(chosen))
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
    return answers_as_batch(Layout((field,)), {"label": values}, rows)
