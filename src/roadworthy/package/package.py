"""A package as it can be seen without running anything of it. `archive.py` opens one; `audit.py` and `construct.py` go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from roadworthy.package.attestations import COMPILE
from roadworthy.package.files import Files, damaged, hash_blocks
from roadworthy.package.golden import read_golden
from roadworthy.package.manifest import Manifest, RuntimeEntry
from roadworthy.package.runtimes import withheld
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature

PROFILE = "profile.json"
CARD = "card.json"


@dataclass(frozen=True)
class Package:
    """A verified package: every file is as it was sealed. Nothing of it was imported or executed.

    Attributes:
        path: the .rw file or the folder that it was opened from.
        manifest: what the digest covers.
        attestations: what was said about it, by kind; each names the digest. Not covered by it, so nothing that decides about
            trust rests on them.
        files: where its bytes are read from.
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
        """Names of the runtimes that may serve, the one that does first."""
        usable = [entry.name for entry in self.manifest.runtimes if entry.name not in self.withheld]
        preferred = [name for name in self._preferences() if name in usable]
        return tuple(dict.fromkeys([*preferred, *usable])) or (self.manifest.runtimes[0].name,)

    @property
    def withheld(self) -> Mapping[str, str]:
        """Runtimes that are in the package and may not serve, with the reason."""
        said = {entry.name: withheld(entry) for entry in self.manifest.runtimes}
        return MappingProxyType({name: reason for name, reason in said.items() if reason is not None})

    @property
    def serving(self) -> RuntimeEntry:
        """The runtime that serves unless another is asked for."""
        entry = self.manifest.runtime(self.runtimes[0])
        return entry if entry is not None else self.manifest.runtimes[0]

    @property
    def carries_code(self) -> bool:
        """Whether serving it, or its rules, executes code out of the package, so that its digest must be allowed by name."""
        return self.serving.needs_code or bool(self.manifest.rules)

    @property
    def rules(self) -> tuple[str, ...]:
        """Names of the functions that may answer where the model cannot."""
        return tuple(rule.name for rule in self.manifest.rules)

    @property
    def folder(self) -> Path | None:
        """The unpacked folder, or None for a packed file."""
        return self.path if self.path.is_dir() else None

    @property
    def card(self) -> Mapping[str, str]:
        """What its maker said about it, by heading."""
        return MappingProxyType({key: str(value) for key, value in self._document(CARD).items()})

    @property
    def profile(self) -> Mapping[str, Any]:
        """The training data in fixed bins and counts."""
        return MappingProxyType(self._document(PROFILE))

    def read(self, path: str) -> bytes:
        """All bytes of one sealed file, hashed again: they may have changed since the package was opened.

        Raises:
            PackageInvalid: code "package-damaged".
        """
        entry = next((entry for entry in self.manifest.files if entry.path == path), None)
        if entry is None:
            raise damaged(path)
        with self.files.open(path) as handle:
            data = handle.read(entry.size_bytes + 1)
        if hash_blocks([data]) != entry.sha256:
            raise damaged(path)
        return data

    def golden(self) -> tuple[Batch, Batch]:
        """Sample inputs, and the answers that the training process gave for them; read from the files at each call."""
        return read_golden(self.signature, self.read)

    def _document(self, path: str) -> dict[str, Any]:
        """A sealed JSON object. Whoever sealed it may have written anything."""
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
