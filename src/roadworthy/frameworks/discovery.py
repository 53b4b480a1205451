"""Finds the framework files of this folder by looking. Adding a framework is adding a file; an unknown name is an error."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import roadworthy.frameworks
from roadworthy.foundation.errors import PackageRefused, PackError
from roadworthy.frameworks.framework import Framework

_LAST_RESORT = "python"
"""Any callable is a Python model, so this one is asked after all others."""


@cache
def frameworks() -> Mapping[str, Framework]:
    """Every framework by its name. The files are imported, their libraries are not."""
    found: dict[str, Framework] = {}
    for module in pkgutil.iter_modules(roadworthy.frameworks.__path__):
        framework = getattr(importlib.import_module(f"roadworthy.frameworks.{module.name}"), "FRAMEWORK", None)
        if framework is not None:
            found[framework.name] = framework
    return MappingProxyType(dict(sorted(found.items(), key=lambda item: (item[0] == _LAST_RESORT, item[0]))))


def framework_for(model: object) -> Framework:
    """The framework that made `model`.

    Raises:
        PackError: "unknown-framework", listing the known ones.
    """
    for framework in frameworks().values():
        if framework.recognises(model):
            return framework
    raise PackError(
        f"nothing here knows a model of type {type(model).__name__}",
        code="unknown-framework",
        hint=f"give a model of one of: {', '.join(frameworks())}; or a function that takes rows and returns answers",
    )


def framework_named(name: str) -> Framework:
    """The framework called `name`.

    Raises:
        PackageRefused: "unknown-framework", listing the known ones.
    """
    framework = frameworks().get(name)
    if framework is None:
        raise PackageRefused(
            "the package was made by a framework that is not known here",
            code="unknown-framework",
            hint=f"known here: {', '.join(frameworks())}",
            facts={"framework": name[:100]},
        )
    return framework
