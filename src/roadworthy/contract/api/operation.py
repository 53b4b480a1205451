"""One operation of the management API: its route, request body, reply and permission, and the types that resources share.

The control plane's routes, the API's description and the client's calls all come from these descriptions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, cast, get_args
from urllib.parse import quote

import msgspec

from roadworthy.contract.evidence import MOST
from roadworthy.foundation.documents import Bounds, Given

NAME = "^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
REFERENCE = f"{NAME[:-1]}:[1-9][0-9]{{0,8}}$"
OPEN, READ, RELEASE, MANAGE, FEEDBACK, GATEWAY = "", "read", "release", "manage", "feedback", "gateway"
"""Permissions: none; to look; to push, deploy and roll out; to manage keys and webhooks; to give feedback; to be a gateway."""

# What a pattern describes is checked by the operation, with an error code of its own.
Name = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": NAME})]
Reference = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": REFERENCE})]
Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
Count = Annotated[int, Bounds(0, MOST), msgspec.Meta(ge=0, le=MOST)]
Document = dict[str, Any]
"""A document with a validator of its own: a signature, a policy or a plan."""

_WHOLE = re.compile(r"\s*(-?[0-9]{1,20})(\.0*)?\s*", re.ASCII)
_SWITCHES = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}


def _whole(value: Any) -> Any:
    """A whole number that came as text, as 3.0 or as true: the first releases took these, and scripts send them."""
    if isinstance(value, str) and (found := _WHOLE.fullmatch(value)):
        return int(found[1])
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value


def _switch(value: Any) -> Any:
    """True or false that came as text or as a number, as above."""
    if isinstance(value, str):
        return _SWITCHES.get(value.lower(), value)
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else value


def _check_text(document: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which no text can have") from error
    return document


GivenCount = Annotated[Count, Given(_whole)]
GivenSwitch = Annotated[bool, Given(_switch)]
GivenDocument = Annotated[Document, _check_text]

R_co = TypeVar("R_co", covariant=True)


class Resource(msgspec.Struct, kw_only=True, frozen=True):
    """A part of a request or reply. A reader ignores fields that it does not know, because a later release may have added them;
    a field that is added later has a default, because an earlier release does not send it."""


class RequestBody(Resource, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The document of a request. Unknown fields are refused: they may be mistyped."""


T = TypeVar("T")


class Page(Resource, Generic[T], frozen=True, kw_only=True):
    """One page of a list.

    Attributes:
        next: the cursor of the next page; None on the last page.
    """

    items: list[T]
    next: str | Count | None = None


@dataclass(frozen=True)
class Operation(Generic[R_co]):
    """An operation.

    Attributes:
        name: its id in the API's description; generated clients name their functions so.
        method, path: of its route; `{name}` in the path stands for a value.
        summary: its effect, in a few words.
        permission: what a caller's key must allow.
        reply: type of the reply's document; bytes for a file, None for no body.
        body: type of the request's document; bytes for a file, None for no body.
        shown_once: the reply holds a secret, which is stored nowhere.
        repeatable: a repetition has no further effect by itself, so no reply is kept for it.
        status: of the usual reply. others: further statuses of success, with their meaning.
    """

    name: str
    method: str
    path: str
    summary: str
    permission: str
    reply: type[R_co]
    body: type[Any] | None = None
    status: int = 200
    others: Mapping[int, str] = field(default_factory=dict)
    shown_once: bool = False
    repeatable: bool = False

    @property
    def kinds(self) -> Sequence[Any]:
        """The types that the reply may have."""
        return get_args(self.reply) if isinstance(self.reply, UnionType) else (self.reply,)

    @property
    def takes_idempotency_key(self) -> bool:
        """Whether a repetition with the same key has no further effect. Frames of gateways have a number instead."""
        return self.method == "POST" and self.permission != GATEWAY

    def url(self, **values: str | int) -> str:
        """The path with these values, quoted."""
        return self.path.format(**{name: quote(str(value), safe="") for name, value in values.items()})

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is for this operation."""
        return method == self.method and re.fullmatch(self._pattern, path) is not None

    @cached_property
    def _pattern(self) -> str:
        return re.sub(r"\{\w+\}", "[^/]+", re.sub(r"\{\w+:path\}", ".+", self.path))

    def read(self, document: object) -> R_co:
        """The reply as its type.

        Raises:
            msgspec.ValidationError: it is not such a reply.
        """
        *others, last = self.kinds
        for kind in others:
            with suppress(msgspec.ValidationError):
                return cast("R_co", msgspec.convert(document, kind))
        return cast("R_co", msgspec.convert(document, last))
