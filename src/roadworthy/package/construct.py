"""Builds the live model of a package: describe (`archive.py`) → audit (`audit.py`) → construct. Only this imports things."""

from __future__ import annotations

from collections.abc import Callable, Collection

from roadworthy.foundation.errors import PackageRefused
from roadworthy.frameworks.code import load_callable
from roadworthy.frameworks.discovery import framework_named
from roadworthy.frameworks.framework import Loaded, Preprocess
from roadworthy.package.audit import audit
from roadworthy.package.natures import SealedFiles, examine
from roadworthy.package.package import Package
from roadworthy.package.runtimes import served_options
from roadworthy.schema.batch import Batch


class Constructed:
    """A package's live model. Not yet proved: `prove.py` replays its golden examples."""

    def __init__(self, package: Package, runtime: str, loaded: Loaded) -> None:
        self.package = package
        self.runtime = runtime
        self.run: Callable[[Batch], Batch] = loaded.run  # bound: the hot path takes no detour
        self._loaded = loaded

    @property
    def concurrent(self) -> bool:
        """Whether `run` is short, native and gives the GIL back."""
        return self._loaded.concurrent

    def close(self) -> None:
        """Give memory and threads back. Called once, after the last run."""
        self.run = _closed
        self._loaded.close()


def _closed(_batch: Batch) -> Batch:
    raise PackageRefused("the model is closed", code="model-closed", hint="load it again")


def construct(
    package: Package, *, allow_code: Collection[str] = (), runtime: str | None = None, threads: int = 1
) -> Constructed:
    """Build a package from its unpacked folder.

    Args:
        package: opened from a folder.
        allow_code: digests that may execute code of their own.
        runtime: which one, or None for the one that serves.
        threads: bound of every native thread pool of it.

    Raises:
        PackageRefused: codes of `audit.py`, and "not-unpacked", "code-not-loadable", "graph-mismatch".
        PackageInvalid: "package-damaged", "manifest-invalid": the bytes that are loaded are not those that were sealed, or not
            what the manifest says of them.
    """
    entry = audit(package, allow_code, runtime)
    if package.folder is None:
        raise PackageRefused("the package is packed", code="not-unpacked", hint="unpack it first")
    files = SealedFiles(package, entry.folder)
    # With `audit`: no code is loaded unless its package was named by digest, to which every byte that is loaded is held.
    examine(package, entry, files)
    preprocess: Preprocess | None = None
    code = package.manifest.preprocess
    if entry.preprocess and code is not None:
        preprocess = load_callable(SealedFiles(package, code.folder))
    options = served_options(entry, package.signature)
    loaded = framework_named(entry.framework).load(files, options, package.signature, threads, preprocess)
    return Constructed(package, entry.name, loaded)
