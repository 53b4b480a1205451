"""Builds the live model of a package: describe (`archive.py`) → audit (`audit.py`) → construct. Only this step imports code."""

from __future__ import annotations

from collections.abc import Callable, Collection

from roadworthy.foundation.errors import PackageRefused
from roadworthy.frameworks.code import load_callable
from roadworthy.frameworks.discovery import framework_named
from roadworthy.frameworks.framework import Loaded, Preprocess
from roadworthy.frameworks.parts import BatchSteps
from roadworthy.package.audit import audit
from roadworthy.package.natures import SealedFiles, examine
from roadworthy.package.package import Package
from roadworthy.package.runtimes import served_options
from roadworthy.schema.batch import Batch


class Constructed:
    """A package's live model, not yet proved: `prove.py` replays its golden examples."""

    def __init__(self, package: Package, runtime: str, loaded: Loaded) -> None:
        self.package = package
        self.runtime = runtime
        self.run: Callable[[Batch], Batch] = loaded.run  # bound: the hot path takes no detour
        self.parts: Callable[[Batch], BatchSteps] | None = getattr(loaded, "parts", None)
        self._loaded = loaded

    @property
    def concurrent(self) -> bool:
        """Whether `run` is short, native and releases the GIL."""
        return self._loaded.concurrent

    def close(self) -> None:
        """Free memory and threads. Call it once, after the last run."""
        self.run, self.parts = _closed, None
        self._loaded.close()


def _closed(_batch: Batch) -> Batch:
    raise PackageRefused("the model is closed", code="model-closed", hint="load the package again")


def construct(package: Package, *, allow_code: Collection[str] = (), runtime: str | None = None, threads: int = 1) -> Constructed:
    """Build a package from its unpacked folder.

    Args:
        package: opened from a folder.
        allow_code: digests of packages that may execute their own code.
        runtime: the runtime's name, or None for the one that serves.
        threads: maximum size of each native thread pool of the model.

    Raises:
        PackageRefused: codes of `audit.py`, and "not-unpacked", "code-not-loadable", "graph-mismatch".
        PackageInvalid: "package-damaged", "manifest-invalid": the loaded bytes differ from the sealed ones, or from the
            manifest's statements.
    """
    entry = audit(package, allow_code, runtime)
    if package.folder is None:
        raise not_unpacked(package)
    files = SealedFiles(package, entry.folder)
    # With `audit`: code is loaded only if its package's digest is allowed, and every loaded byte is checked against that digest.
    examine(package, entry, files)
    preprocess: Preprocess | None = None
    code = package.manifest.preprocess
    if entry.preprocess and code is not None:
        preprocess = load_callable(SealedFiles(package, code.folder))
    options = served_options(entry, package.signature)
    loaded = framework_named(entry.framework).load(files, options, package.signature, threads, preprocess)
    return Constructed(package, entry.name, loaded)


def not_unpacked(package: Package) -> PackageRefused:
    """The error for a packed package that would have to be a folder."""
    return PackageRefused(
        f"{package.path.name} is a packed file; loading needs an unpacked folder",
        code="not-unpacked",
        hint="unpack it first",
    )
