"""JSON answers to the requests of one run: each row is encoded once for all of them, a long run part by part."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.codecs import json_answers, steps
from roadworthy.codecs.codec import Encoded
from roadworthy.codecs.json_answers import JsonAnswers
from roadworthy.codecs.steps import written
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

SCALARS = tuple(Field(f"p{number}", DType.FLOAT64) for number in range(10))
TENSOR = (Field("p", DType.FLOAT64, (10,)),)


def run_of(fields: tuple[Field, ...], rows: int) -> Batch:
    """A run with ten different values in each row."""
    values = np.arange(rows * 10, dtype=np.float64).reshape(rows, 10)
    return Batch(Layout(fields), rows, (Block(values),))


class Counted:
    """Answers that count their work.

    Attributes:
        calls: for each batch that was encoded, the number of its first row in the run, and of its rows.
    """

    def __init__(self, fields: tuple[Field, ...], patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, int]] = []
        make = json_answers._row_maker
        patch.setattr(json_answers, "_row_maker", lambda outputs: self._counting(make(outputs)))
        self.write = JsonAnswers(fields).write
        patch.undo()

    def _counting(self, rows_of: Callable[[Batch], list[Any]]) -> Callable[[Batch], list[Any]]:
        def counting(batch: Batch) -> list[Any]:
            self.calls.append((int(batch.blocks[0].values.flat[0]) // 10, batch.rows))
            return rows_of(batch)

        return counting


def numbers(answer: Encoded, fields: tuple[Field, ...]) -> list[list[float]]:
    """The values of an answer, row by row."""
    rows = json.loads(answer.body)["predictions"]
    return [list(row.values()) if len(fields) > 1 else row for row in rows]


@pytest.mark.parametrize("fields", [SCALARS, TENSOR], ids=["scalars", "tensor"])
@pytest.mark.parametrize(("rows", "each"), [(409, 1), (410, 1), (1_024, 1), (1_024, 7), (1_024, 409)])
def test_the_rows_of_a_run_are_encoded_once_for_all_its_requests(
    fields: tuple[Field, ...], rows: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short requests of a run, short or long: as many encodings as the run has parts, and each row is in one of them. No encoding
    has more values than a step may write."""
    answers, run = Counted(fields, monkeypatch), run_of(fields, rows)
    for start in range(0, rows, each):
        answer = answers.write(Answer(run, start, min(start + each, rows)))
        assert isinstance(answer, Encoded)
        assert numbers(answer, fields) == run.blocks[0].values[start : start + each].tolist()
    part = steps.STEP_VALUES // 10
    assert answers.calls == [(start, min(part, rows - start)) for start in range(0, rows, part)]


def test_a_short_request_encodes_only_its_part_of_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the run is not encoded for it; a request with rows of two parts needs both."""
    answers, run = Counted(SCALARS, monkeypatch), run_of(SCALARS, 5_000)
    answers.write(Answer(run, 4_999, 5_000))
    assert answers.calls == [(4_908, 92)]
    answers.write(Answer(run, 500, 501))
    answers.write(Answer(run, 600, 700))
    assert answers.calls == [(4_908, 92), (409, 409)]
    answers.write(Answer(run, 800, 820))
    assert answers.calls == [(4_908, 92), (409, 409), (818, 409)]


def test_a_long_request_beside_short_ones_is_written_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are encoded once, for itself, and the lines of the others stay."""
    answers, run = Counted(SCALARS, monkeypatch), run_of(SCALARS, 1_002)
    assert isinstance(answers.write(Answer(run, 0, 1)), Encoded)
    long = answers.write(Answer(run, 1, 1_001))
    assert not isinstance(long, Encoded)
    assert isinstance(answers.write(Answer(run, 1_001, 1_002)), Encoded)
    assert answers.calls == [(0, 409), (818, 184)]
    assert numbers(written(long), SCALARS) == run.blocks[0].values[1:1_001].tolist()
    assert isinstance(answers.write(Answer(run, 2, 3)), Encoded)
    assert answers.calls == [(0, 409), (818, 184), (1, 409), (410, 409), (819, 182)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 11), st.integers(1, 12)), min_size=1, max_size=12),
    st.sampled_from([1, 9, 10, 25, 60, 1_000]),
    st.sampled_from([SCALARS, TENSOR]),
)
def test_requests_of_two_runs_in_any_order(asked: list[tuple[int, int, int]], most: int, fields: tuple[Field, ...]) -> None:
    """Any rows of two runs, in any order, with parts of any size, are the rows that were asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "STEP_VALUES", most)
        runs = (run_of(fields, 12), run_of(fields, 12).slice(1, 12))
        answers = JsonAnswers(fields)
        for which, first, count in asked:
            run = runs[which]
            start, stop = min(first, run.rows - 1), min(first + count, run.rows)
            answer = answers.write(Answer(run, start, stop))
            assert isinstance(answer, Encoded) == ((stop - start) * 10 <= most)
            assert numbers(written(answer), fields) == run.blocks[0].values[start:stop].tolist()
