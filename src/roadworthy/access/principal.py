"""Who asks: what an API key stands for, and what it permits."""

from __future__ import annotations

from dataclasses import dataclass

from roadworthy.access.keys import ADMIN, GATEWAY, PREDICTOR, Key
from roadworthy.contract.api import operation
from roadworthy.foundation.errors import Forbidden
from roadworthy.store.tables import PROJECT

_SCOPES = {
    ADMIN: frozenset({operation.READ, operation.RELEASE, operation.MANAGE, operation.FEEDBACK}),
    PREDICTOR: frozenset({operation.FEEDBACK}),
    GATEWAY: frozenset({operation.GATEWAY}),
}
"""The permissions of each role."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of an operation.

    Attributes:
        who: the key's id; the audit trail names it.
        name: of the key; a gateway reports under it.
        role: admin, predictor or gateway.
        scopes: the permissions that the role has.
        project: of the key; the principal sees and changes the objects of this project only.
        endpoints: those that a predictor may call; None for all.
    """

    who: str
    name: str
    role: str
    scopes: frozenset[str]
    project: str = PROJECT
    endpoints: tuple[str, ...] | None = None

    @classmethod
    def of(cls, key: Key, project: str = PROJECT) -> Principal:
        """The principal of a key of that project."""
        endpoints = key.endpoints if key.role == PREDICTOR else None
        return cls(key.id, key.name, key.role, _SCOPES.get(key.role, frozenset()), project, endpoints)

    def check_endpoint(self, name: str) -> None:
        """Refuse an endpoint that the key does not include.

        Raises:
            Forbidden: "endpoint-not-allowed".
        """
        if self.endpoints is not None and name not in self.endpoints:
            raise Forbidden(
                "this key may neither call this endpoint nor give feedback for it",
                code="endpoint-not-allowed",
                hint="ask an administrator for a key that includes this endpoint",
            )


def role_for(permission: str) -> str:
    """The role that has a permission; the first of several."""
    return next(role for role, scopes in _SCOPES.items() if permission in scopes)
