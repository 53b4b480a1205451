"""The libraries that a package was made with, and whether this environment has them."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable

from roadworthy.foundation.errors import PackageRefused
from roadworthy.package.manifest import Manifest, Requirement, RuntimeEntry


def python_minor() -> str:
    """This interpreter's version in the form of manifests: "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def lock(names: Iterable[str]) -> tuple[Requirement, ...]:
    """The installed version of each distribution, sorted by name; distributions that are not installed are left out."""
    found = {}
    for name in names:
        version = installed_version(name)
        if version is not None:
            found[name] = version
    return tuple(Requirement(name, found[name]) for name in sorted(found))


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_environment(manifest: Manifest, entry: RuntimeEntry) -> None:
    """Refuse an environment in which the runtime could differ from the proved one.

    A runtime that executes code or unpickles needs the same minor version of Python and of every library. A runtime of plain
    data (a compiled graph) only needs its libraries to be installed: its golden examples prove the rest.

    Raises:
        PackageRefused: "python-mismatch", "requirement-mismatch", "requirement-missing".
    """
    wanted = {requirement.name: requirement for requirement in manifest.requirements}
    names = set(entry.requirements)
    if entry.preprocess and manifest.preprocess is not None:
        names.update(manifest.preprocess.requirements)
    needed = [wanted[name] for name in sorted(names)]
    if entry.needs_code and manifest.python != python_minor():
        raise PackageRefused(
            f"the package was made with Python {manifest.python}, but this is Python {python_minor()}",
            code="python-mismatch",
            hint=f"run it with Python {manifest.python}, or pack the model again with {python_minor()}",
            facts={"expected": manifest.python, "found": python_minor()},
        )
    missing = [requirement for requirement in needed if installed_version(requirement.name) is None]
    if missing:
        raise PackageRefused(
            f"the package needs libraries that are not installed: {', '.join(requirement.name for requirement in missing)}",
            code="requirement-missing",
            hint=f"pip install {' '.join(str(requirement) for requirement in missing)}",
        )
    other = [r for r in needed if entry.needs_code and _minor(r.version) != _minor(installed_version(r.name) or "")]
    if other:
        found = ", ".join(f"{r.name} {r.version} (installed: {installed_version(r.name)})" for r in other)
        raise PackageRefused(
            f"the package was made with {found}",
            code="requirement-mismatch",
            hint=f"pip install {' '.join(str(requirement) for requirement in other)}",
        )


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
