"""Probes: whether the process lives, and whether it can work. They need no key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from roadworthy.control.context import ControlContext


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["system"])

    @router.get("/livez", summary="Whether the process lives")
    def livez() -> dict[str, Any]:
        """Needs no key."""
        return {"live": True}

    @router.get("/readyz", summary="Whether it can work")
    def readyz() -> dict[str, Any]:
        """Needs no key. 503 when the database is out of reach."""
        with context.database.begin():
            return {"ready": True}

    return router
