"""Types of paths and queries that routes share: bounded integers and names; and files as replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from roadworthy.contract.api.operation import NAME
from roadworthy.contract.evidence import MOST
from roadworthy.control.http.routing import OCTETS
from roadworthy.foundation.confine.grants import LONGEST_GRANT, MOST_GRANTS

MOST_WAIT_S = 60.0
_MOST_VERSION = 999_999_999

# What is only described here is checked by the operation, with an error code of its own.
Name = Annotated[str, Path(json_schema_extra={"pattern": NAME})]
Instance = Annotated[str, Path(json_schema_extra={"pattern": f"^({NAME[1:-1]}/)?{NAME[1:]}"})]
Version = Annotated[int, Path(json_schema_extra={"minimum": 1, "maximum": _MOST_VERSION})]
Digest = Annotated[str, Field(json_schema_extra={"pattern": "^sha256:[0-9a-f]{64}$"})]
_GRANT = "^(read:/.*|device:(nvidia|/dev/.+)|tcp:[1-9][0-9]{0,4}|network)$"
Grant = Annotated[str, Field(json_schema_extra={"pattern": _GRANT, "maxLength": LONGEST_GRANT})]
Grants = Annotated[Sequence[Grant], Query(json_schema_extra={"maxItems": MOST_GRANTS})]
Seconds = Annotated[float, Query(ge=0, le=MOST_WAIT_S)]
Number = Annotated[int, Query(ge=0, le=MOST)]
Cursor = Annotated[int, Query(ge=0, le=_MOST_VERSION)]


def newest(most: int) -> Any:
    """A number of newest items, from 1 to `most`; the operation checks it."""
    return Query(json_schema_extra={"minimum": 1, "maximum": most})


class File(StreamingResponse):
    """A file as a reply."""

    media_type = OCTETS
