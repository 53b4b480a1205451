"""The control plane's application: the routes behind the authentication middleware. `__main__.py` builds and serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from roadworthy.control.context import ControlContext
from roadworthy.control.http import (
    endpoints,
    feedback,
    internal,
    packages,
    page,
    probes,
    problems,
    rollouts,
    system,
    webhooks,
)
from roadworthy.control.http.auth_middleware import AuthMiddleware
from roadworthy.control.http.fields import REFUSALS
from roadworthy.version import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_BEARER = HTTPBearer(auto_error=False, description="An API key of this installation")
"""Only documents that the API needs a key; `auth_middleware.py` enforces it."""


def create_app(context: ControlContext, stopping: Callable[[], bool] = lambda: False) -> ASGIApp:
    """The ASGI application. `stopping` tells long polls that the process is about to stop."""
    app = build_routes(context, stopping)
    return AuthMiddleware(app, context.publisher, context.settings.allowed_hosts)


def build_routes(context: ControlContext, stopping: Callable[[], bool]) -> FastAPI:
    """The application without its middleware, for tools that inspect the route table."""
    app = FastAPI(
        title="Roadworthy",
        version=__version__,
        description="Push packages, deploy versions to endpoints, roll back, and inspect requests and answers.",
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    problems.install(app)
    needs_key = [Depends(_BEARER)]
    for router in (
        packages.routes(context),
        endpoints.routes(context),
        rollouts.routes(context, stopping),
        feedback.routes(context),
        webhooks.routes(context),
        system.routes(context),
        internal.routes(context, stopping),
    ):
        app.include_router(router, dependencies=needs_key)
    app.include_router(probes.routes(context))
    app.include_router(page.routes(app.title, str(app.openapi_url)))
    return app
