"""Takes feedback on predictions: joins it with their records, and counts it for the rollout that assigned them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from roadworthy.access.principal import Principal
from roadworthy.contract.api.feedback import RESULTS, FeedbackReply, KnownLater, Outcome
from roadworthy.contract.evidence import CANARY, STABLE
from roadworthy.control.context import ControlContext
from roadworthy.control.resources import telemetry
from roadworthy.foundation.documents import Reader, listed
from roadworthy.foundation.errors import NotFound
from roadworthy.foundation.references import check_name
from roadworthy.monitoring import predictions
from roadworthy.monitoring.predictions import AssignedPrediction
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.evidence import feedback
from roadworthy.rollout.evidence.feedback import FEEDBACK, METRIC, Fact
from roadworthy.rollout.rollouts import CONTROLLER, Rollout
from roadworthy.signals.later import CUSTOM
from roadworthy.store.connection import Connection

TAKEN, DUPLICATE, UNKNOWN, NOT_IN_ROLLOUT, NO_EVIDENCE, NOT_ASKED, OUT_OF_BOUNDS, CLOSED, INVALID = RESULTS
_MOST_SHOWN = 300
"""Characters of an item that a reply repeats."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Item:
    """Feedback on one prediction.

    Attributes:
        prediction_id: from the reply's header; the id of a row, with `:i`, means its whole request.
        correct: whether the answer was right; None when not given.
        events: the user's own bad events, by name.
        values: of an A/B test's metrics.
        fault: why the item is unreadable; "" when it is readable. Such an item may have no id.
    """

    prediction_id: str | None
    correct: bool | None = None
    events: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""

    @property
    def request(self) -> str:
        """The request's id. All rows of a request were assigned together, so they are one outcome."""
        return (self.prediction_id or "").partition(":")[0]


@dataclass(slots=True)
class _Found:
    """An item, its prediction's record, and the item's result.

    Attributes:
        ignored: parts that the rollout does not count. problem: what is wrong with the item.
    """

    item: Item
    drawn: AssignedPrediction | None
    result: str = UNKNOWN
    ignored: list[str] = field(default_factory=list)
    problem: str = ""
    facts: list[Fact] = field(default_factory=list)

    def outcome(self) -> Outcome:
        """The item in the reply."""
        return Outcome(prediction_id=self.item.prediction_id, result=self.result, ignored=self.ignored, problem=self.problem)


def _read_item(value: Any) -> Item:
    """Read an item; an unreadable one carries its fault, so that the others are still accepted."""
    reader = Reader()
    known = reader.table(KnownLater, value)
    if not reader.faults and all(known.get(name) in (None, (), {}) for name in ("correct", "events", "values")):
        reader.fault("", "empty: give at least one of correct, events and values")
    if not reader.faults:
        return Item(**known)
    given_id = value.get("prediction_id") if isinstance(value, dict) else None
    return Item(_plain(given_id) if isinstance(given_id, str) else None, fault=_plain(listed(reader.faults[:1])))


def _plain(text: str) -> str:
    """The text, cut to a length that may be repeated and limited to characters of every encoding."""
    return text[:_MOST_SHOWN].encode("ascii", "backslashreplace").decode()


def give(context: ControlContext, name: str, given: Sequence[Any], principal: Principal) -> FeedbackReply:
    """Take feedback for an endpoint; the result of each item, in order. Repeating the same feedback changes nothing. An
    unreadable item has the result "invalid", and the others are still taken.

    Args:
        given: each a KnownLater as JSON; at least one, MOST_ITEMS at most.

    Raises:
        NotFound: "unknown-endpoint". InvalidRequest: "invalid-name". Forbidden: "endpoint-not-allowed".
    """
    principal.check_endpoint(name)
    check_name(name, "endpoint name")
    items = [_read_item(each) for each in given]
    ids = {item.request for item in items if not item.fault}
    with context.database.begin() as connection:
        endpoints.get(connection, name)
        files = predictions.files_between(connection, name, ids) if ids else []
    sought = predictions.find_drawn(files, context.blobs.open, ids)  # outside any transaction, because it reads files
    found = [_Found(item, None if item.fault else sought.drawn.get(item.request)) for item in items]
    _tell_unreadable(context, sought, found)
    by_rollout: dict[str, list[_Found]] = {}
    for each in found:
        if _may_count(each) and each.drawn is not None:
            by_rollout.setdefault(each.drawn.rollout, []).append(each)
    if by_rollout:
        with context.database.begin() as connection:
            for rollout_id in sorted(by_rollout):  # always in this order, so that two senders cannot deadlock
                _take(connection, (name, rollout_id), by_rollout[rollout_id], principal.who, context.clock.now_us())
    counts = Counter(each.result for each in found)
    return FeedbackReply(items=[each.outcome() for each in found], counts={result: counts[result] for result in RESULTS})


