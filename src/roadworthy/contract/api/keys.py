"""API keys."""

from __future__ import annotations

from typing import Annotated

import msgspec

from roadworthy.contract.api.operation import MANAGE, NAME, READ, Name, Operation, Page, RequestBody, Resource, Time

ROLES = ("admin", "predictor", "gateway")
KeyName = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^(?!key-){NAME[1:]}"})]
"""A name that no id of a key has: these begin with key-."""
Role = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(ROLES)})]


class NewKey(RequestBody, frozen=True, kw_only=True):
    """A key to create.

    Attributes:
        role: admin, predictor or gateway.
        endpoints: for predictors: the endpoints that the key may call; all when left out.
        name: for gateways, which report as `<name>/<instance>`; the key's id when left out.
    """

    role: Role
    endpoints: tuple[Name, ...] | None = None
    name: KeyName | None = None


class ApiKey(Resource, frozen=True, kw_only=True):
    """A key without its text.

    Attributes:
        endpoints: that it may call; None for all.
    """

    id: str
    name: str
    role: Role
    endpoints: list[Name] | None
    created_at: Time
    created_by: str


class CreatedKey(ApiKey, frozen=True, kw_only=True):
    """A key that was just created.

    Attributes:
        key: its text, which is shown only once.
    """

    key: str


LIST = Operation("list_keys", "GET", "/api/v1/keys", "List keys", READ, Page[ApiKey])
CREATE = Operation("create_key", "POST", "/api/v1/keys", "Create a key", MANAGE, CreatedKey, NewKey, 201, shown_once=True)
REVOKE = Operation("revoke_key", "DELETE", "/api/v1/keys/{key_id}", "Revoke a key", MANAGE, type(None), status=204)
