"""From a trained model to a service that can be trusted: pack, prove, serve, switch, roll back.

`import roadworthy as rw` loads nothing heavy: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

from roadworthy.version import __version__

TYPE_CHECKING = False  # type checkers know the name; importing it takes half as long as starting Python

if TYPE_CHECKING:
    from roadworthy.client import AsyncClient, Client, Prediction
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
    "load",
    "pack",
]

_HOMES = {
    "AsyncClient": "roadworthy.client",
    "Client": "roadworthy.client",
    "Model": "roadworthy.package.model",
    "Package": "roadworthy.package.package",
    "Prediction": "roadworthy.client",
    "load": "roadworthy.loading",
    "pack": "roadworthy.packing",
}


def __getattr__(name: str) -> object:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'roadworthy' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "roadworthy.foundation.errors")), name)


def __dir__() -> list[str]:
    return __all__
