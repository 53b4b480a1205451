"""Decides which of a plan's signals cannot be counted: by the signals themselves, and by the workers that would have to. Pure.

`control/resources/measuring.py` refuses a rollout by it; `control/controllers/observation.py` holds a running one, since a
gateway without a plug-in may join at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from roadworthy.contract.evidence import COUNTED_BEFORE
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.rollout.facts import Why, fact, plugin_raised
from roadworthy.rollout.plan.plan import Plan
from roadworthy.schema.signature import Signature
from roadworthy.signals.discovery import signal_or_missing
from roadworthy.signals.signal import COUNTED, Use


def unbindable(plan: Plan, signature: Signature, slow_us: int | None) -> Iterator[tuple[str, Why]]:
    """Each signal of the plan that says that it cannot be measured on endpoints with this signature, and why. While `slow_us` is
    unknown, signals that need it are not asked: without it no rollout by them begins."""
    for each in plan.signals:
        signal = signal_or_missing(each.signal)
        try:
            why: Why | None = signal.unmeasurable
            if why is None and isinstance(signal, COUNTED) and not (signal.needs_run_times and slow_us is None):
                signal.bind(Use(signature, each.parameters, slow_us))
        except ValueError as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything
            why = plugin_raised(error)
        if why is not None:
            yield each.signal, why


def uncounted(plan: Plan, workers: Sequence[WorkerReport], failed: Collection[str] = ()) -> Iterator[tuple[str, Why]]:
    """Each signal of the plan that some of these workers do not count, and why.

    Args:
        failed: signals that raised an error in this rollout, on any worker: what it did not count can never be made up for.
    """
    for each in plan.signals:
        signal = signal_or_missing(each.signal)
        try:
            why: Why | None = signal.unmeasurable
        except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything
            why = plugin_raised(error)
        if why is not None:
            yield each.signal, why
        elif each.signal in failed:
            yield each.signal, fact("counting-failed")
        elif isinstance(signal, COUNTED):
            without = sum(each.signal not in _counted(worker) for worker in workers)
            if without:
                yield each.signal, fact("not-counted", without=without, workers=len(workers))


def _counted(worker: WorkerReport) -> Sequence[str]:
    """The signals that a worker counts in outcomes. Gateways of earlier releases do not say it, and count those of that time."""
    return COUNTED_BEFORE if worker.signals is None else worker.signals
