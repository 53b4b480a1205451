"""The conformance suites of `roadworthy.testing` on what this distribution adds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from roadworthy_example import Linear
from roadworthy_example.blobs import STORES
from roadworthy_example.codec import JsonLines, write_lines
from roadworthy_example.framework import FRAMEWORK
from roadworthy_example.frugal import MOST_ROWS, RUNNER
from roadworthy_example.limits import LAYER, Limits, limited
from roadworthy_example.signals import OUT_OF_RANGE, SIGN

from roadworthy.foundation.plugins import allow
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from roadworthy.testing import blobs, codecs, frameworks, layers, runners, signals

allow(["roadworthy-example"])

MODEL = Linear((1.0, -2.0), 0.5)
ROWS = np.array([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.0], [0.25, 8.0]])
PRICED = Signature((Field("x", DType.FLOAT64),), (Field("price", DType.FLOAT64, nullable=True),))
RANGE = signals.SignalCase(
    OUT_OF_RANGE,
    PRICED,
    good=[signals.answered(PRICED, [{"price": 0.0}, {"price": None}, {"price": 10.0}])],
    bad=[signals.answered(PRICED, [{"price": 1.0}, {"price": price}]) for price in (-0.5, 10.5)],
    parameters={"low": 0, "high": 10},
)
SIGNS = signals.SignalCase(
    SIGN,
    PRICED,
    good=[signals.rows_of(PRICED, [{"price": price}]) for price in (1.0, 2.0, 0.0)],
    bad=[signals.rows_of(PRICED, [{"price": price}]) for price in (-1.0, None)],
)


@pytest.mark.parametrize("check", frameworks.CHECKS, ids=frameworks.check_name)
def test_framework(check: frameworks.Check, tmp_path: Path) -> None:
    """The framework does what every framework must do."""
    check(frameworks.case_of(FRAMEWORK, MODEL, ROWS), tmp_path)


@pytest.mark.parametrize("check", codecs.CHECKS, ids=codecs.check_name)
def test_codec(check: codecs.Check) -> None:
    """The codec does what every codec must do."""
    check(codecs.CodecCase(JsonLines, write_lines))


@pytest.mark.parametrize("check", blobs.CHECKS, ids=blobs.check_name)
def test_blobs(check: blobs.Check, tmp_path: Path) -> None:
    """The store does what every blob store must do."""
    check(blobs.BlobCase(STORES, f"sqlite-blobs:{tmp_path / 'blobs.db'}"), tmp_path)


@pytest.mark.parametrize("check", signals.CHECKS, ids=signals.check_name)
@pytest.mark.parametrize("case", [RANGE, SIGNS], ids=["out_of_range", "sign"])
def test_signals(check: signals.Check, case: signals.SignalCase) -> None:
    """Both signals do what every signal must do."""
    check(case)


@pytest.mark.parametrize("check", layers.CHECKS, ids=layers.check_name)
def test_layer(check: layers.Check) -> None:
    """The layer does what every layer must do."""
    check(layers.LayerCase(LAYER, {"output": "y", "low": 0.0}))


@pytest.mark.parametrize("check", runners.CHECKS, ids=runners.check_name)
def test_runner(check: runners.Check) -> None:
    """The runner does what every runner must do."""
    check(runners.RunnerCase(RUNNER))


def test_long_requests_run_in_parts() -> None:
    """None with more rows than the limit."""
    version = runners.Version()
    RUNNER.runner(version, 1).run(runners.rows_of(2 * MOST_ROWS + 1))
    assert version.rows == [MOST_ROWS, MOST_ROWS, 1]


def test_limits() -> None:
    """Values outside the limits are moved to the nearest one, and counted; nulls and other values stay."""
    layout = Layout((Field("y", DType.FLOAT64, nullable=True), Field("z", DType.FLOAT64)))
    values, nulls = np.array([-3.0, 0.5, 9.0, 9.0]), np.array([False, False, False, True])
    answer = Answer(Batch.from_columns(layout, [(values, nulls), (values, None)], 4), 0, 4)
    changed = limited(Limits("y", 0.0, 1.0), answer)
    assert changed.batch().column("y")[0].tolist()[:3] == [0.0, 0.5, 1.0]
    assert changed.batch().column("z")[0].tolist() == values.tolist()
    assert changed.notes == ((b"x-limited", b"2"),)
    assert limited(Limits("y", -10.0, 10.0), answer) is answer
