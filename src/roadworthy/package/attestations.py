"""Statements *about* a package: measured speeds, preferred runtime, where it was packed. The digest does not cover them.

Each is a JSON document in attestations/ that names the package's digest; one with another digest is refused on reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadworthy.foundation.errors import PackageInvalid
from roadworthy.foundation.files import write_atomic

FOLDER = "attestations"
COMPILE = "compile"
PROOF = "proof"
PROVENANCE = "provenance"
MAX_BYTES = 1 << 20
MAX_NUMBER = 64


def write_attestation(folder: Path, kind: str, digest: str, document: Mapping[str, Any]) -> None:
    """Write an attestation into the unpacked package in `folder`, replacing an older one of that kind."""
    (folder / FOLDER).mkdir(exist_ok=True)
    body = json.dumps({"digest": digest, **document}, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(folder / FOLDER / f"{kind}.json", body.encode())


def read_attestation(data: bytes, digest: str) -> dict[str, Any]:
    """Parse one attestation file.

    Raises:
        PackageInvalid: "attestation-invalid": unreadable, or about another package.
    """
    try:
        document = json.loads(data)
        if isinstance(document, dict) and document.get("digest") == digest:
            return document
    except (ValueError, RecursionError):
        pass
    raise PackageInvalid(
        f"an attestation of the package is unreadable or does not name its digest, {digest}",
        code="attestation-invalid",
        hint="fetch the package again, or pack the model again",
    )
