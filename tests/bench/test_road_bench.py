"""The benchmark works in a short form: its servers start, its load is checked, its results have the agreed shape."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.before import compare
from bench.comparison import Setup, WrongAnswerError, baseline, many_rows, single_rows
from bench.load.wrk import Load, wrong_answers
from bench.models import Subject, bodies, sklearn_trees
from bench.report import Measure, table, write
from bench.road import idle_memory
from bench.service import ask, installed

pytestmark = pytest.mark.usefixtures("warm_services")
SHORT = Setup(rounds=1, seconds=1, server_core=None, load_core=None, connections=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for packages, homes and logs."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def cells(folder: Path) -> Subject:
    """The breast cancer pipeline, packed."""
    return sklearn_trees(folder, 600)


@pytest.mark.skipif(shutil.which("wrk") is None and "CI" not in os.environ, reason="wrk is missing and could not be installed")
@pytest.mark.timeout(600)
def test_two_checkouts_are_compared(tmp_path: Path) -> None:
    """This one with itself: both serve, both get requests, every answer is checked."""
    measures = compare(Path(sys.executable), tmp_path, SHORT, ["trees"], rows=600)
    assert len(measures) == 4
    assert all(measure.value and measure.baseline and measure.ratio for measure in measures)


@pytest.mark.skipif(shutil.which("wrk") is None and "CI" not in os.environ, reason="wrk is missing and could not be installed")
@pytest.mark.timeout(600)
def test_a_short_comparison_gives_checked_figures(folder: Path, cells: Subject) -> None:
    """Ours and the hand-written service alternate, every answer is right, and the records match the answers."""
    with (
        installed(folder, [cells], core=None) as service,
        baseline("bench.baselines.fastapi_sklearn", cells.baseline, None) as by_hand,
    ):
        assert ask(service, cells)
        (resident, _) = idle_memory(service, cells)
        assert 10 < resident.value < 1_000
        assert many_rows(cells, service.target("cells"), by_hand, rows=100, requests=3).ratio > 0
        comparison = single_rows(cells, service.target("cells"), by_hand, SHORT)
        assert comparison.answered > 0
        assert comparison.ratio > 0


def test_wrong_answers_are_counted() -> None:
    """An answer that no row should get is wrong, and so is one that occurs more often than its row was sent."""
    right = np.array([0.1, 0.5, 0.9])
    text = '"predictions":[{{"label":1,"probabilities":[0,{}]}}]}}'
    good = Counter({text.format(0.1): 2, text.format(0.5): 2, text.format(0.9): 1})
    assert wrong_answers(Load(sent=6, requests=5, answers=good), right) == 0
    assert wrong_answers(Load(sent=6, requests=6, answers=good + Counter({text.format(0.3): 1})), right) == 1
    assert wrong_answers(Load(sent=6, requests=8, answers=good + Counter({text.format(0.5): 3})), right) == 3


def test_a_service_that_answers_wrongly_is_not_measured(folder: Path, cells: Subject) -> None:
    """A comparison stops when either server gives a wrong answer."""
    other = Subject(cells.name, cells.package, cells.baseline, cells.rows, 1 - cells.right, cells.code)
    with (
        baseline("bench.baselines.fastapi_sklearn", cells.baseline, None) as target,
        pytest.raises(WrongAnswerError),
    ):
        many_rows(other, target, target, rows=10, requests=1)


def test_every_request_carries_another_row(cells: Subject) -> None:
    """All request bodies are different."""
    assert len(set(bodies(cells.rows))) == len(cells.rows)


def test_results_have_the_agreed_shape(tmp_path: Path) -> None:
    """One JSON shape for all benchmarks, and a table that shows a missed target."""
    measures = [
        Measure("speed", 10.0, "requests/s", 20.0, 0.5, ">= 0.6 x", met=False),
        Measure("size", 400.0, "MB"),
    ]
    path = write("trial", measures, tmp_path)
    document = json.loads(path.read_text())
    assert [sorted(entry) for entry in document] == [
        ["baseline", "command", "interval", "measure", "met", "ratio", "target", "unit", "value"]
    ] * 2
    assert "NO" in table(measures).splitlines()[2]