def _tell_unreadable(context: ControlContext, sought: predictions.Sought, found: Sequence[_Found]) -> None:
    """Count damaged or missing record files, without trimmed ones, and mark each item that may be in one."""
    damaged = telemetry.count_unreadable(context, sought.unreadable)[0] if sought.unreadable else 0
    for each in found:
        if damaged and each.drawn is None and each.item.request in sought.missed:
            each.problem = "a record file that may have held the prediction is damaged or missing"


def _may_count(found: _Found) -> bool:
    """Whether the record allows the item as evidence; otherwise `result` says why not."""
    if found.item.fault:
        found.result, found.problem = INVALID, found.item.fault
    if found.drawn is None:
        return False
    if not found.drawn.rollout:
        found.result = NOT_IN_ROLLOUT
    elif found.drawn.source or found.drawn.code != "ok":
        found.result = NO_EVIDENCE
    else:
        return True
    return False


def _take(connection: Connection, which: tuple[str, str], group: Sequence[_Found], actor: str, now_us: int) -> None:
    try:
        rollout = rollouts.get(connection, *which)
    except NotFound:  # the database was restored from an older copy
        for each in group:
            each.result = NOT_IN_ROLLOUT
        return
    for each in group:
        _read(rollout, each)
    facts = [fact for each in group for fact in each.facts]
    taken = feedback.take(connection, rollout.id, facts, actor, now_us)
    changed = iter(taken or ())
    for each in group:
        if each.facts:
            news = [next(changed, False) for _ in each.facts]
            each.result = CLOSED if taken is None else TAKEN if any(news) else DUPLICATE


def _read(rollout: Rollout, found: _Found) -> None:
    """Turn the item into facts of the rollout; into none if the rollout counts nothing of it, or a value is impossible."""
    item, drawn, plan = found.item, found.drawn, rollout.plan
    variant = {rollout.stable_digest: STABLE, rollout.canary_digest: CANARY}.get("" if drawn is None else drawn.digest)
    if drawn is None or variant is None:
        found.result = NO_EVIDENCE
        return
    where = (item.request, drawn.generation, variant, drawn.unit)
    criteria = {criterion.signal for criterion in plan.criteria}
    said = [(f"{CUSTOM}{event}", event, True) for event in item.events]
    if item.correct is not None:
        said.insert(0, (FEEDBACK, "correct", not item.correct))
    facts = []
    for signal, name, bad in said:
        if signal in criteria:
            facts.append(Fact(signal, item.request, *where, bad))
        else:
            found.ignored.append(name)
    metrics = {metric.name: metric for metric in plan.metrics}
    subject = item.request if plan.sticky is None else f"{drawn.unit:016x}"
    for name, value in item.values.items():
        metric = metrics.get(name)
        if metric is None:
            found.ignored.append(name)
        elif not metric.low <= value <= metric.high:
            found.result = OUT_OF_BOUNDS
            found.problem = f"{name} is {value:g}; the plan allows {metric.low:g} to {metric.high:g}"
            return
        else:
            facts.append(Fact(f"{METRIC}{name}", subject, *where, bad=False, value=value))
    found.facts = facts
    found.result = NOT_ASKED


def trim(context: ControlContext) -> int:
    """Delete the feedback of whole rollouts beyond the limit, the longest ended first; return the number of rollouts."""
    with context.database.begin() as connection:
        closed = feedback.close_over_limit(connection, context.settings.feedback_max_rows, context.clock.now_us())
        for rollout_id, rows in closed:
            context.audit(connection, CONTROLLER, "feedback-trimmed", rollout_id, rows=rows)
    for rollout_id, rows in closed:
        _log.warning("feedback-trimmed", rollout=rollout_id, rows=rows)
    return len(closed)
