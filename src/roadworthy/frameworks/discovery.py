"""The frameworks that this process has: the plug-ins of the kind "frameworks". Finding them imports their modules, not their
libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roadworthy.foundation.errors import PackageRefused, PackError
from roadworthy.foundation.plugins import FRAMEWORKS, plugins
from roadworthy.frameworks.framework import CODE, Framework, ModelFiles, Nature

_LAST = "python"
"""Any callable is a Python model, so this framework is asked after all others."""


def frameworks() -> Mapping[str, Framework]:
    """Every framework by its name, in the order in which they are asked whether a model is theirs."""
    found = plugins(FRAMEWORKS)
    return {name: found[name] for name in sorted(found, key=lambda name: name == _LAST)}


def framework_for(model: object) -> Framework:
    """The framework that made `model`.

    Raises:
        PackError: "unknown-framework", listing the known ones.
    """
    for framework in frameworks().values():
        if framework.recognises(model):
            return framework
    raise PackError(
        f"no framework here can pack a model of type {type(model).__name__}",
        code="unknown-framework",
        hint=f"give a model of one of: {', '.join(frameworks())}; or a function that takes rows and returns answers; "
        "`roadworthy plugin list` shows plug-ins that were not loaded",
    )


def framework_named(name: str) -> Framework:
    """The framework called `name`.

    Raises:
        PackageRefused: "unknown-framework", listing the known ones.
    """
    framework = frameworks().get(name)
    if framework is None:
        raise PackageRefused(
            "the package was made by a framework that is unknown here",
            code="unknown-framework",
            hint=f"known here: {', '.join(frameworks())}; `roadworthy plugin list` shows plug-ins that were not loaded",
            facts={"framework": name[:100]},
        )
    return framework


def readers() -> Mapping[str, Framework]:
    """For each file name suffix the framework that reads model files with it."""
    found: dict[str, Framework] = {}
    for framework in frameworks().values():
        for suffix in getattr(framework, "suffixes", ()):
            found.setdefault(suffix, framework)
    return found


def examine_files(framework: Framework, files: ModelFiles, options: Mapping[str, Any]) -> Nature:
    """What `files` are, by the framework's `examine`. A framework without that method has declared nothing: its files are code,
    as are files that it calls neither code nor data.

    Raises:
        FormatMismatch: they are not what the framework saves.
    """
    examine = getattr(framework, "examine", None)
    nature = CODE if examine is None else examine(files, options)
    declared = isinstance(nature, Nature) and (nature.carries_code or nature.trust == "data")
    return nature if declared else CODE
