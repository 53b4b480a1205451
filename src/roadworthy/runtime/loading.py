"""Where packages come from: the gateway's folder. Workers load inline versions with it, runner processes their only one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.runtime.runners.runner import Executable

if TYPE_CHECKING:
    from roadworthy.package.package import Package


def package_loader(folder: Path, threads: int) -> Callable[[PackageEntry], Executable]:
    """A loader that constructs `folder`/packages/<digest> and replays its golden examples; `threads` bounds native pools."""

    def load(entry: PackageEntry) -> Executable:
        # Imported in the loading thread: a worker accepts before it has read what only loading needs.
        from roadworthy.package.construct import construct
        from roadworthy.package.prove import prove

        package = open_held(folder, entry.digest)
        for runtime, reason in package.withheld.items():
            structlog.get_logger("package").warning(
                "runtime-withheld", digest=entry.digest, runtime=runtime, reason=reason
            )
        allow_code = () if entry.allowed_by is None else (entry.digest,)
        constructed = construct(package, allow_code=allow_code, threads=threads)
        try:
            prove(constructed)
        except BaseException:
            constructed.close()
            raise
        return constructed

    return load


def open_held(folder: Path, digest: str) -> Package:
    """The package of that digest below the gateway's `folder`, verified.

    Raises:
        PackageInvalid: as `open_package`; "package-damaged" when another package lies in its place.
    """
    from roadworthy.package.archive import open_package
    from roadworthy.package.files import damaged

    package = open_package(package_folder(folder, digest))
    if package.digest != digest:
        raise damaged("manifest.json")
    return package


def package_folder(folder: Path, digest: str) -> Path:
    """Where the gateway's `folder` keeps the package of that digest."""
    return folder / "packages" / digest.removeprefix("sha256:")
