"""Loads packages from the gateway's folder: inline versions in workers, a version or a rule in runner processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.confine.plan import not_confined
from roadworthy.foundation.errors import PackageRefused
from roadworthy.runtime.runners.runner import Executable, kind_named

if TYPE_CHECKING:
    from roadworthy.package.package import Package


Loader = Callable[[PackageEntry], Executable]
"""Constructs a package and replays its golden examples. Raises RoadworthyError, or any error of the package's code."""


def package_loader(folder: Path, threads: int) -> Loader:
    """A loader that constructs `folder`/packages/<digest> and replays its golden examples; `threads` bounds native pools."""

    def load(entry: PackageEntry) -> Executable:
        # Imported in the loading thread: a worker accepts connections before it imports what only loading needs.
        from roadworthy.package.construct import construct
        from roadworthy.package.prove import prove

        package = open_held(folder, entry.digest)
        for runtime, reason in package.withheld.items():
            structlog.get_logger("package").warning("runtime-withheld", digest=entry.digest, runtime=runtime, reason=reason)
        constructed = construct(package, allow_code=_allowed(entry), threads=threads)
        try:
            prove(constructed)
        except BaseException:
            constructed.close()
            raise
        return constructed

    return load


def rule_loader(folder: Path, name: str) -> Loader:
    """A loader of one of a package's rules, which proves the rule on the golden examples."""

    def load(entry: PackageEntry) -> Executable:
        from roadworthy.package.rules import load_rule, prove_rule

        rule = load_rule(open_held(folder, entry.digest), name, allow_code=_allowed(entry))
        prove_rule(rule, name)
        return rule

    return load


def run_by(load: Loader, runner: str, threads: int) -> Loader:
    """A loader of what the kind of runner with that name makes of a package. Through that of a plug-in the golden examples are
    replayed again. It also raises whatever the plug-in raises, and RoadworthyError "runner-missing"."""

    def load_for_runner(entry: PackageEntry) -> Executable:
        kind = kind_named(runner)
        executable = load(entry)
        try:
            loaded = kind.runner(executable, threads)
            if loaded is not executable:
                from roadworthy.package.construct import Constructed
                from roadworthy.package.prove import prove

                executable = proved = Constructed(cast("Package", executable.package), executable.runtime, loaded)
                prove(proved)
        except BaseException:
            executable.close()
            raise
        return executable

    return load_for_runner


def without_code(load: Loader, why: PackageRefused | None = None) -> Loader:
    """Restrict a loader to packages without code, because this process is not confined, or for the reason `why`."""

    def load_data(entry: PackageEntry) -> Executable:
        try:
            return load(msgspec.structs.replace(entry, allowed_by=None))
        except PackageRefused as error:
            raise ((why or not_confined()) if error.code == "code-not-allowed" else error) from error

    return load_data


def _allowed(entry: PackageEntry) -> tuple[str, ...]:
    return () if entry.allowed_by is None else (entry.digest,)


def open_held(folder: Path, digest: str) -> Package:
    """Open and verify the package with that digest below the gateway's `folder`.

    Raises:
        PackageInvalid: as `open_package`; code "package-damaged" when another package is in its folder.
    """
    from roadworthy.package.archive import open_package
    from roadworthy.package.files import damaged

    package = open_package(package_folder(folder, digest))
    if package.digest != digest:
        raise damaged("manifest.json")
    return package


def package_folder(folder: Path, digest: str) -> Path:
    """The folder of the package with that digest, in the gateway's `folder`."""
    return folder / "packages" / digest.removeprefix("sha256:")
