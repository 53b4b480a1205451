"""The control plane's application: the routes behind the authentication middleware. `__main__.py` builds and serves it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from roadworthy.contract.api.operation import Operation
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
from roadworthy.control.http.routing import Routes, describe
from roadworthy.version import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def create_app(context: ControlContext, stopping: Callable[[], bool] = lambda: False) -> ASGIApp:
    """The ASGI application. `stopping` tells long polls that the process is about to stop."""
    app, operations = build_routes(context, stopping)
    return AuthMiddleware(app, operations, context.principal, context.settings.allowed_hosts)


def build_routes(
    context: ControlContext, stopping: Callable[[], bool], *, describe_all: bool = False
) -> tuple[FastAPI, list[Operation[Any]]]:
    """The application without its middleware, and its operations; also for tools that inspect the route table.

    Args:
        describe_all: its description has the routes of gateways and pages too.
    """
    app = FastAPI(
        title="Roadworthy",
        version=__version__,
        description="Push packages, deploy versions to endpoints, roll back, and inspect requests and answers.",
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    public = [
        packages.routes(context),
        endpoints.routes(context),
        rollouts.routes(context),
        feedback.routes(context),
        webhooks.routes(context),
        system.routes(context, stopping),
        probes.routes(context),
    ]
    gateways = internal.routes(context, stopping)
    for each in (*public, gateways):
        app.include_router(each.router, include_in_schema=describe_all or each is not gateways)
    app.include_router(page.routes(app.title, str(app.openapi_url)), include_in_schema=describe_all)
    described = _operations([*public, gateways] if describe_all else public)
    app.openapi = functools.cache(lambda: describe(app, described))  # type: ignore[method-assign]  # as FastAPI's manual says
    return app, _operations([*public, gateways])


def _operations(routes: list[Routes]) -> list[Operation[Any]]:
    return [operation for each in routes for operation in each.operations]
