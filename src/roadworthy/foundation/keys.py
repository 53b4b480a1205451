"""The text of API keys: `rw_`, a public id of 8 characters, `_`, and 40 random characters.

A key has about 230 random bits, so it is stored as a plain SHA-256: no slow hash is needed.
"""

from __future__ import annotations

import hashlib
import secrets
import string

_NAME_ALPHABET = string.ascii_lowercase + string.digits
_SECRET_ALPHABET = string.ascii_letters + string.digits


def make_key() -> tuple[str, str]:
    """A new public id, `key-…`, and the whole key text."""
    name = "".join(secrets.choice(_NAME_ALPHABET) for _ in range(8))
    secret = "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(40))
    return f"key-{name}", f"rw_{name}_{secret}"


def key_id(text: str) -> str:
    """The public id in a key's text.

    Raises:
        ValueError: `text` is not a key.
    """
    mark, _, rest = text.partition("_")
    name, _, secret = rest.partition("_")
    if mark != "rw" or len(name) != 8 or not secret:
        raise ValueError("not a key")
    return f"key-{name}"


def hash_key(text: str) -> str:
    """Hex SHA-256 of a key's whole text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
