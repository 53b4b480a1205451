"""The route for feedback: outcomes of predictions that become known after the answer."""

from __future__ import annotations

import re
from typing import Annotated, Any, cast

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Name
from roadworthy.control.resources import feedback

_MOST_FACTS = 32
_AT_ONCE = 2
"""Requests handled at a time: each may read many files, and other routes need threads too."""

_MOST_SHOWN = 300
"""Characters of an item that a reply repeats."""
_ID = re.compile(r"[0-9a-f]{32}(:[0-9]{1,9})?", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)


def _check_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("expected 32 hexadecimal digits, as in the reply's header Roadworthy-Prediction-Id")
    return text


def _check_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("expected a name of up to 63 characters from a-z, 0-9 and _, beginning with a letter")
    return text


PredictionId = Annotated[str, AfterValidator(_check_id), Field(json_schema_extra={"pattern": f"^{_ID.pattern}$"})]
FactName = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"})]
Number = Annotated[FiniteFloat, Strict()]


class KnownLater(BaseModel):
    """The outcome of one prediction: at least one of correct, events and values."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: PredictionId
    """From the reply's header Roadworthy-Prediction-Id; the id of a row, with `:i`, means the whole request."""
    correct: Annotated[bool, Strict()] | None = None
    """Whether the answer was right; counts for the criterion `feedback`."""
    events: Annotated[list[FactName], Field(max_length=_MOST_FACTS)] = []
    """Bad events of your own, such as refund for the criterion `custom.refund`."""
    values: Annotated[dict[FactName, Number], Field(max_length=_MOST_FACTS)] = {}
    """Values of an A/B test's metrics, such as {"revenue": 12.5}."""

    @model_validator(mode="after")
    def _says_something(self) -> KnownLater:
        if self.correct is None and not self.events and not self.values:
            raise ValueError("empty: give at least one of correct, events and values")
        return self


def _read(value: Any, read: ValidatorFunctionWrapHandler) -> feedback.Item:
    """Read an item; an unreadable one carries its fault, so that the others are still accepted."""
    try:
        known: KnownLater = read(value)
    except ValidationError as error:
        return _unreadable(value, error)
    return feedback.Item(known.prediction_id, known.correct, tuple(known.events), known.values)


def _unreadable(value: Any, error: ValidationError) -> feedback.Item:
    if not isinstance(value, dict):
        return feedback.Item(None, fault=_plain(f"expected an object with a prediction_id, got {value!r}"))
    first = error.errors()[0]
    place = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))[:_MOST_SHOWN]] if part)
    got = "" if first["type"] in ("missing", "extra_forbidden") or not place else f", got {first['input']!r:.100}"
    given_id = value.get("prediction_id")
    known_by = _plain(given_id) if isinstance(given_id, str) else None
    return feedback.Item(known_by, fault=_plain(f"{place}{first['msg'].removeprefix('Value error, ')}{got}"))


def _plain(text: str) -> str:
    """The text, cut to a length that may be repeated and limited to characters of every encoding."""
    return text[:_MOST_SHOWN].encode("ascii", "backslashreplace").decode()


Item = Annotated[Annotated[KnownLater, WrapValidator(_read)] | Any, Field(union_mode="left_to_right")]
"""Accepts any value, so that an unreadable item gets a result of its own; KnownLater is the documented form."""


class Feedback(BaseModel):
    """Outcomes of an endpoint's predictions."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[Item], Field(min_length=1, max_length=feedback.MOST_ITEMS)]


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["feedback"])
    limiter = CapacityLimiter(_AT_ONCE)

    @router.post("/api/v1/endpoints/{name}/feedback", summary="Give feedback on predictions")
    async def give(request: Request, name: Name, body: Feedback) -> dict[str, Any]:
        """Reply with the result of each item, in order: taken, duplicate, unknown (its record may not have arrived yet: send it
        again later), not-in-rollout, no-evidence, not-asked, out-of-bounds, closed, or invalid. For an invalid item `problem`
        says why, and the others are still taken. Sending the same feedback again is always safe. Keys of the role predictor may
        send it too, for the endpoints that they may call."""
        items = cast("list[feedback.Item]", body.items)  # `_read` returns these
        actor: str = request.state.actor
        return await to_thread.run_sync(lambda: feedback.give(context, name, items, actor), limiter=limiter)

    return router
