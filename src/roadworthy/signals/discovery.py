"""The signals that this process has: the plug-ins of the kind "signals", and the custom counters."""

from __future__ import annotations

import re
from collections.abc import Iterator

from roadworthy.foundation.plugins import SIGNALS, plugins
from roadworthy.signals.later import CUSTOM, Custom
from roadworthy.signals.signal import COUNTED, CRITERION, Signal

DEFAULT_CRITERIA = ("errors", "invalid_outputs", "slow")
"""The criteria of a plan that names none."""
_CUSTOM = re.compile(r"custom\.[a-z][a-z0-9_]{0,62}")


def signals() -> Iterator[Signal]:
    """Every signal except custom counters."""
    return (signal for signal in plugins(SIGNALS).values() if isinstance(signal, Signal))


def signal_named(name: str) -> Signal | None:
    """The signal of this name, or None. "custom." and a name in snake case is a custom counter."""
    found = plugins(SIGNALS).get(name)
    if isinstance(found, Signal):
        return found
    return Custom(name) if _CUSTOM.fullmatch(name) else None


def signal_or_missing(name: str) -> Signal:
    """The signal of this name; of an unknown name, one that cannot be measured, since a stored plan may name the signal of a
    plug-in that is no longer loaded."""
    return signal_named(name) or _Missing(name)


def names_of(kind: str) -> tuple[str, ...]:
    """The names of all signals of a kind; "custom.NAME" represents the custom counters."""
    names = tuple(signal.name for signal in signals() if signal.kind == kind)
    return (*names, f"{CUSTOM}NAME") if kind == CRITERION else names


def counted_here() -> tuple[str, ...]:
    """The names of the signals that this process can count in the outcomes of requests; a worker reports them."""
    return tuple(sorted(signal.name for signal in signals() if isinstance(signal, COUNTED)))


class _Missing(Signal):
    interface = 1
    event = "unknown here"
    unmeasurable = "no plug-in that the control plane loads has this signal; `roadworthy plugin list` shows why"

    def __init__(self, name: str) -> None:
        self.name = name
