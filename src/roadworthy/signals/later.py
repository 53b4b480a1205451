"""The signals whose bad events are not in the outcome of a request: `feedback`, `guard_hits` and the user's own `custom.NAME`.

Workers count nothing of `feedback`: the control plane counts its samples and its bad events when they arrive
(`control/resources/feedback.py`). Of the other two, workers count the requests as samples.
"""

from __future__ import annotations

from roadworthy.signals.signal import EventSignal, Signal

CUSTOM = "custom."
"""Prefix of the names of custom counters."""


class Feedback(Signal):
    """Predictions that someone called wrong."""

    name = "feedback"
    interface = 1
    event = "feedback that calls the prediction wrong"
    waits = False
    later = True


class GuardHits(EventSignal):
    """Inputs and outputs that a content guard stopped."""

    name = "guard_hits"
    interface = 1
    event = "an input or output that a guard of the endpoint stopped"
    unmeasurable = "endpoints have no guards on inputs and outputs in this release"


class Custom(EventSignal):
    """A counter of the user's own, `custom.` and a name in snake case. Each name is a signal, so none has an entry point."""

    interface = 1
    usual = 0.01
    later = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.event = f"a bad event counted as {name.removeprefix(CUSTOM)}"


FEEDBACK = Feedback()
GUARD_HITS = GuardHits()
