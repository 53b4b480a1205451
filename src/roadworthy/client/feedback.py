"""`client.feedback`: sends feedback on predictions to the control plane.

with rw.Client() as client:
    answer = client.predict("flights", rows)
    ...
    client.feedback("flights", {"prediction_id": answer.id, "correct": False})
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Required, TypedDict

from roadworthy.client.calls import Call, ask
from roadworthy.contract.api.feedback import GIVE, MOST_ITEMS, FeedbackReply, Outcome
from roadworthy.foundation.errors import InvalidInput

_MOST_TEXT = 200
"""Characters of a text that are sent. No valid text is longer, and an invalid one must not fill a request."""
_OWN = ("prediction_id", "correct", "event", "events", "values")


class KnownLater(TypedDict, total=False):
    """Feedback on one prediction: its id and at least one of the other fields.

    Attributes:
        prediction_id: from `Prediction.id` or the reply's header Roadworthy-Prediction-Id.
        correct: whether the answer was right; for the signal "feedback".
        events: your own bad events, such as ["refund"] for the signal "custom.refund".
        values: values of an A/B test's metrics, such as {"revenue": 12.5}.
    """

    prediction_id: Required[str]
    correct: bool
    events: Sequence[str]
    values: Mapping[str, float]


def send_feedback(endpoint: str, items: Sequence[Any], progress: Callable[[int, int], None] | None = None) -> Call[FeedbackReply]:
    """Send items, MOST_ITEMS at a time."""
    told: list[Outcome] = []
    counts: Counter[str] = Counter()
    for start in range(0, len(items), MOST_ITEMS):
        reply = yield from ask(GIVE, {"name": endpoint}, body={"items": items[start : start + MOST_ITEMS]})
        told += reply.items
        counts.update(reply.counts)
        if progress is not None:
            progress(len(told), len(items))
    return FeedbackReply(items=told, counts=dict(counts))


def items_of(known: Any) -> list[Any]:
    """The items of one item, a list or a frame, in the form of the API. Items that cannot be read are included: the control plane
    reports what is wrong with each and accepts the others.

    Args:
        known: each name besides prediction_id, correct, event, events and values is a metric. None, NaN and "" are ignored.

    Raises:
        InvalidInput: "invalid-feedback": there are no items.
    """
    if isinstance(known, Mapping):
        rows: Iterable[Any] = [known]
    elif hasattr(known, "to_dicts"):  # polars
        rows = known.to_dicts()
    elif hasattr(known, "to_dict") and hasattr(known, "columns"):  # pandas
        rows = known.to_dict("records")
    elif isinstance(known, Iterable) and not isinstance(known, (str, bytes)):
        rows = known
    else:
        raise _invalid(f"expected one item, a list of items or a table, got {type(known).__name__}")
    items = [_item(row) for row in rows]
    if not items:
        raise _invalid("expected at least one item, got none")
    return items


def _item(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return _text(row)
    item: dict[str, Any] = {}
    if (prediction_id := _said(row.get("prediction_id"))) is not None:
        item["prediction_id"] = _text(prediction_id)
    if (correct := _said(row.get("correct"))) is not None:
        item["correct"] = _TRUTHS.get(str(correct).strip().lower(), _text(correct))
    events = [_text(event) for name in ("events", "event") for event in _listed(row.get(name))]
    own = row.get("values")
    others = {name: value for name, value in row.items() if name not in _OWN}
    values = {**(own if isinstance(own, Mapping) else {}), **others}
    numbers = {_text(name): _number(value) for name, value in values.items() if _said(value) is not None}
    item |= {"events": events} if events else {}
    item |= {"values": numbers} if numbers else {}
    return item if own is None or isinstance(own, Mapping) else {**item, "values": _text(own)}


def _said(value: Any) -> Any:
    """The value, or None when it is missing: None, NaN, pandas' NA and NaT, or the empty text of a CSV file."""
    missing = type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))
    return None if missing or value is None or (isinstance(value, str) and not value.strip()) else value


def _listed(value: Any) -> Iterable[Any]:
    if _said(value) is None:
        return []
    return value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else [value]


_TRUTHS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}


def _number(value: Any) -> float | str:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return _text(value)
    return found if math.isfinite(found) else _text(value)


def _text(value: Any) -> str:
    """Any value as text that can be sent."""
    return str(value)[:_MOST_TEXT].encode("utf-8", "backslashreplace").decode()


def _invalid(text: str) -> InvalidInput:
    return InvalidInput(
        text, code="invalid-feedback", hint="give each item a prediction_id and any of correct, event and metrics"
    )
