"""The manifest of a package: one canonical document whose SHA-256 is the package's digest.

The classes declare the form, and `read_manifest` and `Manifest.to_document` follow them. FORMAT is one integer. To change the
format: raise FORMAT, say in `to_document` and `_check_whole` what the old number may not hold, write the difference into
docs/package-format.md, and keep a package of the old format in tests/formats.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from roadworthy.foundation.canonical import canonical_json, digest_bytes
from roadworthy.foundation.documents import Given, Reader, listed, plain
from roadworthy.foundation.errors import PackageInvalid, RoadworthyError
from roadworthy.foundation.references import check_name
from roadworthy.package.files import FileEntry, check_member
from roadworthy.schema.signature import USUAL, Container, Signature

FORMAT = 4
"""The newest format. Only packages of models that answer in parts need it: others are written in `FORMAT_AT_ONCE`, which earlier
releases read."""
FORMAT_AT_ONCE = 3
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20

_ENTRY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_PYTHON = re.compile(r"3\.[0-9]{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A distribution and the exact version that was installed when the package was made."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class CodeEntry:
    """The user's preprocessing code.

    Attributes:
        folder: where it lies in the package.
        options: what its loader needs besides the files.
        requirements: names of the distributions that it imports; their versions are in Manifest.requirements.
    """

    folder: Annotated[str, check_member]
    options: Mapping[str, Any]
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """A function that answers when the model cannot. Since format 2.

    Attributes:
        name: by which policies refer to it.
        folder: where it lies in the package.
        options: what its loader needs besides the files.
        requirements: names of the distributions that it imports; their versions are in Manifest.requirements.
    """

    name: Annotated[str, _check_entry_name]
    folder: Annotated[str, check_member]
    options: Mapping[str, Any]
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuntimeEntry:
    """One way to run the package that was found equal to the original.

    Attributes:
        name: "native" for the original; others as the compiler names them.
        framework: the framework that loads it.
        folder: where its files lie in the package.
        options: what the framework needs besides the files.
        trust: "data", "skops" or "pickle": how far its files must be trusted.
        carries_code: loading it can execute code from its files.
        preprocess: it takes the output of the package's preprocessing code, which must then run too.
        requirements: names of the distributions that it needs; their versions are in Manifest.requirements.
    """

    name: Annotated[str, _check_entry_name]
    framework: str
    folder: Annotated[str, check_member]
    options: Mapping[str, Any]
    trust: str
    carries_code: bool
    preprocess: bool
    requirements: tuple[str, ...]

    @property
    def needs_code(self) -> bool:
        """Whether running it executes code from the package: then its digest must be allowed by name."""
        return self.carries_code or self.preprocess


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much floats may differ and still count as equal, as exact text."""

    relative: Annotated[str, _check_tolerance] = "1e-05"
    absolute: Annotated[str, _check_tolerance] = "1e-06"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that the digest covers.

    Attributes:
        name: the model's name.
        python: minor version of Python that packed it, "3.11".
        signature: columns or tensors of the raw inputs and of the answers.
        files: every file but the manifest and the attestations, sorted by path.
        requirements: exact versions of what any runtime or the preprocessing needs, sorted by name.
        runtimes: the ways to run it; "native" is the first.
        preprocess: the user's code before the model, or None.
        tolerance: how closely the answers to the golden examples must match.
        rules: functions that answer when the model cannot, sorted by name.
        format: the number of the format in which it is written. Format 1 has no rules, format 2 at least one; neither describes
            the form of the training rows, which format 3 records (`Field.missing`, `Field.element`, `Signature.form`). Format 4
            is that of models that answer in parts (`Signature.parts`).
    """

    name: Annotated[str, check_name]
    python: Annotated[str, _check_python]
    signature: Annotated[Signature, Given(Signature.from_document)]
    files: tuple[FileEntry, ...]
    requirements: tuple[Requirement, ...]
    runtimes: tuple[RuntimeEntry, ...]
    preprocess: CodeEntry | None = None
    tolerance: Tolerance = Tolerance()
    rules: tuple[RuleEntry, ...] = ()
    format: int = FORMAT_AT_ONCE

    def encode(self) -> bytes:
        """The bytes of manifest.json: the same for equal manifests."""
        return canonical_json(self.to_document())

    @property
    def digest(self) -> str:
        """`sha256:` and the hash of `encode()`."""
        return digest_bytes(self.encode())

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values without floats."""
        document = {each.name: plain(getattr(self, each.name)) for each in fields(self)}
        if self.format == 1:
            del document["rules"]
        return document

    def runtime(self, name: str) -> RuntimeEntry | None:
        """The runtime of that name, or None."""
        return next((entry for entry in self.runtimes if entry.name == name), None)


