"""Probes: whether the process is alive, and whether it is ready. They need no key."""

from __future__ import annotations

from roadworthy.contract.api import system as api
from roadworthy.control.context import ControlContext
from roadworthy.control.http.routing import Routes


def routes(root: ControlContext) -> Routes:
    """The routes."""
    found = Routes("system", root)

    @found.add(api.LIVEZ)
    def livez() -> api.Live:
        """Needs no key."""
        return api.Live(live=True)

    @found.add(api.READYZ)
    def readyz(context: ControlContext) -> api.Ready:
        """Needs no key. 503 while the database is unavailable."""
        with context.database.begin():
            return api.Ready(ready=True)

    return found
