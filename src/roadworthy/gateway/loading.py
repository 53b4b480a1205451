"""Where a worker's packages come from: the gateway's folder. `worker.py` hands the loader to the manager."""

from __future__ import annotations

from pathlib import Path

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.runtime.manager import Loader
from roadworthy.runtime.runners.runner import Executable


def package_loader(folder: Path, threads: int) -> Loader:
    """A loader that constructs `folder`/packages/<digest> and replays its golden examples; `threads` bounds native pools."""

    def load(entry: PackageEntry) -> Executable:
        # Imported in the loading thread: a worker accepts before it has read what only loading needs.
        from roadworthy.package.archive import open_package
        from roadworthy.package.construct import construct
        from roadworthy.package.prove import prove

        package = open_package(folder / "packages" / entry.digest.removeprefix("sha256:"))
        allow_code = () if entry.allowed_by is None else (entry.digest,)
        constructed = construct(package, allow_code=allow_code, threads=threads)
        try:
            prove(constructed)
        except BaseException:
            constructed.close()
            raise
        return constructed

    return load
