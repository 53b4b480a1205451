"""Examines the training data at pack time: rows, labels and answers, and whether they belong together.

Called by `pack.py`. Every error says what to change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
"""Maximum number of rows that the model is asked about at pack time; the profile counts all rows."""


@dataclass(frozen=True)
class Training:
    """The sample as batches.

    Attributes:
        signature: inferred from rows and answers.
        rows: all training rows.
        sample: up to MAX_SAMPLE_ROWS of them, evenly spread; answers: the live model's answers to these.
        labels: one field "label" for all rows, or None.
        ask: returns the live model's answers to training rows, by row number, in the user's own form; or to one such row with
            some elements of its tensor missing.
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
    """Ask the live model about its training rows, and check that rows, labels and answers belong together.

    The model first gets the user's own rows in the user's own container. Then it gets the same rows as a request would bring
    them, and must give the same answers.

    Raises:
        PackError: "empty-sample", "labels-length", "outputs-length", "model-fails-on-sample", "answers-length",
            "not-deterministic", "training-form-lost", and those of `schema/infer.py`.
        ProofFailed: "training-outputs-differ": the live model's answers differ from outputs=.
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
    return Training(signature, rows, sample, answers, labels_of(labels, rows.rows), ask)


def _at_row(error: PackError, subject: Subject, own: Any, chosen: Array) -> PackError:
    """The error with the number of a row that fails by itself, if there is one; found by bisection."""
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
    """Row numbers of the sample: all rows, or evenly spread ones."""
    if rows <= MAX_SAMPLE_ROWS:
        return np.arange(rows)
    return np.unique(np.linspace(0, rows - 1, MAX_SAMPLE_ROWS).astype(np.intp))


def _output_fields(subject: Subject, answers: Mapping[str, Array], rows: int) -> tuple[Field, ...]:
    for name, values in answers.items():
        if np.ndim(values) == 0 or len(values) != rows:
            found = len(values) if np.ndim(values) else "one value"
            raise PackError(
                f"output {name!r}: expected {rows} answers for {rows} rows, got {found}",
                code="answers-length",
                hint="the model must answer every row, and the preprocessing must not add or drop rows; a text model takes a "
                "list, frame[name].to_list(), not a DataFrame",
            )
    return infer_outputs(answers, categories=subject.framework.categories(subject.model))


def _seen_in_training(outputs: Any, chosen: Array, rows: int, answers: Batch, tolerance: Tolerance) -> Batch:
    """Compare outputs=, the answers in training, with the live model's answers; return the answers with the outputs that were
    given replaced by those of training."""
    given = _named(outputs, answers.layout)
    fields = tuple(field for field in answers.layout.fields if field.name in given)
    for name, values in given.items():
        if name not in answers.layout.positions:
            raise PackError(
                f"outputs= names {name!r}, which is not an output of the model",
                code="outputs-unknown",
                hint=f"the model's outputs: {', '.join(answers.layout.positions)}",
            )
        _check_length(f"outputs= {name!r}", values, rows, code="outputs-length")
    layout = Layout(fields)
    seen = answers_as_batch(layout, {name: values[chosen] for name, values in given.items()}, len(chosen))
    now = Batch.from_columns(layout, [answers.column(field.name) for field in fields], answers.rows)
    difference = compare(seen, now, tolerance)
    if difference is not None:
        difference = difference.renumbered(chosen)
        raise ProofFailed(
            f"the model's answers differ from those of training (outputs=): {difference}",
            code="training-outputs-differ",
            hint="if preprocessing was left out, pass it as preprocess= or put it into the pipeline",
            facts={"row": difference.row, "field": difference.field, "rows_differing": difference.rows},
        )
    names = [field.name for field in answers.layout.fields]
    columns = [seen.column(name) if name in given else answers.column(name) for name in names]
    return Batch.from_columns(answers.layout, columns, answers.rows)


def _named(outputs: Any, layout: Layout) -> dict[str, Array]:
    """outputs= as named arrays. A bare array with columns is the probabilities, any other bare array the first output."""
    array = named_answers(outputs, "?")
    if "?" not in array:
        return array
    values = array["?"]
    wide = [field.name for field in layout.fields if field.shape]
    name = wide[0] if values.ndim > 1 and wide else layout.fields[0].name
    return {name: values}


def labels_of(labels: Any, rows: int) -> Batch | None:
    """labels= as one field "label"; None without labels.

    Raises:
        PackError: "labels-length".
    """
    if labels is None:
        return None
    values = next(iter(named_answers(labels, "label").values()))
    _check_length("labels=", values, rows, code="labels-length")
    field = infer_outputs({"label": values})[0]
    return answers_as_batch(Layout((field,)), {"label": values}, rows)


def _check_length(what: str, values: Array, rows: int, *, code: str) -> None:
    if len(values) != rows:
        raise PackError(
            f"{what}: expected {rows} rows, as in inputs=, got {len(values)}",
            code=code,
            hint="give one value for each row of inputs=, in the same order",
        )
