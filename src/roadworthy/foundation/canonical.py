"""Canonical JSON (RFC 8785, for documents without floats) and SHA-256 digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def canonical_json(value: object) -> bytes:
    """Encode `value` so that equal documents give equal bytes: keys sorted by UTF-16 code units, no spaces, no floats.

    Raises:
        TypeError: a float, or any other value without an exact JSON form.
    """
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def _ordered(value: object) -> object:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError("keys of canonical JSON are strings")
        return {key: _ordered(value[key]) for key in sorted(value, key=lambda k: k.encode("utf-16-be"))}
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if abs(value) > 2**53 - 1:
            raise TypeError("integers beyond 2^53-1 have no exact JSON form")
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def digest_bytes(data: bytes) -> str:
    """`sha256:` and the hex digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_file(path: Path) -> str:
    """`sha256:` and the hex digest of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"