def read_manifest(data: bytes) -> Manifest:
    """The manifest in the bytes of a manifest.json of any known format.

    Raises:
        PackageInvalid: "manifest-invalid", or "package-format-newer" when a later release wrote it.
    """
    try:
        document = json.loads(data)
        number = document["format"]
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError("expected the number of a format")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _invalid() from error
    if number > FORMAT:
        raise PackageInvalid(
            f"the package has format {number}, this release reads up to {FORMAT}",
            code="package-format-newer",
            hint="upgrade roadworthy here, or pack the model again with this release",
            facts={"format": number, "known": FORMAT},
        )
    try:
        if canonical_json(document) != data:
            raise ValueError("the manifest is not in canonical form")
        return _read(document, data)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, RoadworthyError) as error:
        raise _invalid() from error


def _read(document: object, data: bytes) -> Manifest:
    reader = Reader()
    found = reader.table(Manifest, document)
    if reader.faults:
        raise ValueError(listed(reader.faults))
    manifest = Manifest(**found)
    _check_whole(manifest)
    if manifest.encode() != data:  # the digest of what is kept would differ from that of the file
        raise ValueError("the manifest has a key that its format does not know, or lacks one")
    return manifest


def _check_whole(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    names = [entry.name for entry in manifest.runtimes]
    locked = {requirement.name for requirement in manifest.requirements}
    needed = {name for entry in manifest.runtimes for name in entry.requirements}
    needed.update(manifest.preprocess.requirements if manifest.preprocess else ())
    needed.update(name for rule in manifest.rules for name in rule.requirements)
    rules = [rule.name for rule in manifest.rules]
    if manifest.format == 2 and not rules:
        raise ValueError("a manifest of format 2 needs at least one rule")
    if manifest.format < 3 and _notes_a_form(manifest.signature):
        raise ValueError("only format 3 describes the form of the training rows")
    if (manifest.format == 4) != manifest.signature.parts:
        raise ValueError("format 4 is that of models that answer in parts")
    if rules != sorted(set(rules)):
        raise ValueError("expected the rules in order of their names, each once")
    if paths != sorted(paths) or len({path.casefold() for path in paths}) != len(paths):
        raise ValueError("expected the files in order of their paths, each once")
    if not names or len(set(names)) != len(names):
        raise ValueError("expected at least one runtime, and no two of one name")
    if not needed <= locked:
        raise ValueError("a required distribution has no version")
    if manifest.preprocess is None and any(entry.preprocess for entry in manifest.runtimes):
        raise ValueError("a runtime needs preprocessing code, but the package has none")


def _notes_a_form(signature: Signature) -> bool:
    fields = (*signature.inputs, *signature.outputs)
    noted = any(field.missing is not None or field.element is not None for field in fields)
    return noted or signature.form != USUAL or signature.container is Container.LISTS


def _check_entry_name(text: str) -> str:
    if not _ENTRY_NAME.fullmatch(text):
        raise ValueError("expected a name of at most 64 of a-z, 0-9, '.', '_' and '-'")
    return text


def _check_python(text: str) -> str:
    if not _PYTHON.fullmatch(text):
        raise ValueError("expected a minor version of Python 3, such as 3.11")
    return text


def _check_tolerance(text: str) -> str:
    if not 0 <= float(text) < math.inf:
        raise ValueError("expected a finite number that is not negative, as text")
    return text


def _invalid() -> PackageInvalid:
    return PackageInvalid(
        "the package's manifest cannot be read",
        code="manifest-invalid",
        hint="it was damaged in transfer: fetch it or pack it again",
    )
