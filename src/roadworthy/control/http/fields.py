"""Types that routes share to describe the API: bounded integers, names, file bodies, and replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from roadworthy.contract.evidence import MOST
from roadworthy.control.http.problems import PROBLEM_JSON
from roadworthy.foundation.confine.grants import LONGEST_GRANT, MOST_GRANTS

MOST_WAIT_S = 60.0
_MOST_VERSION = 999_999_999
_NAME = "^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
OCTETS = "application/octet-stream"

# What is only described here is checked by the operation, with an error code of its own.
Name = Annotated[str, Path(json_schema_extra={"pattern": _NAME})]
Instance = Annotated[str, Path(json_schema_extra={"pattern": f"^({_NAME[1:-1]}/)?{_NAME[1:]}"})]
Named = Annotated[str, Field(json_schema_extra={"pattern": _NAME})]
Names = list[Named]
Version = Annotated[int, Path(json_schema_extra={"minimum": 1, "maximum": _MOST_VERSION})]
Digest = Annotated[str, Field(json_schema_extra={"pattern": "^sha256:[0-9a-f]{64}$"})]
Reference = Annotated[str, Field(json_schema_extra={"pattern": f"{_NAME[:-1]}:[1-9][0-9]{{0,8}}$"})]
_GRANT = "^(read:/.*|device:(nvidia|/dev/.+)|tcp:[1-9][0-9]{0,4}|network)$"
Grant = Annotated[str, Field(json_schema_extra={"pattern": _GRANT, "maxLength": LONGEST_GRANT})]
Grants = Annotated[Sequence[Grant], Query(json_schema_extra={"maxItems": MOST_GRANTS})]
Generation = Annotated[int, Field(ge=0, le=MOST)]
Seconds = Annotated[float, Query(ge=0, le=MOST_WAIT_S)]
Number = Annotated[int, Query(ge=0, le=MOST)]
Cursor = Annotated[int, Query(ge=0, le=_MOST_VERSION)]


def newest(most: int) -> Any:
    """A number of newest items, from 1 to `most`; the operation checks it."""
    return Query(json_schema_extra={"minimum": 1, "maximum": most})


class File(StreamingResponse):
    """A file as a reply."""

    media_type = OCTETS


def body(media_type: str = OCTETS, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe the body of a route that reads the body itself; a file unless a schema is given."""
    content = {media_type: {"schema": dict(schema or {"type": "string", "format": "binary"})}}
    return {"requestBody": {"required": True, "content": content}}


_TEXT = {"type": "string"}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "hint", "request_id"],
    "properties": {
        **dict.fromkeys(("type", "title", "detail", "code", "request_id"), _TEXT),
        "status": {"type": "integer"},
        "hint": {"type": ["string", "null"]},
    },
}
_REFUSED = {"description": "A problem (RFC 9457)", "content": {PROBLEM_JSON: {"schema": _PROBLEM}}}
REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": _REFUSED, "5XX": _REFUSED}
"""Replies that every route may send."""
