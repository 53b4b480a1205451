"""Probes: whether the process is alive, and whether it is ready. They need no key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from roadworthy.control.context import ControlContext


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["system"])

    @router.get("/livez", summary="Check that the process is alive")
    def livez() -> dict[str, Any]:
        """Needs no key."""
        return {"live": True}

    @router.get("/readyz", summary="Check that the control plane is ready")
    def readyz() -> dict[str, Any]:
        """Needs no key. 503 while the database is unavailable."""
        with context.database.begin():
            return {"ready": True}

    return router
