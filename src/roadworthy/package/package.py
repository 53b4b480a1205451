"""The description of a package, available without executing any of it. `archive.py` opens one, `construct.py` loads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from roadworthy.foundation.files import read_at_most
from roadworthy.package.attestations import COMPILE
from roadworthy.package.files import Files, damaged, hash_blocks
from roadworthy.package.golden import golden_spans, read_golden
from roadworthy.package.manifest import Manifest, RuntimeEntry
from roadworthy.package.runtimes import withheld
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature

PROFILE = "profile.json"
CARD = "card.json"


@dataclass(frozen=True)
class Package:
    """A verified package: every file is as it was sealed. None of its code was imported or executed.

    Attributes:
        path: the .rw file or folder of the package.
        manifest: the part that the digest covers.
        attestations: statements about the package, by kind; each names the digest. The digest does not cover them, so no
            decision about trust uses them.
        files: the source of its bytes.
    """

    path: Path
    manifest: Manifest
    attestations: Mapping[str, Mapping[str, Any]]
    files: Files

    @property
    def digest(self) -> str:
        """`sha256:…` of the manifest."""
        return self.manifest.digest

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def signature(self) -> Signature:
        """Raw inputs and answers."""
        return self.manifest.signature

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Names of the runtimes that may serve; the one that serves is first."""
        usable = [entry.name for entry in self.manifest.runtimes if entry.name not in self.withheld]
        preferred = [name for name in self._preferences() if name in usable]
        return tuple(dict.fromkeys([*preferred, *usable])) or (self.manifest.runtimes[0].name,)

    @property
    def withheld(self) -> Mapping[str, str]:
        """Runtimes in the package that may not serve, by name, with the reason."""
        said = {entry.name: withheld(entry) for entry in self.manifest.runtimes}
        return MappingProxyType({name: reason for name, reason in said.items() if reason is not None})

    @property
    def serving(self) -> RuntimeEntry:
        """The runtime that serves unless another is requested."""
        entry = self.manifest.runtime(self.runtimes[0])
        return entry if entry is not None else self.manifest.runtimes[0]

    @property
    def carries_code(self) -> bool:
        """Whether serving the package or its rules executes code from it, which requires its digest to be allowed."""
        return self.serving.needs_code or bool(self.manifest.rules)

    @property
    def rules(self) -> tuple[str, ...]:
        """Names of the functions that may answer when the model cannot."""
        return tuple(rule.name for rule in self.manifest.rules)

    @property
    def folder(self) -> Path | None:
        """The unpacked folder, or None for a packed file."""
        return self.path if self.path.is_dir() else None

    @property
    def card(self) -> Mapping[str, str]:
        """The author's text about the model, by heading."""
        return MappingProxyType({key: str(value) for key, value in self._document(CARD).items()})

    @property
    def profile(self) -> Mapping[str, Any]:
        """The training data as counts in fixed bins."""
        return MappingProxyType(self._document(PROFILE))

    def read(self, path: str) -> bytes:
        """All bytes of one sealed file, hashed again because the file may have changed since the package was opened.

        Raises:
            PackageInvalid: code "package-damaged".
        """
        entry = next((entry for entry in self.manifest.files if entry.path == path), None)
        if entry is None:
            raise damaged(path)
        with self.files.open(path) as handle:
            data = read_at_most(handle, entry.size_bytes + 1)
        if hash_blocks([data]) != entry.sha256:
            raise damaged(path)
        return data

    def golden(self) -> tuple[Batch, Batch]:
        """Sample inputs and their answers in the training process; read from the files at each call."""
        return read_golden(self.signature, self.read)

    def examples(self) -> list[tuple[Batch, Batch]]:
        """Each golden example on its own: one row, and its answer or all parts of it."""
        inputs, outputs = self.golden()
        spans = golden_spans(self.read) if self.signature.parts else [(row, row + 1) for row in range(inputs.rows)]
        return [(inputs.slice(row, row + 1), outputs.slice(*span)) for row, span in enumerate(spans)]

    def _document(self, path: str) -> dict[str, Any]:
        """A sealed JSON object. Its content is not trusted."""
        try:
            document = json.loads(self.read(path))
        except (ValueError, RecursionError) as error:
            raise damaged(path) from error
        if not isinstance(document, dict):
            raise damaged(path)
        return document

    def _preferences(self) -> list[str]:
        preferred = self.attestations.get(COMPILE, {}).get("prefer", [])
        return [str(name) for name in preferred] if isinstance(preferred, list) else []
