"""Compiled models answer as the originals, in a short form of `make bench-exact`, which also detects one that does not."""

from __future__ import annotations

import pytest

from bench.exact import LINEAR, TREES, examine
from bench.foreign import Foreign

ROWS = 20_000


@pytest.mark.parametrize("name", [*TREES, *LINEAR])
def test_no_row_of_twenty_thousand_takes_another_branch(name: str) -> None:
    """Training rows, perturbed rows, and for trees rows at and next to thresholds get the original's answers."""
    verdict = examine(name, ROWS)
    assert verdict.rows == ROWS
    assert verdict.different == 0
    assert verdict.largest < 1e-11
    assert (verdict.thresholds > 1_000) == (name in TREES)


def test_a_conversion_that_moves_rows_over_thresholds_is_detected() -> None:
    """The negative control: skl2onnx's float32 conversion answers many of these rows wrongly."""
    verdict = examine("HistGradientBoostingClassifier", ROWS, Foreign())
    assert verdict.different > 1_000
    assert verdict.largest > 0.01
