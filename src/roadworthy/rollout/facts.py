"""Facts: why a rollout stands where it stands, as kinds with figures. States, verdicts and alerts hold facts; `words.py` has the
sentences.

A fact names what was found, such as "crashed" with times=3. A sentence may stand in place of a fact: that of a plug-in or of a
gateway, or one that an earlier release stored. It is shown as it is.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import msgspec


class Fact(msgspec.Struct, frozen=True):
    """One fact: a kind that `words.py` knows, and its figures by name."""

    kind: str
    figures: dict[str, int | float | str | Fact | tuple[Fact | str, ...] | None] = {}


Why = Fact | str
"""A reason: a fact, or a sentence from another source."""


def fact(kind: str, /, **figures: Any) -> Fact:
    """The fact of this kind with these figures: numbers, texts, reasons, or tuples of reasons."""
    return Fact(kind, {name: _plain(value) for name, value in figures.items()})


def _plain(value: Any) -> Any:
    """The value as the store can write it: numpy and plug-ins have numbers and texts of their own types, and JSON has no infinite
    numbers, so these become texts."""
    if value is None or isinstance(value, Fact):
        return value
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) and math.isfinite(value) else str(value)


def of_signal(signal: str, why: Why) -> Fact:
    """What was found about a signal."""
    return fact("signal", signal=signal, why=why)


def plugin_raised(error: Exception) -> Fact:
    """Why a signal that raised this error cannot be measured."""
    return fact("plug-in-raised", error=type(error).__name__, message=str(error)[:500])
