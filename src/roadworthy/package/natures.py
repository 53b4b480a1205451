"""What a package's files are, set against what its manifest says of them. Neither it nor who packed it is believed.

Whether files are code follows from the framework and the bytes (`Framework.examine`). `archive.py` asks wherever a package is
opened, `construct.py` once more about the very bytes that it loads, `runtime/placement.py` about where they may run.
"""

from __future__ import annotations

from collections.abc import Collection

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.errors import PackageInvalid
from roadworthy.frameworks.code import examine_callable
from roadworthy.frameworks.discovery import framework_named, frameworks
from roadworthy.frameworks.framework import FormatMismatch, Nature
from roadworthy.package.golden import INPUTS, OUTPUTS
from roadworthy.package.manifest import Manifest, RuntimeEntry
from roadworthy.package.package import CARD, PROFILE, Package
from roadworthy.package.runtimes import NATIVE

_NATURES: dict[tuple[object, ...], Nature] = {}
_MOST_NATURES = 1_000


class SealedFiles:
    """The files of one folder of a package, as `ModelFiles`. Each is hashed as it is read, and read once: what was examined is
    what is loaded, whatever happens to the file in between."""

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
            PackageInvalid: "package-damaged": the file is not there, or not as it was sealed.
        """
        if name not in self._read:
            self._read[name] = self._package.read(self._prefix + name)
        return self._read[name]


def examine(package: Package, entry: RuntimeEntry, files: SealedFiles) -> Nature:
    """What a runtime's files are. It rests on their hashes alone, so equal ones are examined once in a process; whoever loads
    them reads them through `files`, which holds them to those hashes.

    Raises:
        PackageInvalid: "manifest-invalid": the manifest says something else of them.
        PackageRefused: "unknown-framework".
    """
    framework = framework_named(entry.framework)
    sealed = tuple((f.path, f.sha256) for f in package.manifest.files if f.path.startswith(f"{entry.folder}/"))
    key = entry.framework, entry.folder, canonical_json(dict(entry.options)), sealed
    found = _NATURES.get(key)
    if found is None:
        try:
            found = framework.examine(files, entry.options)
        except FormatMismatch as error:
            raise _contradicted(f"the runtime {entry.name} is no model of {entry.framework}: {error}") from error
        while len(_NATURES) >= _MOST_NATURES:
            _NATURES.pop(next(iter(_NATURES)), None)
        _NATURES[key] = found
    said, is_so = (entry.carries_code, entry.trust), (found.carries_code, found.trust)
    if said != is_so:
        raise _contradicted(
            f"of the runtime {entry.name} the manifest says {_in_words(*said)}, and its {entry.framework} files are "
            f"{_in_words(*is_so)}"
        )
    return found


def check_natures(package: Package) -> None:
    """Pass a package whose manifest says of every file what it is. A runtime of a framework that this release does not know is
    let through here: it is shown, and never constructed.

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
            raise _contradicted(f"{folder} is no function: {error}") from error


def _check_uses(manifest: Manifest) -> None:
    """Every file has a use that the manifest tells, and the original runs behind the preprocessing that lies there."""
    code = manifest.preprocess
    original = next((entry for entry in manifest.runtimes if entry.name == NATIVE), None)
    if original is not None and original.preprocess != (code is not None):
        raise _contradicted("it says of the original that no preprocessing comes before it, and there is some")
    used = tuple(f"{folder}/" for folder in (*(entry.folder for entry in manifest.runtimes), *_code_folders(manifest)))
    known = {PROFILE, CARD, INPUTS, OUTPUTS}
    stray = next((f.path for f in manifest.files if f.path not in known and not f.path.startswith(used)), None)
    if stray is not None:
        raise _contradicted(f"the file {stray} has no use that it tells")


def _code_folders(manifest: Manifest) -> list[str]:
    code = manifest.preprocess
    return [*([] if code is None else [code.folder]), *(rule.folder for rule in manifest.rules)]


def _in_words(carries_code: bool, trust: str) -> str:
    return f"{'code' if carries_code else 'no code'}, of the trust {trust[:40]!r}"


def _contradicted(what: str) -> PackageInvalid:
    return PackageInvalid(
        f"the package's manifest contradicts its files: {what}",
        code="manifest-invalid",
        hint="do not use this package; ask whoever sent it where it came from, or pack the model again",
    )
