"""Decides whether a package may be constructed, and with which runtime. Uses the description only: nothing is imported."""

from __future__ import annotations

from collections.abc import Collection

from roadworthy.foundation.errors import PackageRefused
from roadworthy.package.manifest import RuntimeEntry
from roadworthy.package.package import Package
from roadworthy.package.requirements import check_environment


def audit(package: Package, allow_code: Collection[str], runtime: str | None) -> RuntimeEntry:
    """The runtime to construct: the requested one, or the one that serves.

    Raises:
        PackageRefused: "unknown-runtime", "runtime-not-constructed", "code-not-allowed", or those of
            `requirements.check_environment`.
    """
    entry = package.serving if runtime is None else package.manifest.runtime(runtime)
    if entry is None:
        raise PackageRefused(
            f"the package {package.name} has no runtime {str(runtime)[:100]!r}",
            code="unknown-runtime",
            hint=f"its runtimes: {', '.join(package.runtimes)}",
        )
    if entry.name in package.withheld:
        raise PackageRefused(
            f"the runtime {entry.name} may not serve: {package.withheld[entry.name]}",
            code="runtime-not-constructed",
            hint=f"use one of {', '.join(package.runtimes)}, or pack the model again",
            facts={"runtime": entry.name},
        )
    if entry.needs_code:
        check_code_allowed(package, allow_code)
    check_environment(package.manifest, entry)
    return entry


def check_code_allowed(package: Package, allow_code: Collection[str]) -> None:
    """Refuse to execute the package's own code unless its digest is in `allow_code`.

    Raises:
        PackageRefused: "code-not-allowed".
    """
    if package.digest not in allow_code:
        raise PackageRefused(
            f"the package {package.name} contains code, and its digest is not allowed to execute code here",
            code="code-not-allowed",
            hint=f"if you trust its origin, allow its digest: --allow-code {package.digest}",
            facts={"digest": package.digest},
        )
