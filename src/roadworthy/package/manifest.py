"""What a package is, as one canonical document. Its SHA-256 is the package's digest.

Written by `pack.py`, read by `archive.py`; everything else about a package hangs on it. FORMAT is one integer. To change the
format: raise FORMAT, keep the reader of the old number in _READERS, write the difference into docs/package-format.md, and keep
a package of the old format in tests/formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roadworthy.foundation.canonical import canonical_json, digest_bytes
from roadworthy.foundation.errors import PackageInvalid, RoadworthyError
from roadworthy.foundation.references import check_digest, check_name
from roadworthy.package.files import FileEntry, check_member
from roadworthy.schema.signature import USUAL, Container, Signature

FORMAT = 3
"""The newest, in which packages are written."""
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20

_RUNTIME_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
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

    folder: str
    options: Mapping[str, Any]
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """A function that answers where the model cannot. Since format 2.

    Attributes:
        name: what policies call it.
        folder: where it lies in the package.
        options: what its loader needs besides the files.
        requirements: names of the distributions that it imports; their versions are in Manifest.requirements.
    """

    name: str
    folder: str
    options: Mapping[str, Any]
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuntimeEntry:
    """One way to run the package that was found equal to the original.

    Attributes:
        name: "native" for the original; others as the compiler names them.
        framework: which framework file loads it.
        folder: where its files lie in the package.
        options: what the framework needs besides the files.
        trust: "data", "skops" or "pickle": how far its files must be trusted.
        carries_code: loading it can execute what its files say.
        preprocess: it takes rows after the package's preprocessing code, which must then run too.
        requirements: names of the distributions that it needs; their versions are in Manifest.requirements.
    """

    name: str
    framework: str
    folder: str
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
    """How far floats may differ and still be equal, as exact text."""

    relative: str = "1e-05"
    absolute: str = "1e-06"


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that the digest covers.

    Attributes:
        name: the model's name.
        python: minor version of Python that packed it, "3.11".
        signature: raw inputs and answers.
        files: every file but the manifest and the attestations, sorted by path.
        requirements: exact versions of what any runtime or the preprocessing needs, sorted by name.
        runtimes: the ways to run it; "native" is the first.
        preprocess: the user's code before the model, or None.
        tolerance: what equal means for this package's golden examples.
        rules: functions that answer where the model cannot, sorted by name.
        format: the number of the format in which it is written. Format 1 knows no rules, 2 has at least one; both leave the form
            of the training rows open, where 3 notes it (`Field.missing`, `Field.element`, `Signature.form`).
    """

    name: str
    python: str
    signature: Signature
    files: tuple[FileEntry, ...]
    requirements: tuple[Requirement, ...]
    runtimes: tuple[RuntimeEntry, ...]
    preprocess: CodeEntry | None = None
    tolerance: Tolerance = Tolerance()
    rules: tuple[RuleEntry, ...] = ()
    format: int = FORMAT

    def encode(self) -> bytes:
        """The bytes of manifest.json: the same for equal manifests."""
        return canonical_json(self.to_document())

    @property
    def digest(self) -> str:
        """`sha256:` and the hash of `encode()`."""
        return digest_bytes(self.encode())

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values without floats."""
        code = self.preprocess
        document: dict[str, Any] = {
            "format": self.format,
            "name": self.name,
            "python": self.python,
            "signature": self.signature.to_document(),
            "files": [{"path": f.path, "sha256": f.sha256, "size": f.size_bytes} for f in self.files],
            "requirements": [{"name": r.name, "version": r.version} for r in self.requirements],
            "runtimes": [_runtime_document(entry) for entry in self.runtimes],
            "preprocess": code
            and {"folder": code.folder, "options": dict(code.options), "requirements": list(code.requirements)},
            "tolerance": {"relative": self.tolerance.relative, "absolute": self.tolerance.absolute},
        }
        if self.format > 1:
            document["rules"] = [_rule_document(rule) for rule in self.rules]
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
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError("the format is an integer")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _invalid() from error
    if number > FORMAT:
        raise PackageInvalid(
            f"the package has format {number}, this release reads up to {FORMAT}",
            code="package-format-newer",
            hint="upgrade roadworthy here, or pack the model again with this release",
            facts={"format": number, "known": FORMAT},
        )
    reader = _READERS.get(number)
    if reader is None:
        raise _invalid()
    try:
        if canonical_json(document) != data:
            raise ValueError("the manifest is not in canonical form")
        return _exactly(reader(document), data)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, RoadworthyError) as error:
        raise _invalid() from error


def _exactly(manifest: Manifest, data: bytes) -> Manifest:
    """Refuse what was read but would not be written: the digest of what is kept would not be that of the file."""
    if manifest.encode() != data:
        raise ValueError("the manifest says what its format does not know")
    return manifest


def _read_format_1(document: dict[str, Any]) -> Manifest:
    return _read_whole(document, 1, ())


def _read_format_2(document: dict[str, Any]) -> Manifest:
    return _read_whole(document, 2, document["rules"])


def _read_format_3(document: dict[str, Any]) -> Manifest:
    return _read_whole(document, 3, document["rules"])


def _read_whole(document: dict[str, Any], number: int, rules: Sequence[dict[str, Any]]) -> Manifest:
    code = document["preprocess"]
    tolerance = document["tolerance"]
    manifest = Manifest(
        name=check_name(_text(document["name"])),
        python=_matching(_PYTHON, document["python"]),
        signature=Signature.from_document(document["signature"]),
        files=tuple(
            FileEntry(check_member(_text(item["path"])), check_digest(_text(item["sha256"])), _size(item["size"]))
            for item in document["files"]
        ),
        requirements=tuple(Requirement(_text(r["name"]), _text(r["version"])) for r in document["requirements"]),
        runtimes=tuple(_read_runtime(item) for item in document["runtimes"]),
        preprocess=None if code is None else _read_code(code),
        tolerance=Tolerance(_float_text(tolerance["relative"]), _float_text(tolerance["absolute"])),
        rules=tuple(_read_rule(item) for item in rules),
        format=number,
    )
    _check_whole(manifest)
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
        raise ValueError("format 2 has rules")
    if manifest.format < 3 and _notes_a_form(manifest.signature):
        raise ValueError("the form of training rows is of format 3")
    if rules != sorted(set(rules)):
        raise ValueError("rules are listed once each, in order")
    if paths != sorted(paths) or len({path.casefold() for path in paths}) != len(paths):
        raise ValueError("files are listed once each, in order")
    if not names or len(set(names)) != len(names):
        raise ValueError("a package has runtimes of different names")
    if not needed <= locked:
        raise ValueError("a requirement has no version")
    if manifest.preprocess is None and any(entry.preprocess for entry in manifest.runtimes):
        raise ValueError("a runtime needs preprocessing that is not there")


def _notes_a_form(signature: Signature) -> bool:
    fields = (*signature.inputs, *signature.outputs)
    noted = any(field.missing is not None or field.element is not None for field in fields)
    return noted or signature.form != USUAL or signature.container is Container.LISTS


def _read_runtime(item: dict[str, Any]) -> RuntimeEntry:
    return RuntimeEntry(
        name=_matching(_RUNTIME_NAME, item["name"]),
        framework=_text(item["framework"]),
        folder=check_member(_text(item["folder"])),
        options=dict(item["options"]),
        trust=_text(item["trust"]),
        carries_code=_flag(item["carries_code"]),
        preprocess=_flag(item["preprocess"]),
        requirements=tuple(_text(name) for name in item["requirements"]),
    )


def _read_rule(item: dict[str, Any]) -> RuleEntry:
    code = _read_code(item)
    return RuleEntry(_matching(_RUNTIME_NAME, item["name"]), code.folder, code.options, code.requirements)


def _rule_document(rule: RuleEntry) -> dict[str, Any]:
    return {
        "name": rule.name,
        "folder": rule.folder,
        "options": dict(rule.options),
        "requirements": list(rule.requirements),
    }


def _read_code(item: dict[str, Any]) -> CodeEntry:
    return CodeEntry(
        folder=check_member(_text(item["folder"])),
        options=dict(item["options"]),
        requirements=tuple(_text(name) for name in item["requirements"]),
    )


def _runtime_document(entry: RuntimeEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "framework": entry.framework,
        "folder": entry.folder,
        "options": dict(entry.options),
        "trust": entry.trust,
        "carries_code": entry.carries_code,
        "preprocess": entry.preprocess,
        "requirements": list(entry.requirements),
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not pattern.fullmatch(_text(value)):
        raise ValueError("text of another form was expected")
    return str(value)


def _float_text(value: object) -> str:
    number = float(_text(value))
    if not 0 <= number < float("inf"):
        raise ValueError("a tolerance is finite and not negative")
    return str(value)


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a size is a whole number of bytes")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("expected true or false")
    return value


def _invalid() -> PackageInvalid:
    return PackageInvalid(
        "the package's manifest cannot be read",
        code="manifest-invalid",
        hint="it was damaged on its way: fetch or pack it again",
    )


_READERS: dict[int, Callable[[dict[str, Any]], Manifest]] = {
    1: _read_format_1,
    2: _read_format_2,
    3: _read_format_3,
}
