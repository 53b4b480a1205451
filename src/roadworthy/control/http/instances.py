"""Which gateway speaks: the control plane decides it from the key, whatever a message says of itself."""

from __future__ import annotations

import structlog

from roadworthy.access.keys import GATEWAY, Key
from roadworthy.control.context import ControlContext
from roadworthy.foundation.errors import Forbidden
from roadworthy.foundation.references import check_name

_log = structlog.get_logger()


def instance_of(context: ControlContext, key: Key, claimed: str) -> str:
    """The name of the gateway that speaks with this key: `<key's name>/<instance>`.

    Args:
        claimed: what the message says: an instance, with the key's own name or id before it. An instance alone is what gateways
            of earlier releases send; it is refused where it is the name of another gateway key.

    Raises:
        InvalidRequest: "invalid-name".
        Forbidden: "gateway-not-yours", which is in the audit trail then, under the key's own name.
    """
    whose, named, instance = claimed.rpartition("/")
    check_name(instance, "gateway name")
    if named:
        own = check_name(whose, "key name") in (key.name, key.id)
    else:
        own = instance == key.name or instance not in _gateway_keys(context)
    if not own:
        _refuse(context, key, claimed)
    return f"{key.name}/{instance}"


def _gateway_keys(context: ControlContext) -> set[str]:
    return {other.name for other in context.publisher.edition.keys.values() if other.role == GATEWAY}


def _refuse(context: ControlContext, key: Key, claimed: str) -> None:
    if context.reported.first(("gateway-refused", key.id, claimed)):
        _log.warning("a gateway key spoke for another gateway", key=key.name, claimed=claimed)
        with context.database.begin() as connection:
            context.audit(connection, key.name, "gateway-refused", claimed, key=key.id)
    raise Forbidden(
        f"the key {key.name} does not speak for the gateway {claimed}",
        code="gateway-not-yours",
        hint="a gateway reports as INSTANCE or KEY/INSTANCE, where KEY is the name or the id of the key that it uses",
        facts={"key": key.name, "gateway": claimed},
    )
