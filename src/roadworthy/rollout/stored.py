"""How plans, states and evidence lie in the store: as plain JSON values, with the number of their format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

Stored = TypeVar("Stored", bound=msgspec.Struct)


def read_stored(document: Mapping[str, Any], kind: type[Stored], form: int, name: str, article: str) -> Stored:
    """The `kind` that the document describes. `form` is the format that this release knows; errors use `name` and `article`, such
    as "plan" and "a plan".

    Raises:
        ValueError: not such a document, or a format that this release does not know.
    """
    if document.get("format") != form:
        raise ValueError(f"unknown {name} format {json.dumps(document.get('format'))}; this release knows {form}")
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"not {article}: {error}") from error
