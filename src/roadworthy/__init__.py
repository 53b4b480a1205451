"""From a trained model to a service that can be trusted: pack, prove, serve, switch, roll back.

`import roadworthy as rw` loads nothing heavy: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

from roadworthy.version import __version__

TYPE_CHECKING = False  # type checkers know the name; importing it takes half as long as starting Python

if TYPE_CHECKING:
    from roadworthy.client import AsyncClient, Client, Prediction
    from roadworthy.embedded.asgi import asgi_app
    from roadworthy.embedded.endpoint import EmbeddedEndpoint, serve_in_process
    from roadworthy.embedded.wsgi import wsgi_app
    from roadworthy.foundation.errors import (
        ClientError,
        Conflict,
        Forbidden,
        InvalidInput,
        InvalidRequest,
        ModelFault,
        NotFound,
        PackageError,
        PackageInvalid,
        PackageRefused,
        PackError,
        ProofFailed,
        RoadworthyError,
        SettingsError,
        Unauthenticated,
        Unavailable,
    )
    from roadworthy.loading import load
    from roadworthy.package.model import Model
    from roadworthy.package.package import Package
    from roadworthy.packing import pack

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "EmbeddedEndpoint",
    "Forbidden",
    "InvalidInput",
    "InvalidRequest",
    "Model",
    "ModelFault",
    "NotFound",
    "PackError",
    "Package",
    "PackageError",
    "PackageInvalid",
    "PackageRefused",
    "Prediction",
    "ProofFailed",
    "RoadworthyError",
    "SettingsError",
    "Unauthenticated",
    "Unavailable",
    "__version__",
    "asgi_app",
    "load",
    "pack",
    "serve_in_process",
    "wsgi_app",
]

_HOMES = {
    "AsyncClient": "roadworthy.client",
    "Client": "roadworthy.client",
    "EmbeddedEndpoint": "roadworthy.embedded.endpoint",
    "Model": "roadworthy.package.model",
    "Package": "roadworthy.package.package",
    "Prediction": "roadworthy.client",
    "asgi_app": "roadworthy.embedded.asgi",
    "load": "roadworthy.loading",
    "pack": "roadworthy.packing",
    "serve_in_process": "roadworthy.embedded.endpoint",
    "wsgi_app": "roadworthy.embedded.wsgi",
}


def __getattr__(name: str) -> object:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'roadworthy' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "roadworthy.foundation.errors")), name)


def __dir__() -> list[str]:
    return __all__
