"""The document of every refusal (RFC 9457)."""

from __future__ import annotations

from roadworthy.contract.api.operation import Count, Resource


class Problem(Resource, frozen=True, kw_only=True):
    """A problem. It may have further members, the facts of its code; docs/errors.md describes each code.

    Attributes:
        type: URI of the code's description. title: of the status. status: of the reply.
        detail: what is wrong, what was expected and what came.
        code: stable name of the problem.
        hint: what to do; None if nothing is known.
    """

    type: str
    title: str
    status: Count
    detail: str
    code: str
    hint: str | None
    request_id: str
