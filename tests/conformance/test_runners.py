"""Every kind of runner that ships with Roadworthy passes the public suite, and the suite finds what a wrong one does."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from roadworthy.foundation.plugins import RUNNERS, plugins
from roadworthy.schema.batch import Batch
from roadworthy.testing import runners
from roadworthy.testing.runners import CHECKS, Check, RunnerCase, check_name, rows_of


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
@pytest.mark.parametrize("name", sorted(plugins(RUNNERS)))
def test_runner(name: str, check: Check) -> None:
    """One check of the suite on one kind."""
    check(RunnerCase(plugins(RUNNERS)[name]))


NUMBERS = itertools.count(1)


class Kind:
    """A kind whose runner does what the test says."""

    name = "planted"
    interface = 1
    isolates = True

    def __init__(self, make: Callable[[Any], Any], processes: Callable[[int], Any] = lambda copies: copies) -> None:
        self.runner = lambda executable, _threads: make(executable)
        self.processes = processes


class Running:
    """Passes everything on; a test replaces what it breaks."""

    def __init__(self, executable: Any, run: Callable[[Any, Batch], Batch] | None = None, **more: Any) -> None:
        self.concurrent = more.get("concurrent", executable.concurrent)
        self.run = executable.run if run is None else lambda batch: run(executable, batch)
        self.close = more.get("close", executable.close)
        self.parts = more.get("parts", executable.parts)


def numbered(executable: Any, batch: Batch) -> Batch:
    """Runs the rows in the wrong order."""
    answer: Batch = executable.run(batch.take(np.arange(batch.rows)[::-1]))
    return answer


def written(executable: Any, batch: Batch) -> Batch:
    """Writes to the rows after the run."""
    answer: Batch = executable.run(batch)
    batch.blocks[0].values[:] = 0.0
    return answer


def hidden(executable: Any, batch: Batch) -> Batch:
    """Answers in place of the version when that fails."""
    try:
        answer: Batch = executable.run(batch)
        if answer.rows == batch.rows and np.isfinite(answer.blocks[0].values).all():
            return answer
    except OSError:
        pass
    return runners.doubled(rows_of(batch.rows))


def crossed(executable: Any, batch: Batch) -> Batch:
    """Runs the version on two threads at a time."""
    gate = threading.Barrier(2)
    answers = {}

    def run(half: int) -> None:
        gate.wait()
        answers[half] = executable.run(batch.slice(*((0, 1_500), (1_500, batch.rows))[half]))

    threads = [threading.Thread(target=run, args=(half,)) for half in range(2)]
    executable._busy.acquire()  # as if a run were under way, so that the threads need not meet inside the version
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    executable._busy.release()
    return Batch.concatenate([answers[0], answers[1]])


def ahead(batch: Batch) -> Any:
    """Leaves the first part out."""
    steps = runners._Doubled(batch)
    next(steps)
    return steps


@pytest.mark.parametrize(
    ("kind", "check", "what"),
    [
        (Kind(Running), runners.check_found_by_name, "not found by its name"),
        (Kind(Running, lambda _copies: next(NUMBERS)), runners.check_processes_are_a_pure_function, "it asks for"),
        (Kind(lambda executable: Running(executable, numbered)), runners.check_answers_are_those_of_the_version, "not those"),
        (Kind(lambda executable: Running(executable, written)), runners.check_rows_are_left_alone, "wrote to the rows"),
        (Kind(lambda executable: Running(executable, hidden)), runners.check_a_failure_fails_its_run_only, "answered"),
        (Kind(lambda executable: Running(executable, hidden)), runners.check_wrong_answers_are_not_hidden, "became a good one"),
        (Kind(lambda executable: Running(executable, concurrent=True)), runners.check_one_run_at_a_time, "calls itself"),
        (Kind(lambda executable: Running(executable, crossed)), runners.check_one_run_at_a_time, "two threads"),
        (Kind(lambda executable: Running(executable, parts=None)), runners.check_parts_are_those_of_the_version, "no `parts`"),
        (Kind(lambda executable: Running(executable, parts=ahead)), runners.check_parts_are_those_of_the_version, "not those"),
        (Kind(lambda executable: Running(executable, close=lambda: None)), runners.check_closing_closes_the_version, "0 times"),
    ],
)
def test_the_suite_finds_a_fault(kind: Any, check: Check, what: str) -> None:
    """Each check says what is wrong."""
    with pytest.raises(AssertionError, match=what):
        check(RunnerCase(kind))
