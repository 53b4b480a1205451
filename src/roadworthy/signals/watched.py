"""The watched signals `confidence`, `drift`, `resources` and `business`: what plans may say of them.

Their counting is not here, because none of them judges one answer. The bins of `drift` are those of the stable's training
profile, which the control plane reads and sends with the snapshot; `confidence` adds up values; `resources` is measured by
agents; the values of `business` are feedback. `control/resources/measuring.py`, `serving/rollout/outputs.py` and
`rollout/decide/alerts.py` do that.
"""

from __future__ import annotations

from roadworthy.signals.signal import OBSERVER, Signal


class Confidence(Signal):
    """How sure a classifier is of its answers."""

    name = "confidence"
    interface = 1
    kind = OBSERVER
    event = "confidence of a classifier's answers: the mean largest probability"
    tolerance = 0.05


class Drift(Signal):
    """Which answers a version gives."""

    name = "drift"
    interface = 1
    kind = OBSERVER
    event = "distribution of the answers over classes, or over bins of numbers"
    tolerance = 0.1


class Resources(Signal):
    """How much memory a version takes."""

    name = "resources"
    interface = 1
    kind = OBSERVER
    event = "memory of the largest runner process"
    tolerance = 1.5


class Business(Signal):
    """What users report of a version's effect."""

    name = "business"
    interface = 1
    kind = OBSERVER
    event = "the plan's metrics, such as revenue, that users report"


CONFIDENCE = Confidence()
DRIFT = Drift()
RESOURCES = Resources()
BUSINESS = Business()
