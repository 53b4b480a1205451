"""Feedback on predictions: outcomes that become known after the answer."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import msgspec

from roadworthy.contract.api.operation import FEEDBACK, Count, Operation, RequestBody, Resource
from roadworthy.foundation.documents import Bounds

MOST_ITEMS = 1_000
"""Most items of one request."""
RESULTS = (
    "taken",
    "duplicate",
    "unknown",
    "not-in-rollout",
    "no-evidence",
    "not-asked",
    "out-of-bounds",
    "closed",
    "invalid",
)
"""Results of an item; docs/rollouts.md explains each."""
_MOST_FACTS = 32
_ID = re.compile(r"[0-9a-f]{32}(:[0-9]{1,9})?", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)


def _check_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("expected 32 hexadecimal digits, as in the reply's header Roadworthy-Prediction-Id")
    return text


def _check_fact(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("expected a name of up to 63 characters from a-z, 0-9 and _, beginning with a letter")
    return text


def _check_names(values: dict[str, float]) -> dict[str, float]:
    if len(values) > _MOST_FACTS:
        raise ValueError(f"must have at most {_MOST_FACTS} values, got {len(values)}")
    for name in values:
        _check_fact(name)
    return values


def _check_finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return value


_Fact = Annotated[str, _check_fact, msgspec.Meta(extra_json_schema={"pattern": f"^{_NAME.pattern}$"})]


class KnownLater(RequestBody, frozen=True, kw_only=True):
    """The outcome of one prediction: at least one of correct, events and values.

    Attributes:
        prediction_id: from the reply's header Roadworthy-Prediction-Id; the id of a row, with `:i`, means the whole request.
        correct: whether the answer was right; counts for the criterion `feedback`.
        events: bad events of your own, such as refund for the criterion `custom.refund`.
        values: values of an A/B test's metrics, such as {"revenue": 12.5}.
    """

    prediction_id: Annotated[str, _check_id, msgspec.Meta(extra_json_schema={"pattern": f"^{_ID.pattern}$"})]
    correct: bool | None = None
    events: Annotated[tuple[_Fact, ...], Bounds(0, _MOST_FACTS), msgspec.Meta(max_length=_MOST_FACTS)] = ()
    values: Annotated[dict[str, Annotated[float, _check_finite]], _check_names, msgspec.Meta(max_length=_MOST_FACTS)] = (
        msgspec.field(default_factory=dict)
    )


_ITEMS = {"items": {"anyOf": [{"$ref": "#/components/schemas/KnownLater"}, {}]}}


class Feedback(RequestBody, frozen=True, kw_only=True):
    """Outcomes of an endpoint's predictions, each a KnownLater. An item that is not gets a result of its own."""

    items: Annotated[
        tuple[Any, ...],
        Bounds(1, MOST_ITEMS),
        msgspec.Meta(min_length=1, max_length=MOST_ITEMS, extra_json_schema=_ITEMS),
    ]


class Outcome(Resource, frozen=True, omit_defaults=True):
    """The result of one item.

    Attributes:
        prediction_id: None for an invalid item without an id.
        result: taken, duplicate, unknown, not-in-rollout, no-evidence, not-asked, out-of-bounds, closed or invalid.
        ignored: parts that the rollout does not count; left out without any.
        problem: what is wrong with the item; left out if nothing is.
    """

    prediction_id: str | None
    result: str
    ignored: list[str] = msgspec.field(default_factory=list)
    problem: str = ""


class FeedbackReply(Resource, frozen=True, kw_only=True):
    """The result of each item, in order, and the count of each result."""

    items: list[Outcome]
    counts: dict[str, Count]


GIVE = Operation(
    "give_feedback",
    "POST",
    "/api/v1/endpoints/{name}/feedback",
    "Give feedback on predictions",
    FEEDBACK,
    FeedbackReply,
    Feedback,
    repeatable=True,
)
