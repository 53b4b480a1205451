"""The route for feedback: outcomes of predictions that become known after the answer."""

from __future__ import annotations

from anyio import CapacityLimiter, to_thread

from roadworthy.access.principal import Principal
from roadworthy.contract.api import feedback as api
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Name
from roadworthy.control.http.routing import Routes
from roadworthy.control.resources import feedback

_AT_ONCE = 2
"""Requests handled at a time: each may read many files, and other routes need threads too."""


def routes(root: ControlContext) -> Routes:
    """The routes."""
    found = Routes("feedback", root)
    limiter = CapacityLimiter(_AT_ONCE)

    @found.add(api.GIVE)
    async def give(context: ControlContext, principal: Principal, name: Name, body: api.Feedback) -> api.FeedbackReply:
        """Reply with the result of each item, in order: taken, duplicate, unknown (its record may not have arrived yet: send it
        again later), not-in-rollout, no-evidence, not-asked, out-of-bounds, closed, or invalid. For an invalid item `problem`
        says why, and the others are still taken. Sending the same feedback again is always safe. Keys of the role predictor may
        send it too, for the endpoints that they may call."""
        return await to_thread.run_sync(lambda: feedback.give(context, name, body.items, principal), limiter=limiter)

    return found
