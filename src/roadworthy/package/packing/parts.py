"""Examines a model that answers in parts: asks it about each golden row alone, and keeps all parts. Called by `pack.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from roadworthy.foundation.errors import InvalidInput, PackError, RoadworthyError
from roadworthy.frameworks.parts import part_answers
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.package.golden import MOST_PARTS, choose_rows, without_private
from roadworthy.package.packing.own_rows import own_rows
from roadworthy.package.packing.subject import Subject, answers_as_batch, not_repeatable
from roadworthy.package.packing.training import Training, labels_of
from roadworthy.schema.batch import Array, Batch, Layout, least_bytes
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import form_of
from roadworthy.schema.infer import infer_inputs, infer_outputs
from roadworthy.schema.restore import Restorer
from roadworthy.schema.signature import MAX_ANSWER_BYTES, MAX_PART_BYTES, Privacy, Signature
from roadworthy.schema.tables import to_batch

MOST_EXAMPLES = 16
"""Answers in parts take long, and packing asks for each three times."""

Parts = list[Mapping[str, Array]]


def look_at_parts(
    subject: Subject, inputs: Any, labels: Any, privacy: Mapping[str, Privacy], limit: int, tolerance: Tolerance
) -> tuple[Training, tuple[int, ...]]:
    """Ask the live model about up to `limit` rows, one at a time; the sample of the result is these rows, its answers are all
    parts, one below the other. The second value is how many parts each row has.

    The model first gets each row in the user's own container. Then it gets the same rows as a request would bring them, and must
    give the same parts.

    Raises:
        PackError: "empty-sample", "labels-length", "model-fails-on-sample", "no-parts", "too-many-parts", "answers-length",
            "unsupported-output", "part-too-large", "answer-too-large", "not-deterministic", "training-form-lost", and those of
            `schema/infer.py`.
    """
    fields, container = infer_inputs(inputs, privacy=privacy)
    try:
        rows = to_batch(Layout(fields), inputs)
    except InvalidInput as error:
        raise PackError(error.message, code=error.code, hint=error.hint, facts=error.facts) from error
    chosen = choose_rows(rows, min(limit, MOST_EXAMPLES))
    sample = rows.take(chosen)
    said = [_parts(subject, own_rows(inputs, np.array([row])), row) for row in chosen.tolist()]
    merged = {name: _joined([part[name] for parts in said for part in parts]) for name in said[0][0]}
    signature = Signature(fields, infer_outputs(merged, categories={}), container, form_of(inputs), parts=True)
    layout = Layout(signature.outputs)
    answers = [_batch(layout, parts) for parts in said]
    _check_sizes(answers, chosen.tolist())
    restore = Restorer.of(signature).restore
    for row, before in zip(chosen.tolist(), answers, strict=True):
        again = _batch(layout, _parts(subject, own_rows(inputs, np.array([row])), row))
        if (found := _difference(before, again, tolerance)) is not None:
            raise not_repeatable(found)
        sent = _batch(layout, _parts(subject, restore(rows.take([row])), row))
        if (found := _difference(before, sent, tolerance)) is not None:
            raise PackError(
                f"row {row}: the model's parts change when the row comes from a request: {found}",
                code="training-form-lost",
                hint="give each column one type and one form of missing value",
                facts={"row": row},
            )
    if any(field.privacy is not Privacy.KEEP for field in fields):
        sample = without_private(sample)
        answers = [_batch(layout, _parts(subject, restore(sample.take([n])), row)) for n, row in enumerate(chosen.tolist())]
    training = Training(signature, rows, sample, Batch.concatenate(answers), labels_of(labels, rows.rows), _ask_nothing)
    return training, tuple(batch.rows for batch in answers)


def _parts(subject: Subject, rows: Any, row: int) -> Parts:
    """What the live model yields for one row.

    Raises:
        PackError: see `look_at_parts`.
    """
    try:
        given = rows if subject.preprocess is None else subject.preprocess(rows)
        with closing(subject.framework.parts(subject.model, given)) as steps:
            found = [part_answers(part) for part in islice(steps, MOST_PARTS + 1)]
    except RoadworthyError:
        raise
    except Exception as error:  # the model's own code may raise anything
        raise PackError(
            f"row {row} of the sample: the model failed with {type(error).__name__}: {error}",
            code="model-fails-on-sample",
            hint="pass the raw rows as inputs=, and the function that prepares them for the model as preprocess=",
            facts={"row": row},
        ) from error
    if not found:
        raise PackError(f"row {row} of the sample: the model yielded no part", code="no-parts", hint="yield at least one part")
    if len(found) > MOST_PARTS:
        raise PackError(
            f"row {row} of the sample: the model yielded more than {MOST_PARTS} parts",
            code="too-many-parts",
            hint="give a row in inputs= for which the model ends earlier",
        )
    for number, part in enumerate(found):
        if set(part) != set(found[0]) or any(np.ndim(values) == 0 or len(values) != 1 for values in part.values()):
            raise PackError(
                f"row {row} of the sample, part {number}: expected one answer for one row, by the names of the first part",
                code="answers-length",
                hint="yield as many answers in each part as there are rows, under the same names",
            )
    return found


def _batch(layout: Layout, parts: Sequence[Mapping[str, Array]]) -> Batch:
    return Batch.concatenate([answers_as_batch(layout, part, 1) for part in parts])


def _check_sizes(answers: Sequence[Batch], rows: Sequence[int]) -> None:
    """A part that no runner can send would fail each request, and an answer that no one can collect each golden probe.

    Raises:
        PackError: "part-too-large" or "answer-too-large".
    """
    for answer, row in zip(answers, rows, strict=True):
        if (size := least_bytes(answer)) > MAX_ANSWER_BYTES:
            raise PackError(
                f"row {row} of the sample: expected at most {MAX_ANSWER_BYTES >> 20} MiB of parts, got {size >> 20} MiB or more",
                code="answer-too-large",
                hint="give a row in inputs= for which the model yields less",
                facts={"row": row},
            )
        for number in range(answer.rows):
            if _bytes(answer.slice(number, number + 1)) > MAX_PART_BYTES:
                raise PackError(
                    f"row {row} of the sample, part {number}: the part is larger than 1 MiB",
                    code="part-too-large",
                    hint="yield smaller parts",
                    facts={"row": row},
                )


def _bytes(part: Batch) -> int:
    encoded = 0
    for form, block in zip(part.layout.blocks, part.blocks, strict=True):
        if form.dtype.numpy.kind != "O":
            encoded += block.values.nbytes
        else:
            encode = msgspec.json.encode if form.dtype is DType.JSON else msgspec.msgpack.encode
            encoded += len(encode(block.values.reshape(-1).tolist(), enc_hook=str))
    return encoded


def _joined(arrays: Sequence[Array]) -> Array:
    """The values of one output in all parts. Parts of different types become Python objects, whose common type is found later."""
    if len({(array.dtype.kind, array.shape[1:]) for array in arrays}) == 1:
        return np.concatenate(arrays)
    values = np.empty(len(arrays), dtype=object)
    values[:] = [array[0] for array in arrays]
    return values


def _difference(before: Batch, after: Batch, tolerance: Tolerance) -> object | None:
    if before.rows != after.rows:
        return f"{before.rows} parts, then {after.rows}"
    return compare(before, after, tolerance)


def _ask_nothing(_numbers: Array, _missing: Array | None) -> Batch:
    raise PackError("a model that answers in parts is asked about its own rows only")
