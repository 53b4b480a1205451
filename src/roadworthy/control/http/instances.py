"""Identifies the gateway that sends a message. The key decides, whatever name the message claims."""

from __future__ import annotations

import structlog

from roadworthy.access.keys import GATEWAY
from roadworthy.access.principal import Principal
from roadworthy.control.context import ControlContext
from roadworthy.foundation.errors import Forbidden
from roadworthy.foundation.references import check_name

_log = structlog.get_logger()


def instance_of(context: ControlContext, principal: Principal, claimed: str) -> str:
    """The name of the gateway that uses this key: `<key's name>/<instance>`.

    Args:
        claimed: the name in the message: an instance, after the key's own name or id. Gateways of earlier releases send the
            instance alone; it is refused if it is the name of another gateway key.

    Raises:
        InvalidRequest: "invalid-name".
        Forbidden: "gateway-not-yours"; the audit trail records the attempt under the key's own name.
    """
    whose, named, instance = claimed.rpartition("/")
    check_name(instance, "gateway name")
    if named:
        own = check_name(whose, "key name") in (principal.name, principal.who)
    else:
        own = instance == principal.name or instance not in _gateway_keys(context)
    if not own:
        _refuse(context, principal, claimed)
    return f"{principal.name}/{instance}"


def _gateway_keys(context: ControlContext) -> set[str]:
    return {other.name for other in context.publisher.edition.keys.values() if other.role == GATEWAY}


def _refuse(context: ControlContext, principal: Principal, claimed: str) -> None:
    if context.reported.first(("gateway-refused", principal.who, claimed)):
        _log.warning("a gateway key claimed the name of another gateway", key=principal.name, claimed=claimed)
        with context.database.begin() as connection:
            context.audit(connection, principal.name, "gateway-refused", claimed, key=principal.who)
    raise Forbidden(
        f"the key {principal.name} may not report as the gateway {claimed}",
        code="gateway-not-yours",
        hint="a gateway reports as INSTANCE or KEY/INSTANCE, where KEY is the name or the id of the key that it uses",
        facts={"key": principal.name, "gateway": claimed},
    )
