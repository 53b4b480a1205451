"""Spying functions for packages, as a model or as a rule. Their answer is what they find, a bit for each probe."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import numpy as np

from tests.faults.g5_probe import PROBES
from tests.faults.g5_surroundings import PROBE

LOOK = -1.0
EVERYTHING = [probe.__name__ for probe in PROBES if probe.__name__ != "inherited"]


def names(found: float) -> list[str]:
    """The names of the set bits."""
    return [probe.__name__ for bit, probe in enumerate(PROBES) if int(found) >> bit & 1]


def spying(target: dict[str, Any], always: bool) -> Any:
    """A model that answers with what it found: for all rows if `always`, otherwise for rows that begin with LOOK."""
    text, told = PROBE.read_text(), json.dumps(target)

    def spy(rows: Any) -> Any:
        if not always and not (rows[:, 0] == LOOK).any():
            return rows[:, 0] * 0.0
        probe = ModuleType("probe")
        exec(text, probe.__dict__)  # noqa: S102 - the probe's own text: a packed model cannot import the tests
        found = set(probe.look(json.loads(told))) - {"inherited"}  # our processes leave no descriptors to inherit
        bits = sum(1 << bit for bit, each in enumerate(probe.PROBES) if each.__name__ in found)
        return np.full(len(rows), float(bits))

    return spy
