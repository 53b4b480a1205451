"""Checks a package's files against the manifest's statements about them. Neither the manifest nor its author is trusted.

The framework decides from the bytes whether files are code (`Framework.examine`). `archive.py` checks every package that is
opened, `construct.py` checks again the bytes that it loads, and `runtime/placement.py` decides where they may run.
"""

from __future__ import annotations

from collections.abc import Collection

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.errors import PackageInvalid, RoadworthyError
from roadworthy.frameworks.code import examine_callable
from roadworthy.frameworks.discovery import examine_files, framework_named, frameworks
from roadworthy.frameworks.framework import FormatMismatch, Nature
from roadworthy.package.files import DO_NOT_USE
from roadworthy.package.golden import INPUTS, OUTPUTS, PARTS
from roadworthy.package.manifest import Manifest, RuntimeEntry
from roadworthy.package.package import CARD, PROFILE, Package
from roadworthy.package.runtimes import NATIVE

_NATURES: dict[tuple[object, ...], Nature] = {}
_MOST_NATURES = 1_000


class SealedFiles:
    """The files of one folder of a package, as `ModelFiles`. Each file is read and hashed once, so the bytes that were examined
    are the bytes that are loaded, even if the file changes in between."""

    def __init__(self, package: Package, folder: str) -> None:
        self._package = package
        self._prefix = f"{folder}/"
        self._read: dict[str, bytes] = {}

    @property
    def names(self) -> Collection[str]:
        """Paths below the folder."""
        paths = (entry.path for entry in self._package.manifest.files)
        return [path.removeprefix(self._prefix) for path in paths if path.startswith(self._prefix)]

    def read(self, name: str) -> bytes:
        """The sealed bytes.

        Raises:
            PackageInvalid: "package-damaged": the file is missing, or differs from the sealed one.
        """
        if name not in self._read:
            self._read[name] = self._package.read(self._prefix + name)
        return self._read[name]


def examine(package: Package, entry: RuntimeEntry, files: SealedFiles) -> Nature:
    """Determine what a runtime's files are. The result depends on their hashes alone, so equal files are examined once per
    process. The caller loads them through `files`, which verifies those hashes.

    Raises:
        PackageInvalid: "manifest-invalid": the manifest describes them differently.
        PackageRefused: "unknown-framework".
    """
    framework = framework_named(entry.framework)
    sealed = tuple((f.path, f.sha256) for f in package.manifest.files if f.path.startswith(f"{entry.folder}/"))
    key = entry.framework, entry.folder, canonical_json(dict(entry.options)), sealed
    found = _NATURES.get(key)
    if found is None:
        try:
            found = examine_files(framework, files, entry.options)
        except FormatMismatch as error:
            raise _contradicted(f"the runtime {entry.name} is not a model of {entry.framework}: {error}") from error
        except (RoadworthyError, OSError):
            raise
        except Exception as error:  # a framework's reader may raise anything on files that are made to break it
            what = f"the runtime {entry.name} cannot be read as a model of {entry.framework}: {type(error).__name__}"
            raise _contradicted(what) from error
        while len(_NATURES) >= _MOST_NATURES:
            _NATURES.pop(next(iter(_NATURES)), None)
        _NATURES[key] = found
    said, is_so = (entry.carries_code, entry.trust), (found.carries_code, found.trust)
    if said != is_so:
        raise _contradicted(
            f"the manifest describes the runtime {entry.name} as {_in_words(*said)}, but its {entry.framework} files are "
            f"{_in_words(*is_so)}"
        )
    return found


def check_natures(package: Package) -> None:
    """Check that the manifest describes every file correctly. A runtime whose framework this release does not know passes: it
    can be shown, but never constructed.

    Raises:
        PackageInvalid: "manifest-invalid".
    """
    manifest = package.manifest
    _check_uses(manifest)
    for entry in manifest.runtimes:
        if entry.framework in frameworks():
            examine(package, entry, SealedFiles(package, entry.folder))
    for folder in _code_folders(manifest):
        try:
            examine_callable(SealedFiles(package, folder))
        except FormatMismatch as error:
            raise _contradicted(f"{folder} does not hold a function: {error}") from error


def _check_uses(manifest: Manifest) -> None:
    """Check that the manifest gives every file a use, and that the original runs behind any preprocessing in the package."""
    code = manifest.preprocess
    original = next((entry for entry in manifest.runtimes if entry.name == NATIVE), None)
    if original is not None and original.preprocess != (code is not None):
        raise _contradicted("it does not run the original behind the preprocessing that the package holds")
    used = tuple(f"{folder}/" for folder in (*(entry.folder for entry in manifest.runtimes), *_code_folders(manifest)))
    known = {PROFILE, CARD, INPUTS, OUTPUTS, *([PARTS] if manifest.signature.parts else [])}
    stray = next((f.path for f in manifest.files if f.path not in known and not f.path.startswith(used)), None)
    if stray is not None:
        raise _contradicted(f"it names no use for the file {stray}")


def _code_folders(manifest: Manifest) -> list[str]:
    code = manifest.preprocess
    return [*([] if code is None else [code.folder]), *(rule.folder for rule in manifest.rules)]


def _in_words(carries_code: bool, trust: str) -> str:
    return f"{'code' if carries_code else 'no code'} of trust {trust[:40]!r}"


def _contradicted(what: str) -> PackageInvalid:
    return PackageInvalid(
        f"the package's manifest contradicts its files: {what}",
        code="manifest-invalid",
        hint=f"{DO_NOT_USE}; or pack the model again",
    )
