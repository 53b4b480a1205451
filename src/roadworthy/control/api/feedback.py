"""Feedback: what became known of predictions after they were answered."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Strict, StringConstraints, model_validator

from roadworthy.control.plane import Plane
from roadworthy.control.verbs import feedback

_MOST_FACTS = 32
_AT_ONCE = 2
"""Requests that are worked on at a time: each may read many files, and the other routes need threads too."""

PredictionId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}(:[0-9]{1,9})?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Number = Annotated[FiniteFloat, Strict()]


class KnownLater(BaseModel):
    """What became known of one prediction: at least one of correct, events and values."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: PredictionId
    """As the reply's header Roadworthy-Prediction-Id told it; a row of it, `:i`, stands for the whole request."""
    correct: Annotated[bool, Strict()] | None = None
    """Whether the answer was right; for the guard `feedback`."""
    events: Annotated[list[Name], Field(max_length=_MOST_FACTS)] = []
    """Bad events of your own, such as refund for the guard `custom.refund`."""
    values: Annotated[dict[Name, Number], Field(max_length=_MOST_FACTS)] = {}
    """Of an A/B test's metrics, such as {"revenue": 12.5}."""

    @model_validator(mode="after")
    def _says_something(self) -> KnownLater:
        if self.correct is None and not self.events and not self.values:
            raise ValueError("says nothing: give correct, events or values")
        return self


class Feedback(BaseModel):
    """What became known of some predictions of an endpoint."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[KnownLater], Field(min_length=1, max_length=feedback.MOST_ITEMS)]


def routes(plane: Plane) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["feedback"])
    limiter = CapacityLimiter(_AT_ONCE)

    @router.post("/api/v1/endpoints/{name}/feedback", summary="Tell what became known of predictions")
    async def give(request: Request, name: str, body: Feedback) -> dict[str, Any]:
        """What became of each item, in order: taken, duplicate, unknown (its record may still be on its way: ask again),
        not-in-rollout, no-evidence, not-asked, out-of-bounds or closed. To send it again is always safe. A key of the role
        predictor may do it too, for the endpoints that it may call."""
        items = [
            feedback.Item(each.prediction_id, each.correct, tuple(each.events), each.values) for each in body.items
        ]
        actor: str = request.state.actor
        return await to_thread.run_sync(lambda: feedback.give(plane, name, items, actor), limiter=limiter)

    return router
