"""Where packages come from: the gateway's folder. Workers load inline versions with it, runner processes their only one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.runtime.runners.runner import Executable


def package_loader(folder: Path, threads: int) -> Callable[[PackageEntry], Executable]:
    """A loader that constructs `folder`/packages/<digest> and replays its golden examples; `threads` bounds native pools."""

    def load(entry: PackageEntry) -> Executable:
        # Imported in the loading thread: a worker accepts before it has read what only loading needs.
        from roadworthy.package.archive import open_package
        from roadworthy.package.construct import construct
        from roadworthy.package.prove import prove

        package = open_package(package_folder(folder, entry.digest))
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


def package_folder(folder: Path, digest: str) -> Path:
    """Where the gateway's `folder` keeps the package of that digest."""
    return folder / "packages" / digest.removeprefix("sha256:")
