"""`rw.load`: loads a package or a registered version as a proved model in the caller's process."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from roadworthy.foundation.errors import InvalidRequest, PackageInvalid
from roadworthy.foundation.files import private_folder
from roadworthy.foundation.plugins import allow
from roadworthy.foundation.references import VersionReference
from roadworthy.package.archive import SUFFIX, open_package, unpack
from roadworthy.package.package import Package
from roadworthy.settings import Settings, load_settings

if TYPE_CHECKING:
    from roadworthy.package.model import Model


def load(
    source: str | Path,
    *,
    allow_code: str | Collection[str] | None = None,
    runtime: str | None = None,
    threads: int = 1,
    timestamp_integers: str | None = None,
) -> Model:
    """Load the model of a package and prove that its golden examples give the same answers here as in training.

    Args:
        source: a .rw file, an unpacked package folder, or a registered version like "flights:2". A version is fetched from the
            control plane once and cached in the home folder.
        allow_code: the digest or digests of packages whose code may run; other packages with code are refused.
        runtime: name of the package's runtime; None for the runtime that serves.
        threads: size of its native thread pools.
        timestamp_integers: the unit of integers in timestamp columns, "s", "ms", "us" or "ns"; None refuses them.

    Raises:
        PackageInvalid: damaged, or not a package. PackageRefused: not allowed or not runnable here. ProofFailed: other answers.
        NotFound: no such version. ClientError: the control plane does not answer. InvalidRequest: "unknown-unit".
    """
    from roadworthy.package.construct import construct
    from roadworthy.package.model import Model
    from roadworthy.schema.timestamps import UNITS

    if timestamp_integers not in (None, *UNITS):
        raise InvalidRequest(
            f"timestamp_integers: expected one of {', '.join(UNITS)}, got {timestamp_integers!r:.40}",
            code="unknown-unit",
            hint="name the unit in which the caller counts since 1970 UTC",
        )
    settings = load_settings()
    allow(settings.general.plugins)
    package = unpacked(source, settings)
    allowed = (allow_code,) if isinstance(allow_code, str) else tuple(allow_code or ())
    constructed = construct(package, allow_code=allowed, runtime=runtime, threads=threads)
    try:
        return Model(constructed, timestamp_integers)
    except BaseException:
        constructed.close()
        raise


def unpacked(source: str | Path, settings: Settings) -> Package:
    path = Path(source)
    if path.is_dir():
        return open_package(path)
    cache = private_folder(settings.general.home_folder() / "cache")
    if isinstance(source, Path) or path.suffix == SUFFIX or path.is_file():
        return _cached(cache, path)
    return _fetched(cache, str(VersionReference.parse(str(source))), settings)


def _cached(cache: Path, packed: Path) -> Package:
    if not packed.is_file():
        raise PackageInvalid(f"no such package file: {packed.name}", code="not-a-package", hint="check the path")
    return unpack(packed, cache / open_package(packed).digest.removeprefix("sha256:"))


def _fetched(cache: Path, reference: str, settings: Settings) -> Package:
    from roadworthy.client import Client

    with Client.from_settings(settings.client) as client, tempfile.TemporaryDirectory(dir=cache) as scratch:
        digest = str(client.version(reference).digest)
        package = _whole(cache / digest.removeprefix("sha256:"))
        if package is None:
            packed = Path(scratch, f"fetched{SUFFIX}")
            client.download(reference, packed)
            package = _cached(cache, packed)
    if package.digest != digest:
        raise PackageInvalid(
            "the control plane sent a different package than announced",
            code="package-damaged",
            hint="try again; if it fails again, the control plane's blob store is damaged",
        )
    return package


def _whole(folder: Path) -> Package | None:
    """The package in `folder`, or None when it is missing or damaged."""
    try:
        return open_package(folder) if folder.is_dir() else None
    except PackageInvalid:
        return None
