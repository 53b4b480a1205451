"""The baselines that do not flatter, in a short form: their answers are the model's, and their figures have intervals."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import limits
from bench.comparison import Setup, baseline, bootstrap, many_rows
from bench.load.wrk import Load
from bench.models import Subject, onnx_trees
from bench.native import NoCompilerError, compiled
from bench.service import installed

pytestmark = pytest.mark.usefixtures("warm_services")
SHORT = Setup(rounds=1, seconds=1, server_core=None, load_core=None, connections=4)
NO_COMPILER = pytest.mark.skipif(
    shutil.which("cc") is None and "CI" not in os.environ, reason="this machine has no C compiler for the server at the limit"
)
NO_WRK = pytest.mark.skipif(shutil.which("wrk") is None and "CI" not in os.environ, reason="wrk is missing")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The boosted trees as an ONNX file."""
    return onnx_trees(tmp_path_factory.mktemp("limits"), 600)


@NO_COMPILER
def test_the_server_in_c_gives_the_models_answers(tmp_path: Path, trees: Subject) -> None:
    """Every row is asked once, in an open loop that pairs each answer with its row."""
    with limits.limit_server(tmp_path, trees, None) as target:
        p50_ms, p99_ms = limits.open_loop(compiled("open_loop", tmp_path), trees, target, len(trees.rows), SHORT)
        assert 0 < p50_ms <= p99_ms


@NO_COMPILER
def test_an_open_loop_refuses_wrong_answers(tmp_path: Path, trees: Subject) -> None:
    """Rows of another order are noticed."""
    other = Subject(trees.name, trees.package, trees.baseline, trees.rows, trees.right[::-1], trees.code)
    with (
        limits.limit_server(tmp_path, trees, None) as target,
        pytest.raises(limits.WrongAnswerError, match="wrong or missing"),
    ):
        limits.open_loop(compiled("open_loop", tmp_path), other, target, 100, SHORT)


def test_the_batched_handler_gives_the_models_answers(trees: Subject) -> None:
    """Also to a request of many rows."""
    with baseline(limits.BATCHED, trees.baseline, None) as target:
        assert many_rows(trees, target, target, rows=100, requests=2).ratio > 0


def test_without_a_compiler_the_row_gives_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other rows are measured."""
    monkeypatch.setattr("bench.native.shutil.which", lambda _name: None)
    with pytest.raises(NoCompilerError, match="no C compiler") as error:
        compiled("limit_server", tmp_path)
    load = Load(duration_s=1.0, requests=10, percentiles_ms={"p50": 1.0, "p99": 2.0})
    loads: dict[str, Any] = {name: [load, load] for name in (limits.OURS, limits.ASGI)}
    *_, last = limits.speeds(loads, loads, str(error.value))
    assert last.value is None
    assert last.met is None
    assert "this machine has no C compiler" in last.measure


@NO_WRK
@pytest.mark.timeout(600)
def test_a_turn_ends_when_its_records_are_durable(tmp_path: Path, trees: Subject) -> None:
    """No record is lost, and the CPU of every process counts."""
    with installed(tmp_path, [trees]) as service:
        run = limits.Runs(service, trees, SHORT, 0).run(1)
    assert run.load.requests
    assert run.durable_s is not None
    assert run.lost == 0
    assert run.cpu_us["worker"] > 0
    assert [measure.met for measure in limits.sustained(run, 1)] == [None, None, None, True, True]
    assert limits.costs([run])[0].value == pytest.approx(sum(run.cpu_us.values()), abs=0.1)


def test_an_interval_holds_the_median() -> None:
    """It is as wide as the spread of the values, and a point for equal values."""
    low, high = bootstrap([1.0, 2.0, 3.0, 4.0, 5.0])
    assert low < 3.0 < high
    assert bootstrap([2.0] * 7) == (2.0, 2.0)
