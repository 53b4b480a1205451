"""Every signal that ships with Roadworthy and that workers count passes the public suite; a new one without a case here fails."""

from __future__ import annotations

import pytest

from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from roadworthy.signals.disagreement import SIGNAL as DISAGREEMENT
from roadworthy.signals.discovery import counted_here
from roadworthy.signals.errors import SIGNAL as ERRORS
from roadworthy.signals.invalid_outputs import SIGNAL as INVALID_OUTPUTS
from roadworthy.signals.slow import SIGNAL as SLOW
from roadworthy.testing.signals import CHECKS, Check, SignalCase, answered, check_name, failed, late, rows_of

PRICED = Signature((Field("n", DType.INT64),), (Field("price", DType.FLOAT64, nullable=True),))
ANSWERED = answered(PRICED, [{"price": 1.5}])
ONE, OTHER = (rows_of(PRICED, [{"price": price}]) for price in (1.0, 2.0))
CASES = {
    "errors": SignalCase(ERRORS, PRICED, good=[ANSWERED], bad=[failed()]),
    "invalid_outputs": SignalCase(INVALID_OUTPUTS, PRICED, good=[ANSWERED, failed()], bad=[failed("non-finite-output")]),
    "slow": SignalCase(
        SLOW,
        PRICED,
        good=[ANSWERED],
        bad=[answered(PRICED, [{"price": 1.5}], ran_us=10_001), late(ran_us=10_001)],
    ),
    "disagreement": SignalCase(DISAGREEMENT, PRICED, good=[(ONE, ONE)], bad=[(ONE, OTHER)]),
}


def test_every_counted_signal_has_a_case() -> None:
    """A signal that is added needs its examples here."""
    assert set(counted_here()) == set(CASES)


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
@pytest.mark.parametrize("name", sorted(CASES))
def test_signal(name: str, check: Check) -> None:
    """One check of the suite on one signal."""
    check(CASES[name])
